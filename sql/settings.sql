-- Definitions and bounds travel between servers as text, and SQL in functions is read by the settings of whoever calls them:
-- none of ours may do it in the style of its caller's session, where 01/02/2024 is a day in January or in February, and
-- 1234567.1234567891 a shorter number. The list is that of src/settings.rs. shard_locate only reads a key, as its caller
-- writes it, and has to be fast. What they ask of the catalogs is planned as costly and answered in a moment: compiling it takes
-- longer than running it.
DO $$
DECLARE
    found regprocedure;
BEGIN
    FOR found IN
        SELECT d.objid FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'shardkeeper'
        JOIN pg_catalog.pg_proc p ON p.oid = d.objid
        WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.deptype = 'e' AND p.prokind = 'f'
          AND (p.proname LIKE 'shard%' OR p.prorettype = 'pg_catalog.event_trigger'::pg_catalog.regtype)
          AND p.proname <> 'shard_locate'
    LOOP
        EXECUTE pg_catalog.format(
            'ALTER FUNCTION %s SET TimeZone = ''UTC'' SET DateStyle = ''ISO, YMD'' SET IntervalStyle = ''postgres'' SET extra_float_digits = 3
                 SET bytea_output = ''hex'' SET lc_monetary = ''C'' SET xmloption = ''content'' SET array_nulls = on
                 SET transform_null_equals = off SET standard_conforming_strings = on SET quote_all_identifiers = off
                 SET row_security = on SET default_tablespace = '''' SET default_table_access_method = ''heap''
                 SET jit = off',
            found);
    END LOOP;
END
$$;

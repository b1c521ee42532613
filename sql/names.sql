-- Names beside a table: its indexes, sequences and statistics objects have theirs in a schema too, and a table that comes
-- into another schema brings them along. Where one is taken there, it gives way: nobody counts on the name of a leaf's index.
-- The same on the coordinator and on every node.

-- A name like `wanted` that no relation and no statistics object has in any of these schemas; `object` makes it differ.
CREATE OR REPLACE FUNCTION shardkeeper.free_name(wanted name, object oid, VARIADIC schemas name[]) RETURNS name
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    candidate name := wanted;
    stem text := wanted;
    ending text;
    attempt integer := 0;
BEGIN
    WHILE EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.relname = candidate AND n.nspname = ANY (schemas))
       OR EXISTS (SELECT FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
                  WHERE s.stxname = candidate AND n.nspname = ANY (schemas))
    LOOP
        ending := '_' || object || CASE WHEN attempt > 0 THEN '_' || attempt ELSE '' END;
        -- Between characters: the name stays text of the database's encoding.
        WHILE octet_length(stem) + octet_length(ending) > 63 LOOP
            stem := left(stem, -1);
        END LOOP;
        candidate := stem || ending;
        attempt := attempt + 1;
    END LOOP;
    RETURN candidate;
END
$$;
COMMENT ON FUNCTION shardkeeper.free_name(name, oid, name[]) IS
    'A name like the wanted one that nothing has in these schemas';

-- What has names of its own beside a table, and goes where the table goes.
CREATE OR REPLACE FUNCTION shardkeeper.named_beside(tables oid[]) RETURNS TABLE (catalog oid, object oid, schema name, name name, kind text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'pg_class'::regclass::oid, c.oid, n.nspname, c.relname, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'INDEX' END
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('i', 'I', 'S') AND c.oid IN (
        SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = ANY (tables)
        UNION ALL
        SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid = ANY (tables) AND d.deptype IN ('a', 'i'))
    UNION ALL
    -- A statistics object can be of another role than its table, and in another schema: then it stays where it is.
    SELECT 'pg_statistic_ext'::regclass::oid, s.oid, n.nspname, s.stxname, 'STATISTICS'
    FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace JOIN pg_class c ON c.oid = s.stxrelid
    WHERE s.stxrelid = ANY (tables) AND s.stxnamespace = c.relnamespace AND pg_has_role(s.stxowner, 'USAGE')
$$;
COMMENT ON FUNCTION shardkeeper.named_beside(oid[]) IS 'Indexes, sequences and statistics objects of tables';

-- Moves a table to another schema, with all that is named beside it.
CREATE OR REPLACE FUNCTION shardkeeper.relocate(moved regclass, destination name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    origin name;
    title name;
    passing name := 'shardkeeper_' || moved::oid;
    item record;
    free name;
BEGIN
    SELECT n.nspname, c.relname INTO origin, title
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = moved;
    FOR item IN SELECT b.object, b.name, b.kind FROM shardkeeper.named_beside(ARRAY[moved::oid]) AS b ORDER BY b.object LOOP
        free := shardkeeper.free_name(item.name, item.object, destination);
        IF free <> item.name THEN
            free := shardkeeper.free_name(item.name, item.object, origin, destination);
            EXECUTE format('ALTER %s %I.%I RENAME TO %I', item.kind, origin, item.name, free);
        END IF;
        IF item.kind = 'STATISTICS' THEN
            EXECUTE format('ALTER STATISTICS %I.%I SET SCHEMA %I', origin, free, destination);
        END IF;
    END LOOP;
    -- The type of its rows, and that of arrays of them, whose name is cut where the table's is long, come along as well.
    -- Postgres finds another name for the latter when a table is renamed, not when it moves.
    IF EXISTS (SELECT FROM pg_type t JOIN pg_type a ON a.oid = t.typarray
               JOIN pg_type other ON other.typname IN (t.typname, a.typname)
               JOIN pg_namespace n ON n.oid = other.typnamespace AND n.nspname = destination
               WHERE t.typrelid = moved)
    THEN
        EXECUTE format('ALTER TABLE %I.%I RENAME TO %I', origin, title, passing);
        EXECUTE format('ALTER TABLE %I.%I SET SCHEMA %I', origin, passing, destination);
        EXECUTE format('ALTER TABLE %I.%I RENAME TO %I', destination, passing, title);
    ELSE
        EXECUTE format('ALTER TABLE %I.%I SET SCHEMA %I', origin, title, destination);
    END IF;
END
$$;
COMMENT ON FUNCTION shardkeeper.relocate(regclass, name) IS
    'Moves a table to another schema with what is named beside it; what has a name that is taken there gets another one';

-- Lets these names be used in a schema for what they were given to: an index of ours that Postgres has named alike gives way.
CREATE OR REPLACE FUNCTION shardkeeper.make_way(place name, VARIADIC names name[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT c.oid, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = place AND c.relname = ANY (names) AND c.relkind IN ('i', 'I') AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        EXECUTE format('ALTER INDEX %I.%I RENAME TO %I', place, item.relname,
            shardkeeper.free_name(item.relname, item.oid, place));
    END LOOP;
END
$$;
COMMENT ON FUNCTION shardkeeper.make_way(name, name[]) IS 'Renames indexes of these names in a schema';

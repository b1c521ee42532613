-- Types and collations as JSON documents, each with the text that makes it again after its name, from `needed (class, id, depth)`.
-- search_path is pg_catalog, so definitions qualify every name that is not built in.
SELECT coalesce(json_agg(json_build_object('kind', kind, 'schema', n.nspname, 'name', name, 'extension', extension,
    'definition', definition, 'default', given) ORDER BY depth DESC, n.nspname, name), '[]')::text
FROM (
    SELECT CASE WHEN t.typtype = 'c' AND c.relkind <> 'c' THEN 'row' WHEN t.typtype IN ('e', 'c', 'd', 'r') THEN t.typtype::text ELSE 'b' END AS kind,
        t.typnamespace AS namespace, t.typname AS name, depth, 'pg_type'::regclass AS class, t.oid AS id,
        CASE t.typtype
            WHEN 'e' THEN 'AS ENUM (' || coalesce((SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid), '') || ')'
            WHEN 'c' THEN CASE WHEN c.relkind = 'c' THEN 'AS (' || coalesce((
                SELECT string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
                    || CASE WHEN a.attcollation NOT IN (0, ty.typcollation) THEN ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname) ELSE '' END,
                    ', ' ORDER BY a.attnum)
                FROM pg_attribute a JOIN pg_type ty ON ty.oid = a.atttypid
                LEFT JOIN pg_collation co ON co.oid = a.attcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
                WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '') || ')' END
            WHEN 'd' THEN 'AS ' || format_type(t.typbasetype, t.typtypmod)
                || coalesce((SELECT ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                             FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace, pg_type base
                             WHERE co.oid = t.typcollation AND base.oid = t.typbasetype AND base.typcollation <> co.oid), '')
                || CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
                || coalesce((SELECT string_agg(' CONSTRAINT ' || quote_ident(conname) || ' ' || pg_get_constraintdef(oid), '' ORDER BY conname)
                             FROM pg_constraint WHERE contypid = t.oid AND contype = 'c'), '')
            WHEN 'r' THEN (
                SELECT CASE WHEN r.rngcanonical = 0 THEN 'AS RANGE (SUBTYPE = ' || format_type(r.rngsubtype, NULL)
                    || CASE WHEN o.opcdefault THEN '' ELSE ', SUBTYPE_OPCLASS = ' || quote_ident(ns.nspname) || '.' || quote_ident(o.opcname) END
                    || coalesce((SELECT ', COLLATION = ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                                 FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace, pg_type sub
                                 WHERE co.oid = r.rngcollation AND sub.oid = r.rngsubtype AND sub.typcollation <> co.oid), '')
                    || CASE WHEN r.rngsubdiff = 0 THEN '' ELSE ', SUBTYPE_DIFF = ' || r.rngsubdiff::regproc END
                    || ', MULTIRANGE_TYPE_NAME = ' || quote_ident(mn.nspname) || '.' || quote_ident(m.typname) || ')' END
                FROM pg_range r JOIN pg_opclass o ON o.oid = r.rngsubopc JOIN pg_namespace ns ON ns.oid = o.opcnamespace
                JOIN pg_type m ON m.oid = r.rngmultitypid JOIN pg_namespace mn ON mn.oid = m.typnamespace
                WHERE r.rngtypid = t.oid)
        END AS definition,
        CASE WHEN t.typtype = 'd' AND NOT EXISTS (
            SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid
            AND d.refclassid IN ('pg_proc'::regclass, 'pg_class'::regclass)) THEN pg_get_expr(t.typdefaultbin, 0) END AS given
    FROM (SELECT id, max(depth) AS depth FROM needed WHERE class = 'pg_type'::regclass GROUP BY id) AS wanted
    JOIN pg_type t ON t.oid = wanted.id LEFT JOIN pg_class c ON c.oid = t.typrelid
    -- Arrays and multiranges come with their elements and ranges.
    WHERE NOT EXISTS (SELECT FROM pg_type element WHERE element.typarray = t.oid) AND t.typtype <> 'm'
    UNION ALL
    SELECT 'collation', c.collnamespace, c.collname, depth, 'pg_collation'::regclass, c.oid,
        '(PROVIDER = ' || CASE c.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END
        || CASE WHEN c.collprovider = 'c' THEN ', LC_COLLATE = ' || quote_literal(c.collcollate) || ', LC_CTYPE = ' || quote_literal(c.collctype)
                -- The column's name has changed from version to version.
                ELSE coalesce(', LOCALE = ' || quote_literal(coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale')), '') END
        || coalesce(', RULES = ' || quote_literal(to_jsonb(c) ->> 'collicurules'), '')
        || CASE WHEN c.collisdeterministic THEN '' ELSE ', DETERMINISTIC = false' END || ')', NULL
    FROM (SELECT id, max(depth) AS depth FROM needed WHERE class = 'pg_collation'::regclass GROUP BY id) AS wanted
    JOIN pg_collation c ON c.oid = wanted.id
) AS objects JOIN pg_namespace n ON n.oid = namespace
LEFT JOIN LATERAL (
    SELECT e.extname AS extension FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.classid = class AND d.objid = id AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e') AS member ON true

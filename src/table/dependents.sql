-- What else depends on the table $1 and would be lost or broken by making it anew: views, rules, foreign keys in either
-- direction, functions with a SQL body, columns of its row type, policies and triggers of other tables.
WITH owned AS (
    SELECT 'pg_constraint'::regclass AS classid, oid FROM pg_constraint
    WHERE conrelid = $1 AND contype NOT IN ('f')
    UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid = $1
    UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid = $1
    UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid = $1
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxrelid = $1
    UNION ALL SELECT 'pg_publication_rel'::regclass, oid FROM pg_publication_rel WHERE prrelid = $1
    UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = $1
    UNION ALL SELECT 'pg_class'::regclass, reltoastrelid FROM pg_class WHERE oid = $1
    UNION ALL SELECT 'pg_type'::regclass, reltype FROM pg_class WHERE oid = $1
    UNION ALL SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relkind = 'S'
    UNION ALL SELECT 'pg_class'::regclass, partition FROM unnest($2::oid[]) AS partition
), targets AS (
    SELECT 'pg_class'::regclass AS classid, $1 AS oid
    UNION ALL SELECT 'pg_type'::regclass, reltype FROM pg_class WHERE oid = $1
    UNION ALL SELECT 'pg_type'::regclass, t.typarray FROM pg_class c JOIN pg_type t ON t.oid = c.reltype WHERE c.oid = $1
), found AS (
    SELECT pg_describe_object(
               CASE WHEN r.oid IS NOT NULL AND r.ev_class <> $1 AND r.rulename = '_RETURN' THEN 'pg_class'::regclass ELSE d.classid END,
               CASE WHEN r.oid IS NOT NULL AND r.ev_class <> $1 AND r.rulename = '_RETURN' THEN r.ev_class ELSE d.objid END,
               CASE WHEN r.oid IS NOT NULL AND r.ev_class <> $1 AND r.rulename = '_RETURN' THEN 0 ELSE d.objsubid END) AS what
    FROM pg_depend d JOIN targets t ON d.refclassid = t.classid AND d.refobjid = t.oid
    LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    WHERE NOT EXISTS (SELECT FROM owned o WHERE o.classid = d.classid AND o.oid = d.objid)
      AND NOT (d.classid = 'pg_type'::regclass AND d.deptype = 'i')
      AND NOT (d.classid = 'pg_class'::regclass AND d.objid = $1)
      -- Checks of ours beside the table, which come and go with operations.
      AND NOT EXISTS (SELECT FROM pg_constraint k WHERE d.classid = 'pg_constraint'::regclass AND k.oid = d.objid AND k.conname LIKE 'shardkeeper\_%')
    UNION
    SELECT pg_describe_object('pg_constraint'::regclass, oid, 0) FROM pg_constraint
    WHERE contype = 'f' AND (conrelid = $1 OR confrelid = $1) AND conparentid = 0
    UNION
    SELECT 'extension ' || quote_ident(e.extname) || ', which owns it' FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = $1 AND d.deptype = 'e'
)
SELECT to_json(what)::text FROM found WHERE what IS NOT NULL ORDER BY what

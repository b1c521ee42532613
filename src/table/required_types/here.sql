-- `needed`: the types and collations that the tables $1, and what is on them, are made of, as far as they are not built in; each
-- with the length of the longest way to it. A default that the coordinator computes is not carried to nodes.
WITH RECURSIVE tables (id, root) AS (
    SELECT t.relid, root FROM unnest($1::oid[]) AS root, pg_partition_tree(root) AS t
    UNION SELECT root, root FROM unnest($1::oid[]) AS root
), parts (class, id) AS (
    SELECT 'pg_class'::regclass, id FROM tables
    UNION ALL SELECT 'pg_class'::regclass, x.indexrelid FROM tables JOIN pg_index x ON x.indrelid = tables.id
    UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM tables JOIN pg_constraint k ON k.conrelid = root
    UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid FROM tables JOIN pg_statistic_ext s ON s.stxrelid = root
    UNION ALL SELECT 'pg_attrdef'::regclass, v.oid FROM tables JOIN pg_attrdef v ON v.adrelid = root
        WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = v.oid
            AND d.refclassid IN ('pg_proc'::regclass, 'pg_class'::regclass) AND d.refobjid <> root)
), needed (class, id, depth) AS (
    SELECT d.refclassid, d.refobjid, 0 FROM parts p JOIN pg_depend d ON d.classid = p.class AND d.objid = p.id
    WHERE d.refclassid IN ('pg_type'::regclass, 'pg_collation'::regclass)
    UNION
    SELECT d.refclassid, d.refobjid, n.depth + 1
    FROM needed n JOIN pg_type t ON t.oid = n.id AND n.class = 'pg_type'::regclass LEFT JOIN pg_class c ON c.oid = t.typrelid
    JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid
        OR d.classid = 'pg_class'::regclass AND d.objid = t.typrelid AND c.relkind = 'c'
        OR d.classid = 'pg_constraint'::regclass AND d.objid IN (SELECT k.oid FROM pg_constraint k WHERE k.contypid = t.oid)
    WHERE d.refclassid IN ('pg_type'::regclass, 'pg_collation'::regclass) AND d.refobjid <> t.oid AND n.depth < 100
)

-- The views of hierarchies, and what psql shows about the functions for them.

CREATE VIEW shard_partitions AS
    SELECT p.parent, t.relid AS partition, t.parentrelid AS above, t.level,
           pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bounds, t.isleaf AS is_leaf,
           CASE WHEN t.isleaf THEN coalesce(s.srvname, 'local') END AS node, z.estimated_rows, z.bytes
    FROM shardkeeper.parents p
    CROSS JOIN LATERAL pg_catalog.pg_partition_tree(p.parent) AS t
    JOIN pg_catalog.pg_class c ON c.oid = t.relid
    LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = t.relid
    LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
    LEFT JOIN shard_partition_sizes() AS z ON z.partition = t.relid
    WHERE t.level > 0;
COMMENT ON VIEW shard_partitions IS
    'Partitions of managed parents at every level: bounds, node, and live sizes of leaves, asked of their servers';
GRANT SELECT ON shard_partitions TO PUBLIC;

CREATE VIEW shard_parents AS
    SELECT p.parent, pg_catalog.pg_get_userbyid(c.relowner) AS owner, pg_catalog.pg_get_partkeydef(p.parent) AS partition_key,
           count(t.relid) FILTER (WHERE t.isleaf AND t.level > 0) AS leaves, max(t.level) AS levels,
           pg_catalog.array_agg(DISTINCT coalesce(s.srvname, 'local'))
               FILTER (WHERE t.isleaf AND t.level > 0) AS nodes, p.spec, p.created_at
    FROM shardkeeper.parents p
    JOIN pg_catalog.pg_class c ON c.oid = p.parent
    CROSS JOIN LATERAL pg_catalog.pg_partition_tree(p.parent) AS t
    LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = t.relid
    LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver
    GROUP BY p.parent, c.relowner, p.spec, p.created_at;
COMMENT ON VIEW shard_parents IS 'Managed parents: key, number of leaves and levels, nodes, and the specification';
GRANT SELECT ON shard_parents TO PUBLIC;

-- Everybody may call these: what changes a hierarchy asks for the ownership of its parent, and acts on nodes with the
-- caller's own user mappings.
COMMENT ON FUNCTION shard_create_parent(regclass, jsonb, text, text[]) IS
    'Makes a table the root of the hierarchy in spec, on all servers: an empty one in this transaction, and returns NULL; a populated one online, and returns the operation id';
COMMENT ON FUNCTION shard_create_parent(regclass, text, text, integer, text, jsonb, text[], integer, boolean, text, text, numeric, jsonb, text, text, text, text[]) IS
    'Makes a table a parent with one level, as the other form does; key is a column, several with commas between, or an expression';
COMMENT ON FUNCTION shard_plan_parent(regclass, jsonb) IS
    'The commands that shard_create_parent would run, in order, with the node of each; changes nothing';
COMMENT ON FUNCTION shard_plan_parent(regclass, text, text, integer, text, jsonb, text[], integer, boolean, text, text, numeric, jsonb, text, text) IS
    'The commands that the one-level form of shard_create_parent would run with these arguments; changes nothing';
COMMENT ON FUNCTION shard_adopt_parent(regclass) IS
    'Takes a partitioned table that was built by hand under management, with its partitions here and on nodes; no rows move';
COMMENT ON FUNCTION shard_add_partition(regclass, jsonb, text, text[]) IS
    'Adds one partition with everything below it and returns it; bounds is {"from","to"}, {"in"}, {"modulus","remainder"} or {"default": true}';
COMMENT ON FUNCTION shard_detach_partition(regclass) IS
    'Takes a partition out of its hierarchy; it stays, with its rows, as a table of its own';
COMMENT ON FUNCTION shard_drop_partition(regclass, interval) IS
    'Drops a partition on its server; its rows are kept in the trash for keep, or for shardkeeper.trash_keep';
COMMENT ON FUNCTION shard_release_parent(regclass) IS 'Stops managing a parent; all tables stay as they are';
COMMENT ON FUNCTION shard_drop_parent(regclass, interval) IS
    'Drops a parent with all partitions on all servers; its rows are kept in the trash for keep, or for shardkeeper.trash_keep';
COMMENT ON FUNCTION shard_sync_grants(regclass) IS
    'Brings the rights of mapped roles on nodes in step with those on the parent';
COMMENT ON FUNCTION shard_locate(regclass, jsonb) IS
    'Which leaf stores a key, and on which server; key is an object with one member per partition key column';
COMMENT ON FUNCTION shard_tree(regclass, text) IS 'The picture of a hierarchy with bounds, nodes, rows and sizes, as text, mermaid or svg';
COMMENT ON FUNCTION shard_partition_sizes(regclass) IS
    'Live sizes of leaves, asked of the servers that store them: estimated rows, and bytes with indexes and TOAST';

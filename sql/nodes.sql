-- The view shard_nodes, and what psql shows about the functions for nodes.

CREATE VIEW shard_nodes AS
    SELECT n.name, false AS is_local, o.host, o.port, o.dbname, n.region,
           (SELECT count(*) FROM shardkeeper.partitions p
            JOIN pg_catalog.pg_foreign_table t ON t.ftrelid = p.partition WHERE t.ftserver = s.oid) AS leaves,
           n.added_at
    FROM shardkeeper.nodes n
    LEFT JOIN pg_catalog.pg_foreign_server s ON s.srvname = n.name
    LEFT JOIN LATERAL (
        SELECT pg_catalog.max(option_value) FILTER (WHERE option_name = 'host') AS host,
               pg_catalog.max(option_value) FILTER (WHERE option_name = 'port') AS port,
               pg_catalog.max(option_value) FILTER (WHERE option_name = 'dbname') AS dbname
        FROM pg_catalog.pg_options_to_table(s.srvoptions)
    ) AS o ON true
    UNION ALL
    SELECT 'local', true, NULL, pg_catalog.current_setting('port'), pg_catalog.current_database()::text, NULL,
           (SELECT count(*) FROM shardkeeper.partitions p
            JOIN pg_catalog.pg_class c ON c.oid = p.partition WHERE c.relkind = 'r'),
           NULL;
COMMENT ON VIEW shard_nodes IS 'Nodes: where each is and how many leaves it stores; local is the coordinator. Passwords are in the user mappings alone';
GRANT SELECT ON shard_nodes TO PUBLIC;

-- Everybody may call these: they act with the caller's rights, and with the caller's own user mappings on the nodes.
COMMENT ON FUNCTION shard_add_node(text, text, integer, text, text, text, text, jsonb) IS
    'Adds another Postgres database as a node: checks it, makes it ready, and creates its foreign server and the caller''s user mapping';
COMMENT ON FUNCTION shard_alter_node(text, text, integer, text, text, text, text, jsonb) IS
    'Changes how a node is reached, after trying it; NULL keeps what is, and without any change the node is made ready again';
COMMENT ON FUNCTION shard_drop_node(text) IS 'Forgets a node that stores no partition';
COMMENT ON FUNCTION shard_grant_node(text, regrole, text, text) IS 'Gives a role its user mapping for a node, and the rights there to use it';
COMMENT ON FUNCTION shard_run_on_nodes(text, text[]) IS
    'Runs statements on each node as the role of the caller''s user mapping: by itself in parallel, within a transaction as a part of it';
COMMENT ON FUNCTION shard_settle(text, uuid, text) IS
    'Settles what a transaction left in the journal of a node where the worker cannot know how it ended: keep or undo; returns the number of commands';
COMMENT ON FUNCTION shard_reset_node(text, boolean, text) IS
    'Frees a node of what is ours there and no longer known here; what has rows only with including_data, and to the trash';
COMMENT ON FUNCTION shard_plan_reset_node(text, boolean, text) IS 'What shard_reset_node would do, object by object; nothing is changed';

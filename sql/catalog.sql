-- The extension's own tables. Only the extension writes them; views in the extension's schema show them.

CREATE SCHEMA shardkeeper;
COMMENT ON SCHEMA shardkeeper IS 'shardkeeper: the catalog of nodes, hierarchies and transactions';
-- Event triggers run with the rights of whoever gives the command, and look for functions here. The tables stay closed.
GRANT USAGE ON SCHEMA shardkeeper TO PUBLIC;

CREATE TABLE shardkeeper.nodes (
    name name PRIMARY KEY,
    region text,
    identity text,
    added_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE shardkeeper.nodes IS
    'Nodes: the foreign server of the same name holds the address, the user mappings the credentials; identity is system identifier and database';

CREATE TABLE shardkeeper.parents (
    parent regclass PRIMARY KEY,
    spec jsonb NOT NULL,
    keys jsonb NOT NULL,
    dealt jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE shardkeeper.parents IS
    'Managed parents: the specification, what each leaf and mirror carries besides columns (keys, indexes, storage), and how many leaves each list of nodes was dealt';

-- What goes into dumps has no foreign keys: pg_restore with several jobs fills these tables in any order.
CREATE TABLE shardkeeper.partitions (
    partition regclass PRIMARY KEY,
    parent regclass NOT NULL,
    label text NOT NULL,
    above regclass,
    bounds text
);
COMMENT ON TABLE shardkeeper.partitions IS
    'Partitions of managed parents at every level, with the label that finds their part of the specification; above and bounds say where one was that is detached by hand';
CREATE INDEX partitions_parent ON shardkeeper.partitions (parent);

CREATE TABLE shardkeeper.detached (
    partition regclass NOT NULL,
    node name NOT NULL,
    schema name NOT NULL,
    name name NOT NULL,
    PRIMARY KEY (partition, node)
);
COMMENT ON TABLE shardkeeper.detached IS
    'Partitions that shard_detach_partition took out of their parents with rows on nodes, and their tables there';

CREATE TABLE shardkeeper.mirrors (
    parent regclass NOT NULL,
    node name NOT NULL,
    coordinator text NOT NULL,
    rights jsonb NOT NULL DEFAULT '[]',
    PRIMARY KEY (parent, node)
);
COMMENT ON TABLE shardkeeper.mirrors IS
    'The nodes that have a mirror of a parent, the coordinator that made it, and the rights that mapped roles were given there';

CREATE TABLE shardkeeper.transactions (
    id uuid NOT NULL,
    node name NOT NULL,
    xid xid8 NOT NULL,
    PRIMARY KEY (id, node)
);
CREATE INDEX transactions_xid ON shardkeeper.transactions (xid);
COMMENT ON TABLE shardkeeper.transactions IS
    'Transactions that sent commands to nodes and are not forgotten there. A row is visible only once its transaction committed here';

SELECT pg_catalog.pg_extension_config_dump('shardkeeper.nodes', '');
SELECT pg_catalog.pg_extension_config_dump('shardkeeper.parents', '');
SELECT pg_catalog.pg_extension_config_dump('shardkeeper.partitions', '');
SELECT pg_catalog.pg_extension_config_dump('shardkeeper.detached', '');
SELECT pg_catalog.pg_extension_config_dump('shardkeeper.mirrors', '');

-- An extension that was dropped left its foreign servers and session channels behind: those nodes are known again.
INSERT INTO shardkeeper.nodes (name)
SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_foreign_table t ON t.ftrelid = c.oid
JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver AND s.srvname = c.relname
WHERE c.relnamespace = pg_catalog.to_regnamespace('shardkeeper_nodes');

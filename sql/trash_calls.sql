-- The view of the trash, and what psql shows about the functions for it.

CREATE VIEW shard_trash AS
    SELECT node, "table", name, bytes, dropped_at::pg_catalog.timestamptz AS dropped_at,
           destroyed_at::pg_catalog.timestamptz AS destroyed_at, restore
    FROM shard_trash_tables();
COMMENT ON VIEW shard_trash IS
    'Tables that you dropped and that are still kept, on all servers: name in the trash, what each was, size, until when, and the call that brings it back';
GRANT SELECT ON shard_trash TO PUBLIC;

-- Everybody may call these: they act on what the caller owns here, and on nodes as the roles of the caller's user mappings.
COMMENT ON FUNCTION shard_trash_tables() IS 'What the view shard_trash shows';
COMMENT ON FUNCTION shard_restore_trash(text, text, text) IS
    'Brings a table out of the trash of its server as a table of its own, under its old name or another one';
COMMENT ON FUNCTION shard_empty_trash(interval) IS
    'Gives up what you dropped at least so long ago: here at once, on nodes once the transaction has committed';

-- A restored dump knows what is in its trash.
SELECT pg_catalog.pg_extension_config_dump('shardkeeper.trash', '');

-- Intervals are written down as text: whoever reads them later reads them alike.
ALTER FUNCTION shard_empty_trash(interval) SET IntervalStyle = 'postgres';
ALTER FUNCTION shard_empty_trash(interval) SET DateStyle = 'ISO, YMD';
ALTER FUNCTION shard_restore_trash(text, text, text) SET IntervalStyle = 'postgres';
ALTER FUNCTION shard_restore_trash(text, text, text) SET DateStyle = 'ISO, YMD';
ALTER FUNCTION shard_trash_tables() SET DateStyle = 'ISO, YMD';

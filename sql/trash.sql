-- The trash: dropped tables wait here until their keep time is over. The same on the coordinator and on every node.

CREATE TABLE IF NOT EXISTS shardkeeper.trash (
    relation name PRIMARY KEY,
    root name NOT NULL,
    schema name NOT NULL,
    name name NOT NULL,
    role name NOT NULL DEFAULT current_user,
    dropped_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    keep interval NOT NULL,
    xact xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id()
);
COMMENT ON TABLE shardkeeper.trash IS
    'Relations in the schema shardkeeper_trash, by their names there: where each came from, and how long it is kept. Tables, their indexes and sequences have a row each; root is the table that was dropped with them';

-- A role sees, restores and destroys what it dropped itself, and cannot say that another did.
ALTER TABLE shardkeeper.trash ENABLE ROW LEVEL SECURITY;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = 'shardkeeper.trash'::regclass AND polname = 'own') THEN
        CREATE POLICY own ON shardkeeper.trash USING (role = current_user) WITH CHECK (role = current_user);
    END IF;
END
$$;

-- Moves a table, with its partitions, indexes and sequences, out of the way. Names get the object identifier as a
-- suffix, so that generations of one table do not collide.
CREATE OR REPLACE FUNCTION shardkeeper.discard(root regclass, keep interval) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
    kept name;
    -- By names, and not by numbers: these are others in a restored dump.
    top CONSTANT name := shardkeeper.trash_name(c.relname, c.oid) FROM pg_class c WHERE c.oid = root;
BEGIN
    FOR item IN
        WITH tables AS (
            SELECT root::oid AS oid
            UNION
            SELECT relid FROM pg_partition_tree(root)
        )
        SELECT c.oid, n.nspname, c.relname, c.relkind
        FROM (
            SELECT oid FROM tables
            UNION ALL
            SELECT i.indexrelid FROM pg_index i JOIN tables t ON t.oid = i.indrelid
            UNION ALL
            SELECT d.objid FROM pg_depend d JOIN tables t ON d.refobjid = t.oid
            WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
              AND EXISTS (SELECT FROM pg_class s WHERE s.oid = d.objid AND s.relkind = 'S')
        ) AS o
        JOIN pg_class c USING (oid)
        JOIN pg_namespace n ON n.oid = c.relnamespace
        ORDER BY c.relkind IN ('r', 'p', 'f'), c.oid
    LOOP
        kept := shardkeeper.trash_name(item.relname, item.oid);
        INSERT INTO shardkeeper.trash (relation, root, schema, name, keep)
        VALUES (kept, top, item.nspname, item.relname, keep);
        EXECUTE format('ALTER %s %I.%I RENAME TO %I',
            CASE WHEN item.relkind IN ('i', 'I') THEN 'INDEX' WHEN item.relkind = 'S' THEN 'SEQUENCE'
                 WHEN item.relkind = 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END,
            item.nspname, item.relname, kept);
        IF item.relkind IN ('r', 'p', 'f') THEN
            EXECUTE format('ALTER %s %I.%I SET SCHEMA shardkeeper_trash',
                CASE WHEN item.relkind = 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END,
                item.nspname, kept);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION shardkeeper.discard(regclass, interval) IS 'Moves a table with its partitions to the trash';

-- At most 63 bytes, cut between characters, and never the name of another relation.
CREATE OR REPLACE FUNCTION shardkeeper.trash_name(name name, relation oid) RETURNS name
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (CASE WHEN octet_length(name::text) <= 52 THEN name::text
                 ELSE left(name::text, greatest(1, 52 * length(name::text) / octet_length(name::text) - 3)) END
            || '_' || relation)::name
$$;
COMMENT ON FUNCTION shardkeeper.trash_name(name, oid) IS 'The name of a relation in the trash';

-- Puts back what discard took away: the newest table of that name, with its partitions.
CREATE OR REPLACE FUNCTION shardkeeper.restore(from_schema name, from_name name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found name;
BEGIN
    SELECT t.root INTO found FROM shardkeeper.trash t
    JOIN pg_class c ON c.relname = t.relation AND c.relnamespace = to_regnamespace('shardkeeper_trash')
    WHERE t.relation = t.root AND t.schema = from_schema AND t.name = from_name
    ORDER BY t.dropped_at DESC LIMIT 1;
    IF found IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table',
            MESSAGE = format('table %I.%I is not in the trash', from_schema, from_name);
    END IF;
    PERFORM shardkeeper.take_back(found);
END
$$;
COMMENT ON FUNCTION shardkeeper.restore(name, name) IS 'Takes the newest table of that name out of the trash';

-- The same, of the table that has this name in the trash; under another name, if one is given. An index whose name was
-- taken meanwhile keeps the one that it has there.
CREATE OR REPLACE FUNCTION shardkeeper.take_back(dropped name, called name DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT t.relation, t.schema, t.name, c.relkind
        FROM shardkeeper.trash t
        JOIN pg_class c ON c.relname = t.relation AND c.relnamespace = to_regnamespace('shardkeeper_trash')
        WHERE t.root = dropped ORDER BY c.relkind IN ('r', 'p', 'f') DESC, c.oid
    LOOP
        IF item.relkind IN ('r', 'p', 'f') THEN
            EXECUTE format('ALTER %s shardkeeper_trash.%I SET SCHEMA %I',
                CASE WHEN item.relkind = 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, item.relation, item.schema);
        END IF;
        CONTINUE WHEN item.relkind IN ('i', 'I', 'S') AND to_regclass(format('%I.%I', item.schema, item.name)) IS NOT NULL;
        EXECUTE format('ALTER %s %I.%I RENAME TO %I',
            CASE WHEN item.relkind IN ('i', 'I') THEN 'INDEX' WHEN item.relkind = 'S' THEN 'SEQUENCE'
                 WHEN item.relkind = 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END,
            item.schema, item.relation, CASE WHEN item.relation = dropped THEN coalesce(called, item.name) ELSE item.name END);
    END LOOP;
    DELETE FROM shardkeeper.trash WHERE root = dropped;
END
$$;
COMMENT ON FUNCTION shardkeeper.take_back(name, name) IS 'Takes the table of that name in the trash out of it, with its partitions';

-- Tables of the current role whose keep time is over. Where a journal row of the same transaction is left, it is not
-- known yet whether the drop counts.
CREATE OR REPLACE FUNCTION shardkeeper.overdue() RETURNS SETOF name
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('shardkeeper.journal') IS NULL THEN
        RETURN QUERY SELECT t.root FROM shardkeeper.trash t
            WHERE t.relation = t.root AND t.role = current_user AND t.dropped_at + t.keep <= clock_timestamp();
    ELSE
        RETURN QUERY SELECT t.root FROM shardkeeper.trash t
            WHERE t.relation = t.root AND t.role = current_user AND t.dropped_at + t.keep <= clock_timestamp()
              AND NOT EXISTS (SELECT FROM shardkeeper.journal j WHERE j.xact = t.xact);
    END IF;
END
$$;
COMMENT ON FUNCTION shardkeeper.overdue() IS 'Tables in the trash that the current role dropped and whose keep time is over';

-- The end of a table in the trash. Only what really lies in shardkeeper_trash is dropped, and never with CASCADE.
CREATE OR REPLACE FUNCTION shardkeeper.destroy(dropped name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind "char";
BEGIN
    PERFORM FROM shardkeeper.trash t WHERE t.root = dropped FOR UPDATE;
    SELECT c.relkind INTO kind FROM pg_class c
    WHERE c.relname = dropped AND c.relnamespace = to_regnamespace('shardkeeper_trash') AND c.relkind IN ('r', 'p', 'f')
      AND EXISTS (SELECT FROM shardkeeper.trash t WHERE t.relation = dropped);
    IF FOUND THEN
        EXECUTE format('DROP %s shardkeeper_trash.%I', CASE WHEN kind = 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, dropped);
    END IF;
    DELETE FROM shardkeeper.trash t WHERE t.root = dropped;
    IF to_regclass('shardkeeper.roots') IS NOT NULL THEN
        DELETE FROM shardkeeper.roots r WHERE r.root = dropped;
    END IF;
END
$$;
COMMENT ON FUNCTION shardkeeper.destroy(name) IS 'Drops a table in the trash for good';

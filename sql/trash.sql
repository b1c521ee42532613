-- The trash: dropped tables wait here until their keep time is over. The same on the coordinator and on every node.

CREATE TABLE IF NOT EXISTS shardkeeper.trash (
    relation name NOT NULL,
    catalog regclass NOT NULL DEFAULT 'pg_catalog.pg_class'::regclass,
    root name NOT NULL,
    schema name NOT NULL,
    name name NOT NULL,
    role name NOT NULL DEFAULT current_user,
    dropped_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    keep interval NOT NULL,
    xact xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    PRIMARY KEY (relation, catalog)
);
COMMENT ON TABLE shardkeeper.trash IS
    'What is in the schema shardkeeper_trash, by its name there: where each came from, and how long it is kept. Tables, their indexes, sequences and statistics objects have a row each; root is the table that was dropped with them';

-- A role sees, restores and destroys what it dropped itself, and cannot say that another did.
ALTER TABLE shardkeeper.trash ENABLE ROW LEVEL SECURITY;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = 'shardkeeper.trash'::regclass AND polname = 'own') THEN
        CREATE POLICY own ON shardkeeper.trash USING (role = current_user) WITH CHECK (role = current_user);
    END IF;
END
$$;

-- Moves a table, with its partitions and all that is named beside them, out of the way. Names get the object identifier as
-- a suffix, so that generations of one table do not collide.
CREATE OR REPLACE FUNCTION shardkeeper.discard(root regclass, keep interval) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tables oid[] := ARRAY(SELECT root::oid UNION SELECT relid FROM pg_partition_tree(root));
    item record;
    kept name;
    -- By names, and not by numbers: these are others in a restored dump.
    top CONSTANT name := (SELECT shardkeeper.trash_name(c.relname, c.oid) FROM pg_class c WHERE c.oid = root LIMIT 1);
BEGIN
    -- The tree is as it is now, the catalog as it was when the transaction began: what came since would stay behind.
    IF EXISTS (SELECT FROM unnest(tables) AS t WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = t)) THEN
        RAISE EXCEPTION USING ERRCODE = 'serialization_failure',
            MESSAGE = format('table %s got partitions since this transaction first used the server', root),
            HINT = 'Run the transaction again.';
    END IF;
    FOR item IN
        SELECT 0 AS turn, b.* FROM shardkeeper.named_beside(tables) AS b
        UNION ALL
        SELECT 1, 'pg_class'::regclass::oid, c.oid, n.nspname, c.relname,
               CASE c.relkind WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY (tables)
        ORDER BY turn, object
    LOOP
        kept := shardkeeper.trash_name(item.name, item.object);
        INSERT INTO shardkeeper.trash (relation, catalog, root, schema, name, keep)
        VALUES (kept, item.catalog, top, item.schema, item.name, keep);
        EXECUTE format('ALTER %s %I.%I RENAME TO %I', item.kind, item.schema, item.name, kept);
        -- Indexes and sequences go with their tables.
        IF item.kind NOT IN ('INDEX', 'SEQUENCE') THEN
            EXECUTE format('ALTER %s %I.%I SET SCHEMA shardkeeper_trash', item.kind, item.schema, kept);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION shardkeeper.discard(regclass, interval) IS 'Moves a table with its partitions to the trash';

-- At most 62 bytes, cut between characters, and never the name of another object, nor that of its array type.
CREATE OR REPLACE FUNCTION shardkeeper.trash_name(name name, relation oid) RETURNS name
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (CASE WHEN octet_length(name::text) <= 51 THEN name::text
                 ELSE left(name::text, greatest(1, 51 * length(name::text) / octet_length(name::text) - 3)) END
            || '_' || relation)::name
$$;
COMMENT ON FUNCTION shardkeeper.trash_name(name, oid) IS 'The name of a relation in the trash';

-- Puts back what discard took away: the newest table of that name, with its partitions; while a transaction is undone, that
-- which the transaction dropped. What it made after that under the same name is in the trash too by then, and is newer.
CREATE OR REPLACE FUNCTION shardkeeper.restore(from_schema name, from_name name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found name;
    undoing CONSTANT text := nullif(current_setting('shardkeeper_session.undoing', true), '');
BEGIN
    SELECT t.root INTO found FROM shardkeeper.trash t
    JOIN pg_class c ON c.relname = t.relation AND c.relnamespace = to_regnamespace('shardkeeper_trash')
    WHERE t.relation = t.root AND t.schema = from_schema AND t.name = from_name
      AND (undoing IS NULL OR t.xact = undoing::xid8)
    ORDER BY t.dropped_at DESC LIMIT 1;
    IF found IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table',
            MESSAGE = format('table %I.%I is not in the trash', from_schema, from_name);
    END IF;
    PERFORM shardkeeper.take_back(found);
END
$$;
COMMENT ON FUNCTION shardkeeper.restore(name, name) IS 'Takes the newest table of that name out of the trash';

-- The same, of the table that has this name in the trash; under another name, if one is given. What was named beside them
-- gives way where its name was given to something else meanwhile.
CREATE OR REPLACE FUNCTION shardkeeper.take_back(dropped name, called name DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT t.relation, t.schema, t.name, coalesce(c.oid, s.oid) AS object,
               CASE WHEN s.oid IS NOT NULL THEN 'STATISTICS' WHEN c.relkind IN ('i', 'I') THEN 'INDEX'
                    WHEN c.relkind = 'S' THEN 'SEQUENCE' WHEN c.relkind = 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END AS kind
        FROM shardkeeper.trash t
        LEFT JOIN pg_class c ON c.relname = t.relation AND c.relnamespace = to_regnamespace('shardkeeper_trash')
                            AND t.catalog = 'pg_class'::regclass
        LEFT JOIN pg_statistic_ext s ON s.stxname = t.relation AND s.stxnamespace = to_regnamespace('shardkeeper_trash')
                                    AND t.catalog = 'pg_statistic_ext'::regclass
        WHERE t.root = dropped AND (c.oid IS NOT NULL OR s.oid IS NOT NULL)
        ORDER BY coalesce(c.relkind IN ('r', 'p', 'f'), false) DESC, 4
    LOOP
        IF item.kind NOT IN ('INDEX', 'SEQUENCE') THEN
            EXECUTE format('ALTER %s shardkeeper_trash.%I SET SCHEMA %I', item.kind, item.relation, item.schema);
        END IF;
        IF item.kind NOT IN ('TABLE', 'FOREIGN TABLE') THEN
            item.name := shardkeeper.free_name(item.name, item.object, item.schema);
        ELSIF item.relation = dropped THEN
            item.name := coalesce(called, item.name);
        END IF;
        EXECUTE format('ALTER %s %I.%I RENAME TO %I', item.kind, item.schema, item.relation, item.name);
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
END
$$;
COMMENT ON FUNCTION shardkeeper.destroy(name) IS 'Drops a table in the trash for good';

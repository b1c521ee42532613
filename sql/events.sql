-- What ordinary commands on managed tables set off.

-- What the roles of a node's user mappings should be allowed to do there: what the local roles may do here.
CREATE FUNCTION shardkeeper.rights(parent oid, node name) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object('remote', remote, 'table', allowed, 'columns', columns) ORDER BY remote, allowed, columns), '[]')
    FROM (
        SELECT coalesce((SELECT option_value FROM pg_options_to_table(m.umoptions) WHERE option_name = 'user'), r.name::text) AS remote,
               (SELECT coalesce(jsonb_agg(p), '[]') FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS p
                WHERE has_table_privilege(r.name, parent, p)) AS allowed,
               (SELECT coalesce(jsonb_agg(jsonb_build_array(p, names)), '[]') FROM (
                    SELECT p, jsonb_agg(a.attname ORDER BY a.attnum) AS names
                    FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS p, pg_attribute a
                    WHERE a.attrelid = parent AND a.attnum > 0 AND NOT a.attisdropped
                      AND NOT has_table_privilege(r.name, parent, p) AND has_column_privilege(r.name, parent, a.attnum, p)
                    GROUP BY p) AS c) AS columns
        FROM pg_user_mapping m JOIN pg_foreign_server s ON s.oid = m.umserver
        CROSS JOIN LATERAL (SELECT CASE WHEN m.umuser = 0 THEN 'public' ELSE pg_get_userbyid(m.umuser) END::name AS name) AS r
        WHERE s.srvname = node
    ) AS mapped
$$;
COMMENT ON FUNCTION shardkeeper.rights(oid, name) IS 'Rights that the mapped roles on a node should have on the tables of a parent';
REVOKE ALL ON FUNCTION shardkeeper.rights(oid, name) FROM PUBLIC;

-- Parents whose rights on some node are no longer what they are here. Rows that came with a restored dump belong to
-- another coordinator, which goes on using the nodes: they are left alone.
CREATE FUNCTION shardkeeper.stale_rights() RETURNS SETOF regclass
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT m.parent FROM shardkeeper.mirrors m JOIN pg_class c ON c.oid = m.parent
    WHERE m.coordinator = shardkeeper.coordinator() AND shardkeeper.rights(m.parent, m.node) IS DISTINCT FROM m.rights
$$;
COMMENT ON FUNCTION shardkeeper.stale_rights() IS 'Parents whose rights on nodes are not in step with those here';

CREATE FUNCTION shardkeeper.coordinator() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
$$;
COMMENT ON FUNCTION shardkeeper.coordinator() IS
    'How this database signs what it does on nodes: the same after a restart or a promotion, another one in a restored dump';

-- CREATE DATABASE with this one as TEMPLATE copies the rows of operations too. What they have on servers is the original's,
-- which goes on with them.
CREATE FUNCTION shardkeeper.is_own(staging name) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT right(staging::text, 6) = left(md5(shardkeeper.coordinator()), 6)
$$;
COMMENT ON FUNCTION shardkeeper.is_own(name) IS
    'Whether the operation with this staging schema was begun in this database, and not in one that it is a copy of';

CREATE FUNCTION shardkeeper.after_grant() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stale regclass;
BEGIN
    -- Those of others are not ours to change on nodes; shard_check names them to their owners.
    FOR stale IN
        SELECT parent FROM shardkeeper.stale_rights() AS parent
        WHERE pg_has_role((SELECT relowner FROM pg_class WHERE oid = parent), 'USAGE')
    LOOP
        EXECUTE format('SELECT %I.shard_sync_grants($1)',
            (SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'shardkeeper'))
        USING stale;
    END LOOP;
END
$$;
COMMENT ON FUNCTION shardkeeper.after_grant() IS 'Follows GRANT and REVOKE on parents on their nodes';

-- What commands do that users give on managed tables themselves is judged in the library, which knows its own. A managed
-- table that may go takes only what is here: say so, and forget it.
CREATE FUNCTION shardkeeper.after_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone record;
BEGIN
    FOR gone IN
        SELECT m.id, m.name FROM pg_event_trigger_dropped_objects() o
        LEFT JOIN shardkeeper.partitions p ON p.partition = o.objid
        JOIN shardkeeper.moving() AS m ON m.parent IN (o.objid, p.parent)
        WHERE o.classid = 'pg_class'::regclass AND o.objsubid = 0
    LOOP
        PERFORM shardkeeper.refuse_while_moving(gone.id, gone.name);
    END LOOP;
    IF NOT EXISTS (SELECT FROM shardkeeper.parents) AND NOT EXISTS (SELECT FROM shardkeeper.nodes) THEN
        RETURN;
    END IF;
    PERFORM shardkeeper.judge_drop();
    FOR gone IN
        SELECT o.objid, o.object_identity, array_agg(m.node ORDER BY m.node) FILTER (WHERE m.node IS NOT NULL) AS nodes
        FROM pg_event_trigger_dropped_objects() o
        JOIN shardkeeper.parents p ON p.parent = o.objid
        LEFT JOIN shardkeeper.mirrors m ON m.parent = o.objid
        WHERE o.classid = 'pg_class'::regclass AND o.objsubid = 0
        GROUP BY o.objid, o.object_identity
    LOOP
        DELETE FROM shardkeeper.partitions WHERE parent = gone.objid;
        DELETE FROM shardkeeper.mirrors WHERE parent = gone.objid;
        DELETE FROM shardkeeper.parents WHERE parent = gone.objid;
        IF gone.nodes IS NOT NULL THEN
            RAISE WARNING USING
                MESSAGE = format('tables of %s stay on nodes %s', gone.object_identity, array_to_string(gone.nodes, ', ')),
                HINT = 'To drop a parent on all servers, call shard_drop_parent before DROP TABLE.';
        END IF;
    END LOOP;
    FOR gone IN
        DELETE FROM shardkeeper.detached d USING pg_event_trigger_dropped_objects() o
        WHERE d.partition = o.objid AND o.classid = 'pg_class'::regclass AND o.objsubid = 0
        RETURNING d.node, format('%I.%I', d.schema, d.name) AS name
    LOOP
        RAISE WARNING USING
            MESSAGE = format('table %s stays on node %I with its rows', gone.name, gone.node),
            HINT = format('Drop it there with SELECT * FROM shard_run_on_nodes(%L, ARRAY[%L]); another time, call shard_drop_partition.',
                          format('DROP TABLE %s', gone.name), gone.node);
    END LOOP;
    DELETE FROM shardkeeper.partitions
    WHERE partition IN (SELECT objid FROM pg_event_trigger_dropped_objects() WHERE classid = 'pg_class'::regclass AND objsubid = 0);
END
$$;
COMMENT ON FUNCTION shardkeeper.after_drop() IS 'Refuses to drop what would stay on nodes, and forgets managed tables that were dropped';

-- While data of a parent moves, its tables stay as they are: what is made beforehand has to fit at the switch. In a worker
-- of an operation these triggers are silent, as session_replication_role is replica there. An operation that is not
-- under way, as something on a server is to be mended first, is begun anew and takes up what changed.
CREATE FUNCTION shardkeeper.moving() RETURNS TABLE (id bigint, parent oid, name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    -- A part of a change of the modulus is steered by its group.
    SELECT coalesce(g.id, o.id), o.parent, o.name
    FROM shardkeeper.operations o LEFT JOIN shardkeeper.operations g ON g.id = o.part_of AND g.plan ? 'modulus'
    WHERE o.state NOT IN ('switched', 'finished', 'cancelled', 'failed', 'reverted')
      -- A conversion is of the table as it was when it was called for.
      AND NOT (o.state = 'planned' AND (o.kind <> 'convert' OR o.error IS NOT NULL) OR o.state = 'preparing' AND o.error IS NOT NULL)
      AND NOT o.plan ? 'modulus'
      AND shardkeeper.is_own(o.staging)
$$;
COMMENT ON FUNCTION shardkeeper.moving() IS 'Operations that need the tables of their parents as they are';

CREATE FUNCTION shardkeeper.refuse_while_moving(id bigint, name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'object_in_use',
        MESSAGE = format('operation %s runs on %s', id, name),
        DETAIL = 'The tables of a parent stay as they are while its data moves.',
        HINT = format('Wait with SELECT shard_wait(%s); or end it with SELECT shard_cancel(%s);', id, id);
END
$$;
COMMENT ON FUNCTION shardkeeper.refuse_while_moving(bigint, text) IS 'The error of a command that has to wait for an operation';

CREATE FUNCTION shardkeeper.after_change() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    used record;
BEGIN
    IF NOT EXISTS (SELECT FROM shardkeeper.parents) AND NOT EXISTS (SELECT FROM shardkeeper.nodes)
       AND NOT EXISTS (SELECT FROM shardkeeper.moving()) THEN
        RETURN;
    END IF;
    FOR used IN
        SELECT m.id, m.name
        FROM (SELECT d.command_tag, CASE d.classid
                  WHEN 'pg_class'::regclass THEN coalesce((SELECT indrelid FROM pg_index WHERE indexrelid = d.objid), d.objid)
                  WHEN 'pg_trigger'::regclass THEN (SELECT tgrelid FROM pg_trigger WHERE oid = d.objid)
                  WHEN 'pg_policy'::regclass THEN (SELECT polrelid FROM pg_policy WHERE oid = d.objid)
                  WHEN 'pg_rewrite'::regclass THEN (SELECT ev_class FROM pg_rewrite WHERE oid = d.objid)
                  WHEN 'pg_statistic_ext'::regclass THEN (SELECT stxrelid FROM pg_statistic_ext WHERE oid = d.objid)
              END AS relation FROM pg_event_trigger_ddl_commands() AS d) AS changed
        JOIN shardkeeper.moving() AS m ON m.parent = relation OR m.parent = pg_partition_root(relation)
        -- An index of a leaf alone is nobody else's. One that is made concurrently could not be undone here.
        WHERE command_tag <> 'CREATE INDEX' OR (SELECT relkind FROM pg_class WHERE oid = relation) = 'p'
    LOOP
        PERFORM shardkeeper.refuse_while_moving(used.id, used.name);
    END LOOP;
    PERFORM shardkeeper.judge_change();
END
$$;
COMMENT ON FUNCTION shardkeeper.after_change() IS
    'Refuses changes of tables whose data moves, and those that would make servers disagree';

-- What an index belonged to is not told after it is gone. But dropping it takes a lock on the table.
CREATE FUNCTION shardkeeper.after_drop_index() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    used record;
BEGIN
    FOR used IN
        SELECT m.id, m.name FROM shardkeeper.moving() AS m
        WHERE EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation = m.parent
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                      AND mode = 'AccessExclusiveLock')
    LOOP
        PERFORM shardkeeper.refuse_while_moving(used.id, used.name);
    END LOOP;
END
$$;
COMMENT ON FUNCTION shardkeeper.after_drop_index() IS 'Refuses to drop indexes of parents whose data moves';

-- The extension must not go while an operation has not ended. What refuses it is in the library, as no trigger of the
-- extension outlives it; here the library is loaded where it is not yet.
CREATE FUNCTION shardkeeper.before_leaving() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOAD '$libdir/shardkeeper';
END
$$;
COMMENT ON FUNCTION shardkeeper.before_leaving() IS 'Loads the library that keeps the extension from being dropped amid an operation';

CREATE EVENT TRIGGER shardkeeper_leave ON ddl_command_start WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED')
    EXECUTE FUNCTION shardkeeper.before_leaving();
COMMENT ON EVENT TRIGGER shardkeeper_leave IS 'shardkeeper: keeps the extension from being dropped amid an operation';
-- What is kept to be brought back, in the trash or of an operation, still uses types, functions and the like. Called before
-- a DROP of such things, with their classes and numbers: where nothing else uses them, this tells what to do better than
-- Postgres would.
CREATE FUNCTION shardkeeper.refuse_if_kept(classes oid[], objects oid[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    used record;
BEGIN
    WITH dropped AS (
        SELECT d.classid, d.objid FROM unnest(classes, objects) AS d (classid, objid)
        UNION SELECT d.classid, t.typarray FROM unnest(classes, objects) AS d (classid, objid)
        JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid AND t.typarray <> 0
    ), users AS (
        SELECT DISTINCT u.classid, u.objid, u.objsubid, CASE u.classid
                   WHEN 'pg_class'::regclass THEN u.objid
                   WHEN 'pg_attrdef'::regclass THEN (SELECT adrelid FROM pg_attrdef WHERE oid = u.objid)
                   WHEN 'pg_constraint'::regclass THEN (SELECT conrelid FROM pg_constraint WHERE oid = u.objid)
                   WHEN 'pg_trigger'::regclass THEN (SELECT tgrelid FROM pg_trigger WHERE oid = u.objid)
               END AS relation
        FROM dropped d JOIN pg_depend u ON u.refclassid = d.classid AND u.refobjid = d.objid AND u.deptype = 'n'
    )
    SELECT count(*) AS all_users, count(n.nspname) AS kept, min(n.nspname::text) AS schema,
           string_agg(pg_describe_object(u.classid, u.objid, u.objsubid), '; ' ORDER BY u.objid, u.objsubid) AS told
    INTO used
    FROM users u LEFT JOIN pg_class c ON c.oid = u.relation
    LEFT JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname ~ '^shardkeeper_(trash$|(op|old)_[0-9]+_)';
    IF used.kept > 0 AND used.kept = used.all_users THEN
        RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist',
            MESSAGE = format('%s is still used by tables that are kept for a while',
                (SELECT string_agg(pg_describe_object(c, o, 0), ', ') FROM unnest(classes, objects) AS d (c, o))),
            DETAIL = format('They are: %s.', used.told),
            HINT = shardkeeper.way_out(used.schema);
    END IF;
END
$$;
COMMENT ON FUNCTION shardkeeper.refuse_if_kept(oid[], oid[]) IS 'Refuses to drop what only tables that are kept for a while still use';

CREATE FUNCTION shardkeeper.way_out(schema text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE split_part(schema, '_', 2)
        WHEN 'trash' THEN 'See shard_trash. To give up what is in it, run SELECT * FROM shard_empty_trash(); to keep nothing in the first place, drop with keep => ''0''.'
        WHEN 'old' THEN format('To give up what operation %s replaced, run SELECT shard_finish(%1$s);', split_part(schema, '_', 3))
        ELSE format('Wait for the operation with SELECT shard_wait(%s); or end it with SELECT shard_cancel(%1$s);', split_part(schema, '_', 3))
    END
$$;
COMMENT ON FUNCTION shardkeeper.way_out(text) IS 'The call that gives up what is in a schema of kept tables';

-- CASCADE would take columns, checks and defaults from tables that are kept to be brought back whole.
CREATE FUNCTION shardkeeper.after_cascade() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone record;
BEGIN
    FOR gone IN
        SELECT o.object_type, o.object_identity, o.address_names[1] AS schema FROM pg_event_trigger_dropped_objects() AS o
        -- A foreign key to a table that goes is no loss; a column of its row type is.
        WHERE (o.object_type = 'table column' OR tg_tag NOT IN ('DROP TABLE', 'DROP FOREIGN TABLE', 'DROP VIEW', 'DROP MATERIALIZED VIEW')
                                                 AND o.object_type IN ('table constraint', 'default value'))
          AND o.address_names[1] ~ '^shardkeeper_(trash$|(op|old)_[0-9]+_)'
          AND NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() AS t
                          WHERE t.classid = 'pg_class'::regclass AND t.objsubid = 0
                            AND t.address_names[1:2] = o.address_names[1:2])
    LOOP
        RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist',
            MESSAGE = format('%s %s is kept for a while', gone.object_type, gone.object_identity),
            DETAIL = 'Its table could not be brought back as it was.',
            HINT = shardkeeper.way_out(gone.schema);
    END LOOP;
END
$$;
COMMENT ON FUNCTION shardkeeper.after_cascade() IS 'Refuses to drop parts of tables that are kept for a while';
COMMENT ON FUNCTION shardkeeper.before_drop() IS 'Tells shardkeeper.refuse_if_kept what is about to be dropped';

CREATE EVENT TRIGGER shardkeeper_grant ON ddl_command_end WHEN TAG IN ('GRANT', 'REVOKE', 'CREATE SCHEMA', 'DROP OWNED')
    EXECUTE FUNCTION shardkeeper.after_grant();
COMMENT ON EVENT TRIGGER shardkeeper_grant IS 'shardkeeper: follows GRANT and REVOKE on parents on their nodes';
-- Whatever the command was: CASCADE takes managed tables along with many kinds of objects.
CREATE EVENT TRIGGER shardkeeper_drop ON sql_drop
    EXECUTE FUNCTION shardkeeper.after_drop();
COMMENT ON EVENT TRIGGER shardkeeper_drop IS 'shardkeeper: refuses to drop what would stay on nodes, and forgets managed tables that were dropped';
CREATE EVENT TRIGGER shardkeeper_before_alter ON ddl_command_start WHEN TAG IN ('ALTER TABLE')
    EXECUTE FUNCTION shardkeeper.before_alter();
COMMENT ON EVENT TRIGGER shardkeeper_before_alter IS 'shardkeeper: refuses DETACH PARTITION CONCURRENTLY of managed partitions';
CREATE EVENT TRIGGER shardkeeper_change ON ddl_command_end
    WHEN TAG IN ('ALTER COLLATION', 'ALTER DOMAIN', 'ALTER EXTENSION', 'ALTER FOREIGN TABLE', 'ALTER INDEX', 'ALTER MATERIALIZED VIEW', 'ALTER POLICY',
                 'ALTER RULE', 'ALTER SCHEMA', 'ALTER SERVER', 'ALTER STATISTICS', 'ALTER TABLE', 'ALTER TRIGGER', 'ALTER TYPE', 'ALTER VIEW',
                 'CREATE FOREIGN TABLE', 'CREATE INDEX', 'CREATE POLICY', 'CREATE RULE', 'CREATE SCHEMA', 'CREATE STATISTICS', 'CREATE TABLE', 'CREATE TRIGGER')
    EXECUTE FUNCTION shardkeeper.after_change();
COMMENT ON EVENT TRIGGER shardkeeper_change IS
    'shardkeeper: refuses changes of tables whose data moves, and those that would make servers disagree';
CREATE EVENT TRIGGER shardkeeper_drop_index ON sql_drop WHEN TAG IN ('DROP INDEX')
    EXECUTE FUNCTION shardkeeper.after_drop_index();
COMMENT ON EVENT TRIGGER shardkeeper_drop_index IS 'shardkeeper: refuses to drop indexes of parents whose data moves';
CREATE EVENT TRIGGER shardkeeper_before_drop ON ddl_command_start
    WHEN TAG IN ('DROP TYPE', 'DROP DOMAIN', 'DROP FUNCTION', 'DROP ROUTINE', 'DROP COLLATION', 'DROP OPERATOR')
    EXECUTE FUNCTION shardkeeper.before_drop();
COMMENT ON EVENT TRIGGER shardkeeper_before_drop IS 'shardkeeper: tells what to do where only kept tables use what is to be dropped';
CREATE EVENT TRIGGER shardkeeper_cascade ON sql_drop
    WHEN TAG IN ('DROP TYPE', 'DROP DOMAIN', 'DROP FUNCTION', 'DROP ROUTINE', 'DROP COLLATION', 'DROP OPERATOR', 'DROP SEQUENCE', 'DROP TABLE',
                 'DROP FOREIGN TABLE', 'DROP VIEW', 'DROP MATERIALIZED VIEW', 'DROP SCHEMA', 'DROP OWNED', 'DROP EXTENSION')
    EXECUTE FUNCTION shardkeeper.after_cascade();
COMMENT ON EVENT TRIGGER shardkeeper_cascade IS 'shardkeeper: refuses to take parts of tables that are kept to be brought back';

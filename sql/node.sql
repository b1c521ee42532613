-- What shard_add_node makes on a node: schemas, the session channel, the journal and the trash. Only SQL, and safe to
-- run again. trash.sql follows it.

CREATE SCHEMA IF NOT EXISTS shardkeeper;
COMMENT ON SCHEMA shardkeeper IS 'shardkeeper: the session channel, the journal and the trash of this node';
CREATE SCHEMA IF NOT EXISTS shardkeeper_trash;
COMMENT ON SCHEMA shardkeeper_trash IS 'shardkeeper: dropped tables until their keep time is over';

-- One row for each command that a coordinator sent through the session channel and that can be undone. It is written
-- in the transaction of the command: where the command took effect, there is a row.
CREATE TABLE IF NOT EXISTS shardkeeper.journal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    coordinator text NOT NULL,
    timeline integer NOT NULL,
    lsn pg_lsn NOT NULL,
    transaction uuid NOT NULL,
    xid xid8 NOT NULL,
    role name NOT NULL DEFAULT current_user,
    command text NOT NULL,
    inverse text NOT NULL,
    done_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    xact xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id()
);
COMMENT ON TABLE shardkeeper.journal IS
    'Commands of coordinators whose outcome there is not settled yet, each with the command that undoes it';
CREATE INDEX IF NOT EXISTS journal_coordinator ON shardkeeper.journal (coordinator, transaction);

-- A role sees, writes and undoes its own commands only: an inverse is executed with the rights of the role that wrote it.
ALTER TABLE shardkeeper.journal ENABLE ROW LEVEL SECURITY;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = 'shardkeeper.journal'::regclass AND polname = 'own') THEN
        CREATE POLICY own ON shardkeeper.journal USING (role = current_user) WITH CHECK (role = current_user);
    END IF;
END
$$;

CREATE OR REPLACE VIEW shardkeeper.session AS
    SELECT NULL::text AS command, NULL::text AS result, NULL::text AS inverse, NULL::text AS coordinator,
           NULL::integer AS timeline, NULL::text AS lsn, NULL::text AS transaction, NULL::text AS xid;
COMMENT ON VIEW shardkeeper.session IS
    'INSERT a command and it is executed, with the rights of the current role; a query returns its first value as result';

-- Whatever the role or the database has set: commands are read and results are written alike on all servers. The list is that
-- of src/settings.rs.
CREATE OR REPLACE FUNCTION shardkeeper.execute() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET extra_float_digits = 3 SET bytea_output = 'hex'
SET lc_monetary = 'C' SET xmloption = 'content' SET array_nulls = on SET transform_null_equals = off
SET standard_conforming_strings = on SET quote_all_identifiers = off SET row_security = on
SET default_tablespace = '' SET default_table_access_method = 'heap' SET jit = off AS $$
BEGIN
    -- The coordinator may take its time between two commands, or between this one and its commit.
    IF current_setting('idle_in_transaction_session_timeout') <> '0' THEN
        PERFORM set_config('idle_in_transaction_session_timeout', '0', true);
    END IF;
    IF current_setting('transaction_timeout', true) <> '0' THEN
        PERFORM set_config('transaction_timeout', '0', true);
    END IF;
    IF new.inverse IS NOT NULL THEN
        -- What the coordinator counts on when it has committed.
        IF current_setting('synchronous_commit') = 'off' THEN
            PERFORM set_config('synchronous_commit', 'local', true);
        END IF;
        INSERT INTO shardkeeper.journal (coordinator, timeline, lsn, transaction, xid, command, inverse)
        VALUES (new.coordinator, new.timeline, new.lsn::pg_lsn, new.transaction::uuid, new.xid::xid8, new.command, new.inverse);
    END IF;
    IF new.inverse IS NULL AND new.command ~* '^[[:space:]]*(select|with|values|table|show)[[:>:]]' THEN
        EXECUTE new.command INTO new.result;
    ELSE
        EXECUTE new.command;
    END IF;
    RETURN new;
END
$$;
COMMENT ON FUNCTION shardkeeper.execute() IS 'Executes the command of a row inserted into shardkeeper.session';

CREATE OR REPLACE TRIGGER execute INSTEAD OF INSERT ON shardkeeper.session
    FOR EACH ROW EXECUTE FUNCTION shardkeeper.execute();

-- Any one statement: how many rows it returned or changed, and the rows. Numbers with more digits than a double precision
-- number keeps are text, so that none is lost.
CREATE OR REPLACE FUNCTION shardkeeper.answer(command text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
    found jsonb[] := '{}';
    changed bigint;
BEGIN
    BEGIN
        FOR item IN EXECUTE command LOOP
            found := array_append(found, (
                SELECT coalesce(jsonb_object_agg(key, CASE
                    WHEN jsonb_typeof(value) <> 'number' OR length(regexp_replace(value::text, '[^0-9]', '', 'g')) <= 15 THEN value
                    WHEN value::text ~ '^-?[0-9]+$' AND value::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 THEN value
                    ELSE to_jsonb(value::text) END), '{}')
                FROM jsonb_each(to_jsonb(item))));
        END LOOP;
        RETURN json_build_object('rows', cardinality(found), 'result', to_json(found));
    EXCEPTION WHEN invalid_cursor_definition THEN
        -- It returns no rows, and nothing of it was done.
        NULL;
    END;
    EXECUTE command;
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN json_build_object('rows', changed);
END
$$;
COMMENT ON FUNCTION shardkeeper.answer(text) IS 'Executes one statement with the rights of the current role; a JSON object with its rows';

-- A transaction that the coordinator rolled back: its commands of the current role are undone here, the last one first,
-- and forgotten in the same transaction, so that each is undone exactly once.
CREATE OR REPLACE FUNCTION shardkeeper.undo(of_coordinator text, of_transaction uuid) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
    undone bigint := 0;
BEGIN
    FOR item IN
        SELECT j.id, j.inverse, j.xact FROM shardkeeper.journal j
        WHERE j.coordinator = of_coordinator AND j.transaction = of_transaction AND j.role = current_user
        ORDER BY j.id DESC FOR UPDATE
    LOOP
        -- What it dropped comes back, and not what had the same name since.
        PERFORM set_config('shardkeeper_session.undoing', item.xact::text, true);
        EXECUTE item.inverse;
        DELETE FROM shardkeeper.journal j WHERE j.id = item.id;
        undone := undone + 1;
    END LOOP;
    PERFORM set_config('shardkeeper_session.undoing', '', true);
    RETURN undone;
END
$$;

COMMENT ON FUNCTION shardkeeper.undo(text, uuid) IS 'Undoes what a transaction did here that the coordinator rolled back';

-- A transaction that the coordinator committed: there is nothing to undo.
CREATE OR REPLACE FUNCTION shardkeeper.forget(of_coordinator text, of_transactions uuid[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM shardkeeper.journal j
    WHERE j.coordinator = of_coordinator AND j.transaction = ANY (of_transactions) AND j.role = current_user
$$;
COMMENT ON FUNCTION shardkeeper.forget(text, uuid[]) IS 'Deletes the journal of transactions that the coordinator committed';

-- Switches of operations that this node has committed, and of which it does not know yet whether the coordinator has.
CREATE TABLE IF NOT EXISTS shardkeeper.switches (
    staging name PRIMARY KEY,
    role name NOT NULL DEFAULT current_user
);
COMMENT ON TABLE shardkeeper.switches IS
    'Switches of operations that the coordinator has not confirmed yet: meanwhile direct writers wait before the new partitions';
ALTER TABLE shardkeeper.switches ENABLE ROW LEVEL SECURITY;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = 'shardkeeper.switches'::regclass AND polname = 'own') THEN
        CREATE POLICY own ON shardkeeper.switches USING (role = current_user) WITH CHECK (role = current_user);
    END IF;
END
$$;

-- Before a new partition: a direct writer waits until the coordinator is known to have committed the switch. Not for long:
-- it would be in the way if the switch has to be undone. What comes from the coordinator knows that it has committed.
CREATE OR REPLACE FUNCTION shardkeeper.write_fence() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    patience CONSTANT timestamptz := clock_timestamp() + '1 second'::interval;
BEGIN
    -- Either may be missing: a pooler drops start-up options, and postgres_fdw.application_name on the coordinator comes first.
    IF current_setting('application_name') <> 'shardkeeper coordinator'
       AND current_setting('shardkeeper_session.coordinator', true) IS DISTINCT FROM 'on' THEN
        WHILE EXISTS (SELECT FROM shardkeeper.switches s WHERE s.staging = tg_argv[0]) LOOP
            IF clock_timestamp() > patience THEN
                RAISE EXCEPTION USING ERRCODE = 'serialization_failure',
                    MESSAGE = format('partition %I.%I is about to come to this node', tg_table_schema, tg_table_name),
                    DETAIL = 'The coordinator has not confirmed yet that it has switched to it.',
                    HINT = format('Try again. If that coordinator is gone for good, run DELETE FROM shardkeeper.switches WHERE staging = %L;', tg_argv[0]);
            END IF;
            PERFORM pg_sleep(0.002);
        END LOOP;
    END IF;
    RETURN CASE WHEN tg_op = 'DELETE' THEN old ELSE new END;
END
$$;
COMMENT ON FUNCTION shardkeeper.write_fence() IS 'Keeps direct writers from a new partition until the coordinator has confirmed its switch';

-- The mirrors that were made here, and the coordinators that made them: what one left that is gone can be told from the
-- node's own tables. In the trash a mirror keeps its row, as it may come back.
CREATE TABLE IF NOT EXISTS shardkeeper.roots (
    root regclass PRIMARY KEY,
    coordinator text NOT NULL,
    role name NOT NULL DEFAULT current_user
);
COMMENT ON TABLE shardkeeper.roots IS 'Mirrors on this node, each with the coordinator that made it';
ALTER TABLE shardkeeper.roots ENABLE ROW LEVEL SECURITY;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = 'shardkeeper.roots'::regclass AND polname = 'own') THEN
        CREATE POLICY own ON shardkeeper.roots USING (role = current_user) WITH CHECK (role = current_user);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION shardkeeper.note_mirror(name text, of_coordinator text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE shardkeeper.roots r SET coordinator = of_coordinator
    WHERE r.root = to_regclass(name) AND r.coordinator <> of_coordinator;
    -- Another role may have noted it.
    INSERT INTO shardkeeper.roots (root, coordinator)
    SELECT to_regclass(name), of_coordinator WHERE to_regclass(name) IS NOT NULL
    ON CONFLICT (root) DO NOTHING;
END
$$;
COMMENT ON FUNCTION shardkeeper.note_mirror(text, text) IS 'Notes that a coordinator has made a mirror here';

CREATE OR REPLACE FUNCTION shardkeeper.has_rows(relation regclass) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', relation) INTO found;
    RETURN found;
END
$$;
COMMENT ON FUNCTION shardkeeper.has_rows(regclass) IS 'Whether a table has rows';

-- Counts changes of this file and those beside it: a coordinator brings an older one up to date.
CREATE OR REPLACE FUNCTION shardkeeper.version() RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS 'SELECT 4';
COMMENT ON FUNCTION shardkeeper.version() IS 'The version of what shardkeeper made on this node';

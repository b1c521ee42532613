-- What the passing of time asks of hierarchies.

-- Each parent is a transaction of its own, so that one that fails keeps no other from its partitions. A procedure that commits
-- cannot have settings of its own: what it calls is named with its schema.
CREATE PROCEDURE shard_run_maintenance(parent regclass DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    item pg_catalog.regclass;
    failed pg_catalog.text[] := '{}';
    tried pg_catalog.int4 := 0;
    sqlstate_met pg_catalog.text;
    message_met pg_catalog.text;
    detail_met pg_catalog.text;
    hint_met pg_catalog.text;
BEGIN
    FOR item IN
        SELECT p.parent FROM @extschema@.shard_parents p
        WHERE p.parent OPERATOR(pg_catalog.=) coalesce(shard_run_maintenance.parent, p.parent)
          AND (shard_run_maintenance.parent IS NOT NULL OR pg_catalog.pg_has_role(p.owner, 'USAGE'))
        ORDER BY p.parent::pg_catalog.text
    LOOP
        tried := tried OPERATOR(pg_catalog.+) 1;
        BEGIN
            PERFORM @extschema@.shard_maintain_parent(item);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS sqlstate_met = RETURNED_SQLSTATE, message_met = MESSAGE_TEXT,
                detail_met = PG_EXCEPTION_DETAIL, hint_met = PG_EXCEPTION_HINT;
            failed := failed OPERATOR(pg_catalog.||) item::pg_catalog.text;
            RAISE WARNING USING ERRCODE = sqlstate_met, MESSAGE = pg_catalog.format('%s: %s', item, message_met),
                DETAIL = detail_met, HINT = hint_met;
        END;
        COMMIT;
    END LOOP;
    IF tried OPERATOR(pg_catalog.=) 0 AND parent IS NOT NULL THEN
        -- It tells why that is no parent.
        PERFORM @extschema@.shard_maintain_parent(parent);
    END IF;
    IF pg_catalog.cardinality(failed) OPERATOR(pg_catalog.>) 0 THEN
        RAISE EXCEPTION USING ERRCODE = sqlstate_met,
            MESSAGE = pg_catalog.format('maintenance failed for %s of %s', pg_catalog.cardinality(failed),
                CASE tried WHEN 1 THEN '1 parent' ELSE pg_catalog.format('%s parents', tried) END),
            DETAIL = pg_catalog.format('They are: %s. What was due for the others is done.', pg_catalog.array_to_string(failed, ', ')),
            HINT = 'The warnings above say why.';
    END IF;
END
$$;
COMMENT ON PROCEDURE shard_run_maintenance(regclass) IS
    'Does what is due for each parent of the caller, or for one, each in a transaction of its own';
COMMENT ON FUNCTION shard_plan_maintenance(regclass, timestamptz) IS
    'What shard_run_maintenance would do at that time, with the call that does it by hand; changes nothing';
COMMENT ON FUNCTION shard_maintain_parent(regclass, timestamptz) IS
    'Does what is due for one parent in this transaction, and returns the partitions that were made';
COMMENT ON FUNCTION shard_plan_job(text, text, integer, timestamptz) IS
    'The next times of a schedule: a cron expression of five or six fields, a word such as @daily, or every 30 s';

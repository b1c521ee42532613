//! What somebody gave to a single leaf, as a tree that was built by hand has it: the leaf takes it along wherever it moves.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{self, ends, nothing_is_left, reaches};
use pg_test::sql::{code, column};
use pg_test::{PATIENCE, Server, eventually};

const LIMIT: Duration = Duration::from_secs(60);

const TREE: &str = "CREATE TABLE p (id bigint, at date NOT NULL, code text, amount int DEFAULT 1) PARTITION BY RANGE (at);
    CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') WITH (fillfactor = 70, toast.autovacuum_enabled = off);
    CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
    ALTER TABLE p_1 ADD CONSTRAINT first PRIMARY KEY (id), ADD CONSTRAINT once UNIQUE (code) DEFERRABLE,
        ADD CONSTRAINT positive CHECK (amount > 0), ALTER amount SET DEFAULT 7, ALTER amount SET NOT NULL,
        ALTER code SET STORAGE EXTERNAL, ALTER code SET STATISTICS 250, ALTER id SET (n_distinct = -0.5), REPLICA IDENTITY FULL;
    ALTER TABLE p_2 ADD PRIMARY KEY (id);
    CREATE INDEX shown ON p_1 USING hash (code) WITH (fillfactor = 60);
    CREATE UNIQUE INDEX lower_once ON p_1 (lower(code)) WHERE amount > 5;
    CREATE STATISTICS both_of ON code, amount FROM p_1;
    CLUSTER p_1 USING first;
    COMMENT ON CONSTRAINT first ON p_1 IS 'of January';
    INSERT INTO p SELECT i, '2026-01-01'::date + (i % 59)::int, 'c' || i, i FROM generate_series(1, 3000) AS i";

/// Everything about the leaf that is not its place. What a partition constraint needs has no name of its own.
const TOLD: &str = "SELECT line FROM (
        SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) || coalesce(obj_description(oid, 'pg_constraint'), '') FROM pg_constraint
        WHERE conrelid = 'p_1'::regclass AND conname !~ '^shardkeeper_' AND contype <> 'n'
        UNION ALL SELECT pg_get_indexdef(indexrelid) || ' ' || indisclustered || indisreplident FROM pg_index WHERE indrelid = 'p_1'::regclass
        UNION ALL SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext WHERE stxrelid = 'p_1'::regclass
        UNION ALL SELECT concat_ws(' ', attname, attnotnull, attstorage, nullif(attstattarget, -1), ARRAY(SELECT o FROM unnest(attoptions) AS o WHERE o !~ '^pg_' ORDER BY o), pg_get_expr(adbin, adrelid))
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = 'p_1'::regclass AND attnum > 0
        UNION ALL SELECT concat_ws(' ', relreplident, reloptions, (SELECT reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid))
        FROM pg_class c WHERE oid = 'p_1'::regclass) AS told (line) ORDER BY 1";

fn told(server: &Server) -> Result<Vec<String>> {
    column(&mut server.client()?, TOLD)
}

#[test]
fn a_leaf_takes_along_what_it_has_of_its_own() -> Result<()> {
    let cluster = movement::joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(TREE)?;
    client.batch_execute("SELECT shard_adopt_parent('p')")?;
    let before = told(&cluster.coordinator)?;
    let rows = cluster.coordinator.count("p_1")?;
    for (step, node) in ["n1", "n2", "local", "n1"].iter().enumerate() {
        let server = match *node {
            "n1" => cluster.node(1),
            "n2" => cluster.node(2),
            _ => &cluster.coordinator,
        };
        let id: i64 = client.query_one(&format!("SELECT shard_move_partition('p_1', '{node}')"), &[])?.get(0);
        // Writers go on meanwhile, and one row changes its key.
        client.batch_execute(&format!("UPDATE p SET id = id + 10000 WHERE id % 10000 = 5; INSERT INTO p VALUES (-{step} - 1, '2026-01-15', 'new {step}', 3)"))?;
        reaches(&cluster, id, "switched", LIMIT).context(*node)?;
        assert_eq!(told(server)?, before, "on {node}");
        assert_eq!(server.count("p_1")?, rows + step as i64 + 1);
        for (wrong, state) in [
            ("(1, '2026-01-01', 'again', 1)", "23505"),
            ("(NULL, '2026-01-01', 'null', 1)", "23502"),
            ("(90001, '2026-01-01', 'c62', 1)", "23505"),
            ("(90002, '2026-01-01', 'C62', 6)", "23505"),
            ("(90003, '2026-01-01', 'zero', 0)", "23514"),
            ("(90004, '2026-01-01', 'null', NULL)", "23502"),
        ] {
            assert_eq!(code(&mut client, &format!("INSERT INTO p VALUES {wrong}"))?, state, "{wrong} on {node}");
        }
        if step == 0 {
            client.execute("SELECT shard_revert($1)", &[&id])?;
            reaches(&cluster, id, "reverted", LIMIT)?;
            assert_eq!(told(&cluster.coordinator)?, before, "after the revert");
            let again: i64 = client.query_one("SELECT shard_move_partition('p_1', 'n1')", &[])?.get(0);
            reaches(&cluster, again, "switched", LIMIT)?;
            assert_eq!(told(server)?, before, "on {node} again");
            client.execute("SELECT shard_finish($1)", &[&again])?;
        } else {
            client.execute("SELECT shard_finish($1)", &[&id])?;
            ends(&cluster, id, LIMIT)?;
        }
    }
    nothing_is_left(&cluster)
}

/// Of the servers that store leaves, and of the planner here: soon after the switch they know what is there.
#[test]
fn new_partitions_are_analyzed_on_both_sides_and_estimates_are_shown_as_such() -> Result<()> {
    let cluster = movement::joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE TABLE t (id bigint PRIMARY KEY, v int);
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local,n1}');
         INSERT INTO t SELECT i, i FROM generate_series(1, 3000) AS i",
    )?;
    let id: i64 = client.query_one("SELECT shard_set_modulus('t', 3, nodes => '{n1,n2,local}')", &[])?.get(0);
    client.batch_execute(
        "INSERT INTO t SELECT i, i FROM generate_series(3001, 4000) AS i; DELETE FROM t WHERE id <= 500",
    )?;
    reaches(&cluster, id, "switched", LIMIT)?;
    let known = "SELECT coalesce(sum(reltuples) FILTER (WHERE relkind = 'f'), -1)::bigint FROM pg_class WHERE oid IN ('t_0'::regclass, 't_1'::regclass)";
    let there = "SELECT count(*) FROM t WHERE tableoid IN ('t_0'::regclass, 't_1'::regclass)";
    eventually("foreign tables are analyzed", PATIENCE, || {
        Ok(cluster.coordinator.value::<i64>(known)? == cluster.coordinator.value::<i64>(there)?)
    })?;
    let told = "SELECT sum(estimated_rows)::bigint FROM shard_partitions WHERE parent = 't'::regclass";
    eventually("the servers know their rows", PATIENCE, || Ok(cluster.coordinator.value::<i64>(told)? == 3500))
        .with_context(|| {
            format!("{:?}", cluster.coordinator.psql("SELECT partition, estimated_rows FROM shard_partitions"))
        })?;
    let picture: String = cluster.coordinator.value("SELECT shard_tree('t')")?;
    ensure!(picture.contains(" ~3,500 "), "{picture}");
    Ok(())
}

//! What could never switch is refused by the plan and by the call, with the reason; nothing is copied for it, and nothing
//! that somebody made beside a partition goes with it.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{self, complains, nothing_is_left, reaches};
use pg_test::sql::refused;
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

/// `h` with all leaves here, and `r` in ranges.
const SCENE: &str = "CREATE TABLE h (id bigint PRIMARY KEY, v int, note text);
    SELECT shard_create_parent('h', 'hash', 'id', modulus => 2, nodes => '{local}');
    INSERT INTO h SELECT i, i, 'x' FROM generate_series(1, 100) AS i;
    CREATE TABLE r (id bigint PRIMARY KEY, v int);
    SELECT shard_create_parent('r', '{\"method\": \"range\", \"key\": \"id\", \"bounds\": [\"0\", \"100\", \"200\"], \"nodes\": [\"local\"]}');
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";

const MOVE: &str = "move_partition('h_0', 'n1')";
const MODULUS: &str = "set_modulus('h', 3)";
const PARTS: &str = "set_modulus('h', 4)";
const REBALANCE: &str = r#"rebalance('h', by => 'count', nodes => '{n2}', capacities => '{"n1": 0, "local": 0}')"#;
const SPLIT: &str = "split('r_0', '[\"50\"]')";
const MERGE: &str = "merge('{r_0,r_100}')";

/// What is put beside, the calls that it forbids, SQLSTATE, and what the error must name.
const CASES: &[(&str, &[&str], &str, &str)] = &[
    (
        "CREATE TABLE c (k bigint REFERENCES h); INSERT INTO c VALUES (1)",
        &[MOVE, MODULUS, PARTS],
        "2BP01",
        "constraint c_k_fkey on table c",
    ),
    (
        "CREATE TABLE c (k bigint); ALTER TABLE c ADD FOREIGN KEY (k) REFERENCES r",
        &[SPLIT, MERGE],
        "2BP01",
        "constraint c_k_fkey on table c",
    ),
    (
        "CREATE TABLE m (v int PRIMARY KEY); INSERT INTO m SELECT generate_series(1, 100); ALTER TABLE h ADD FOREIGN KEY (v) REFERENCES m",
        &[MOVE, MODULUS],
        "2BP01",
        "constraint h_v_fkey on table h",
    ),
    ("CREATE VIEW w AS SELECT * FROM h_0", &[MOVE, MODULUS, PARTS], "2BP01", "view w"),
    ("CREATE MATERIALIZED VIEW w AS SELECT * FROM h_0", &[MOVE], "2BP01", "materialized view w"),
    ("CREATE RULE quiet AS ON DELETE TO h_0 DO INSTEAD NOTHING", &[MOVE], "2BP01", "rule quiet on table h_0"),
    (
        "CREATE FUNCTION body() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM h_0; END",
        &[MOVE],
        "2BP01",
        "function body()",
    ),
    (
        "CREATE TABLE g (id int); CREATE POLICY looks ON g USING (EXISTS (SELECT FROM h_0 WHERE h_0.id = g.id))",
        &[MOVE],
        "2BP01",
        "policy looks on table g",
    ),
    ("CREATE TABLE g (one h_0)", &[MOVE], "2BP01", "column one of table g"),
    ("CREATE VIEW w AS SELECT id, v FROM h GROUP BY id", &[MOVE], "2BP01", "view w"),
    (
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON h DEFERRABLE FOR EACH ROW EXECUTE FUNCTION f()",
        &[MOVE],
        "0A000",
        "trigger late",
    ),
    ("ALTER TABLE h ADD CONSTRAINT big CHECK (v > 50) NOT VALID", &[MOVE, MODULUS], "55000", "constraint big of h"),
    (
        "CREATE DOMAIN d AS int; ALTER TABLE r ADD e d; INSERT INTO r VALUES (1, 1, -1); ALTER DOMAIN d ADD CONSTRAINT plus CHECK (value > 0) NOT VALID",
        &[SPLIT, MERGE],
        "55000",
        "constraint plus of domain d",
    ),
    ("CREATE POLICY few ON h_0 USING (v > 10)", &[MOVE, MODULUS], "0A000", "policy few"),
    (
        "CREATE TRIGGER own AFTER INSERT ON h_0 FOR EACH ROW EXECUTE FUNCTION f()",
        &[MOVE, MODULUS],
        "0A000",
        "trigger own",
    ),
    ("ALTER TABLE r_0 ADD CONSTRAINT small CHECK (v < 10)", &[SPLIT, MERGE], "0A000", "check small"),
    ("ALTER TABLE r_0 ALTER v SET NOT NULL", &[SPLIT], "0A000", "NOT NULL of column v"),
    ("CREATE UNIQUE INDEX once ON h_0 (v)", &[MODULUS, PARTS], "0A000", "unique index once"),
    ("CREATE TABLE h_2 ()", &[MODULUS, PARTS], "42P07", "h_2"),
    ("CREATE TYPE h_2 AS ENUM ('a')", &[MODULUS], "42P07", "h_2"),
];

/// Both the plan and the call, in a transaction that is rolled back.
fn both(client: &mut Client, beside: &str, call: &str, code: &str, word: &str) -> Result<()> {
    for call in [format!("SELECT shard_plan_{call}"), format!("SELECT shard_{call}")] {
        client.batch_execute(&format!("BEGIN; {beside}"))?;
        let error = refused(client, &call).context(beside.to_string());
        client.batch_execute("ROLLBACK")?;
        let error = error?;
        let told = format!("{} {:?} {:?}", error.message(), error.detail(), error.hint());
        let told = told.replace("public.", "");
        ensure!(error.code().code() == code && told.contains(word), "{beside}, {call}: {} {told}", error.code().code());
        ensure!(error.hint().is_some(), "{told}");
    }
    Ok(())
}

#[test]
fn what_could_never_switch_is_refused_by_plan_and_call() -> Result<()> {
    let cluster = movement::joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(SCENE)?;
    for (beside, calls, code, word) in CASES {
        for call in *calls {
            both(&mut client, beside, call, code, word)?;
        }
    }
    // On nodes: a name that is taken where the leaf would go, and a view of the leaf that is there.
    let (node, other) = (cluster.node(1), cluster.node(2));
    node.run("CREATE TABLE h_0 ()")?;
    both(&mut client, "", MOVE, "42P07", "h_0 already exists on node n1")?;
    node.run("DROP TABLE h_0")?;
    let id: i64 = client.query_one(&format!("SELECT shard_{MOVE}"), &[])?.get(0);
    reaches(&cluster, id, "switched", LIMIT)?;
    client.execute("SELECT shard_finish($1)", &[&id])?;
    node.run("CREATE VIEW looks AS SELECT * FROM h_0")?;
    other.run("CREATE TABLE h_1 ()")?;
    both(&mut client, "", "move_partition('h_0', 'n2')", "2BP01", "view looks on node n1")?;
    both(&mut client, "", "drain_node('n1')", "2BP01", "view looks on node n1")?;
    both(&mut client, "", REBALANCE, "2BP01", "view looks on node n1")?;
    node.run("DROP VIEW looks")?;
    both(&mut client, "", REBALANCE, "42P07", "h_1 already exists on node n2")?;
    other.run("DROP TABLE h_1")?;
    nothing_is_left(&cluster)
}

#[test]
fn what_comes_beside_a_partition_while_its_rows_move_is_waited_for_and_kept() -> Result<()> {
    let cluster = movement::joined(1)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(SCENE)?;
    client.batch_execute("BEGIN")?;
    let id: i64 = client.query_one(&format!("SELECT shard_{MOVE}"), &[])?.get(0);
    client.batch_execute(&format!("SELECT shard_pause({id}); COMMIT; CREATE VIEW w AS SELECT * FROM h_0"))?;
    client.execute("SELECT shard_resume($1)", &[&id])?;
    let hint = complains(&cluster, id, "while other objects depend", LIMIT)?;
    ensure!(hint.contains("shard_resume"), "{hint}");
    ensure!(client.query_one("SELECT count(*) FROM w", &[])?.get::<_, i64>(0) > 0);
    client.batch_execute("DROP VIEW w")?;
    client.execute("SELECT shard_resume($1)", &[&id])?;
    reaches(&cluster, id, "switched", LIMIT)?;
    client.execute("SELECT shard_finish($1)", &[&id])?;
    nothing_is_left(&cluster)
}

/// A table with old rows that its constraints would not take again.
const OLD_ROWS: &[(&str, &str)] = &[
    ("ALTER TABLE n ADD CONSTRAINT plus CHECK (v > 0) NOT VALID", "constraint plus of public.n"),
    ("ALTER TABLE n ADD CONSTRAINT told NOT NULL note NOT VALID", "constraint told of public.n"),
    (
        "CREATE DOMAIN d AS int[]; ALTER TABLE n ADD e d DEFAULT '{1}'; ALTER DOMAIN d ADD CONSTRAINT empty CHECK (value = '{}') NOT VALID",
        "constraint empty of domain d",
    ),
];

#[test]
fn constraints_that_old_rows_violate_are_told_before_a_row_is_copied() -> Result<()> {
    let cluster = movement::joined(1)?;
    let mut client = cluster.coordinator.patient()?;
    let version: i32 = cluster.coordinator.value("SELECT current_setting('server_version_num')::int")?;
    client.batch_execute("CREATE TABLE n (id bigint PRIMARY KEY, v int, note text); INSERT INTO n SELECT i, i FROM generate_series(-4, 100) AS i")?;
    let create = "SELECT shard_create_parent('n', 'hash', 'id', modulus => 2, nodes => '{local,n1}')";
    for (constraint, word) in OLD_ROWS.iter().filter(|(command, _)| version >= 180_000 || !command.contains("NOT NULL"))
    {
        client.batch_execute(&format!("BEGIN; {constraint}"))?;
        let error = refused(&mut client, create).context(*constraint);
        client.batch_execute("ROLLBACK")?;
        let error = error?;
        ensure!(
            error.code().code() == "55000" && error.message().replace("domain public.", "domain ").contains(word),
            "{}",
            error.message()
        );
        ensure!(error.hint().is_some_and(|hint| hint.contains("VALIDATE CONSTRAINT")), "{:?}", error.hint());
    }
    // What the rows fulfil is made everywhere; what is never asked for stays where somebody wrote it.
    client.batch_execute(
        "ALTER TABLE n ADD CONSTRAINT above CHECK (v > -5) NOT VALID; ALTER TABLE n VALIDATE CONSTRAINT above",
    )?;
    if version >= 180_000 {
        client.batch_execute("ALTER TABLE n ADD CONSTRAINT wish CHECK (v > 1000) NOT ENFORCED")?;
    }
    let id: i64 = client.query_one(create, &[])?.get(0);
    reaches(&cluster, id, "switched", LIMIT)?;
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ensure!(cluster.coordinator.count("n")? == 105);
    nothing_is_left(&cluster)?;
    // An empty table has no old rows.
    client.batch_execute(
        "CREATE TABLE empty (id bigint PRIMARY KEY, v int); ALTER TABLE empty ADD CHECK (v > 0) NOT VALID",
    )?;
    client.batch_execute("SELECT shard_create_parent('empty', 'hash', 'id', modulus => 2, nodes => '{n1}')")?;
    Ok(())
}

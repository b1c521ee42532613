//! What depends on a table and would not survive its becoming a parent is found before anything changes.
use anyhow::{Context, Result, ensure};
use pg_test::sql::refused;
use pg_test::{Cluster, Options, Snapshot};

const CREATE: &str = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}')";
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, other int)";

/// What is put beside the table, SQLSTATE, and what the error must name.
const CASES: &[(&str, &str, &[&str])] = &[
    ("CREATE VIEW the_view AS SELECT id FROM t", "2BP01", &["view the_view"]),
    ("CREATE VIEW a AS SELECT * FROM t; CREATE VIEW b AS SELECT count(*) FROM t", "2BP01", &["view a", "view b"]),
    ("CREATE VIEW grouped AS SELECT id, v FROM t GROUP BY id", "2BP01", &["view grouped"]),
    ("CREATE MATERIALIZED VIEW stored AS SELECT id FROM t", "2BP01", &["materialized view stored"]),
    ("CREATE RULE quiet AS ON INSERT TO t DO INSTEAD NOTHING", "2BP01", &["quiet"]),
    (
        "CREATE TABLE u (v int); CREATE RULE copies AS ON INSERT TO u DO ALSO INSERT INTO t (id) VALUES (new.v)",
        "2BP01",
        &["copies", "u"],
    ),
    (
        "CREATE FUNCTION body() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t; END",
        "2BP01",
        &["function body()"],
    ),
    ("CREATE FUNCTION takes(t) RETURNS int LANGUAGE sql AS 'SELECT 1'", "2BP01", &["function takes(t)"]),
    ("CREATE TABLE holds (one t, many t[])", "2BP01", &["column one of table holds", "column many of table holds"]),
    ("CREATE TABLE child (id int REFERENCES t)", "2BP01", &["constraint child_id_fkey on table child"]),
    (
        "CREATE TABLE mother (id int PRIMARY KEY); ALTER TABLE t ADD FOREIGN KEY (other) REFERENCES mother",
        "2BP01",
        &["constraint t_other_fkey on table t"],
    ),
    ("ALTER TABLE t ADD FOREIGN KEY (other) REFERENCES t", "2BP01", &["constraint t_other_fkey on table t"]),
    (
        "CREATE TABLE guarded (id int); CREATE POLICY looks ON guarded USING (EXISTS (SELECT FROM t WHERE t.id = guarded.id))",
        "2BP01",
        &["policy looks on table guarded"],
    ),
    ("CREATE TABLE below () INHERITS (t)", "0A000", &["inheritance"]),
    ("CREATE TABLE above (v text); ALTER TABLE t INHERIT above", "0A000", &["inheritance"]),
    ("CREATE TYPE shape AS (id int, v text, other int); ALTER TABLE t OF shape", "0A000", &["composite type"]),
    ("ALTER TABLE t ADD EXCLUDE (v WITH =)", "0A000", &["exclusion constraint", "t_v_excl"]),
    ("ALTER EXTENSION shardkeeper ADD TABLE t", "2BP01", &["extension shardkeeper"]),
    ("INSERT INTO t VALUES (1); ALTER TABLE t DROP CONSTRAINT t_pkey", "55000", &["no replica identity"]),
    ("ALTER TABLE t SET UNLOGGED", "42809", &["unlogged"]),
    (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER counted AFTER INSERT ON t REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION f()",
        "0A000",
        &["trigger counted", "transition table"],
    ),
    (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE FOR EACH ROW EXECUTE FUNCTION f()",
        "0A000",
        &["trigger late", "constraint trigger"],
    ),
];

#[test]
fn dependents_are_listed_and_nothing_is_touched() -> Result<()> {
    let cluster = Cluster::with(Options { nodes: 1, ..Options::default() })?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    let mut wrong = Vec::new();
    for (setup, code, named) in CASES {
        client.batch_execute("CREATE SCHEMA trial; SET search_path = trial, public")?;
        client.batch_execute(&format!("{TABLE}; {setup}")).with_context(|| setup.to_string())?;
        let before = Snapshot::take(&cluster)?;
        match refused(&mut client, CREATE) {
            Ok(error) => {
                let said = [error.message(), error.detail().unwrap_or_default()].join("; ").replace("trial.", "");
                if error.code().code() != *code || !named.iter().all(|name| said.contains(name)) {
                    wrong.push(format!("{setup}\n  wants {code} {named:?}\n  got {} {said}", error.code().code()));
                }
                before.is_unchanged(&cluster).with_context(|| setup.to_string())?;
            }
            Err(error) => wrong.push(format!("{setup}\n  {error:#}")),
        }
        // A table that belongs to an extension would take it along.
        let _ = client.batch_execute("ALTER EXTENSION shardkeeper DROP TABLE t");
        client.batch_execute("RESET search_path; DROP SCHEMA trial CASCADE")?;
    }
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn without_its_dependents_the_same_table_becomes_a_parent() -> Result<()> {
    let cluster = Cluster::with(Options { nodes: 1, ..Options::default() })?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&format!("{TABLE}; CREATE VIEW v AS SELECT id FROM t"))?;
    let error = refused(&mut client, CREATE)?;
    assert!(error.hint().is_some_and(|hint| hint.contains("Drop them")), "{error:?}");
    client.batch_execute("DROP VIEW v")?;
    client.batch_execute(CREATE)?;
    client.batch_execute("CREATE VIEW v AS SELECT id FROM t; INSERT INTO t VALUES (1), (2), (3)")?;
    assert_eq!(client.query_one("SELECT count(*) FROM v", &[])?.get::<_, i64>(0), 3);
    Ok(())
}

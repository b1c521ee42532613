//! What is said of a table while it moves: rights, policies and triggers.
use anyhow::{Result, ensure};
use pg_test::movement::{complains, reaches};
use pg_test::sql::{code, column, refused};
use pg_test::{PATIENCE, Twin, eventually};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Runs it on the coordinator and on all nodes.
fn everywhere(twin: &Twin, statements: &str) -> Result<()> {
    twin.cluster.servers().try_for_each(|server| server.run(statements))
}

/// Policies and triggers of the parent are the parent's before and after; the copy neither obeys nor fires them.
#[test]
fn policies_and_triggers_stay_with_the_parent() -> Result<()> {
    let mut twin = Twin::joined(
        2,
        "t",
        "CREATE TABLE IF NOT EXISTS fired (what text, who text);
         CREATE OR REPLACE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO fired VALUES (tg_op, current_user); RETURN new; END $$;
         CREATE TABLE @ (id int PRIMARY KEY, owner text)",
    )?;
    twin.client.batch_execute(
        "CREATE TRIGGER fires BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fire(); ALTER TABLE t ENABLE ALWAYS TRIGGER fires;
         CREATE POLICY own ON t USING (owner = current_user); ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
         CREATE ROLE reader LOGIN PASSWORD 'reader'; GRANT SELECT ON t TO reader",
    )?;
    for node in ["n1", "n2"] {
        twin.client.batch_execute(&format!("SELECT shard_grant_node('{node}', 'reader', 'app', 'app')"))?;
    }
    twin.run(
        "INSERT INTO @ SELECT i, CASE WHEN i % 3 = 0 THEN 'reader' ELSE 'app' END FROM generate_series(1, 60) AS i",
    )?;
    let changes = |twin: &mut Twin| {
        twin.run("UPDATE @ SET owner = 'app' WHERE id % 10 = 0; INSERT INTO @ VALUES (# + 1, 'reader'); DELETE FROM @ WHERE id = 5")
    };
    let mut fired: i64 = twin.cluster.coordinator.count("fired")?;
    for call in [
        "shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')",
        "shard_set_modulus('t', 3, nodes => '{n1, n2, local}')",
        "shard_move_partition('t_0', 'local')",
        "shard_move_partition('t_2', 'n2')",
    ] {
        twin.operate(call, changes)?;
        // What people did, and nothing else: each round wrote one row and updated those of its condition.
        let after: i64 = twin.cluster.coordinator.count("fired")?;
        let updated: i64 = twin.cluster.coordinator.value("SELECT count(*) FROM plain_twin WHERE id % 10 = 0")?;
        ensure!(after - fired <= 2 * (updated + 1), "{call}: {} fired", after - fired);
        fired = after;
        let mut reader = twin.cluster.coordinator.client_as("reader", "reader", "app")?;
        let seen = column(&mut reader, "SELECT count(*) FROM t")?;
        let wanted: i64 = twin.cluster.coordinator.value("SELECT count(*) FROM plain_twin WHERE owner = 'reader'")?;
        ensure!(seen == [wanted.to_string()], "{call}: {seen:?} of {wanted}");
    }
    // What a node hides from the owner's role there would be lost.
    twin.cluster.node(2).run("ALTER TABLE t_2 ENABLE ROW LEVEL SECURITY; ALTER TABLE t_2 FORCE ROW LEVEL SECURITY")?;
    let id: i64 = twin.client.query_one("SELECT shard_move_partition('t_2', 'n1')", &[])?.get(0);
    let hint = complains(&twin.cluster, id, "row security hides rows of public.t_2", LIMIT)?;
    ensure!(hint.contains("NO FORCE ROW LEVEL SECURITY"), "{hint}");
    twin.cluster.node(2).run("ALTER TABLE t_2 NO FORCE ROW LEVEL SECURITY")?;
    twin.finish(id)?;
    twin.is_same()?;
    twin.nothing_is_left()
}

/// It cannot be on a foreign table with the same effect, nor on a node that lacks its function: somebody has to decide.
#[test]
fn triggers_of_a_leaf_are_neither_fired_nor_lost() -> Result<()> {
    let mut twin = Twin::joined(1, "t", "CREATE TABLE @ (id int PRIMARY KEY, b text)")?;
    twin.client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2)")?;
    twin.client.batch_execute(
        "CREATE TABLE fired (id int); CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO fired VALUES (new.id); RETURN new; END $$;
         CREATE TRIGGER fires AFTER INSERT OR UPDATE ON t_0 FOR EACH ROW EXECUTE FUNCTION fire(); ALTER TABLE t_0 ENABLE ALWAYS TRIGGER fires",
    )?;
    twin.run("INSERT INTO @ SELECT i, '' FROM generate_series(1, 20) AS i")?;
    let before = twin.cluster.coordinator.count("fired")?;
    let error = refused(&mut twin.client, "SELECT shard_move_partition('t_0', 'n1')")?;
    ensure!(error.detail().is_some_and(|detail| detail.contains("trigger fires")), "{error:?}");
    twin.client.batch_execute("DROP TRIGGER fires ON t_0; CREATE TRIGGER fires AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fire()")?;
    let id: i64 = twin.client.query_one("SELECT shard_move_partition('t_0', 'n1')", &[])?.get(0);
    reaches(&twin.cluster, id, "switched", LIMIT)?;
    ensure!(twin.cluster.coordinator.count("fired")? == before && before > 0);
    twin.run("UPDATE @ SET b = 'after'")?;
    ensure!(twin.cluster.coordinator.count("fired")? == before + 20);
    twin.finish(id)?;
    twin.is_same()?;
    twin.nothing_is_left()
}

#[test]
fn rights_given_and_taken_meanwhile_reach_the_new_tables() -> Result<()> {
    let mut twin = Twin::joined(2, "t", "CREATE TABLE @ (id int PRIMARY KEY, b text)")?;
    everywhere(
        &twin,
        "CREATE ROLE gets LOGIN PASSWORD 'secret'; CREATE ROLE loses LOGIN PASSWORD 'secret'; CREATE ROLE part LOGIN PASSWORD 'secret'",
    )?;
    for node in ["n1", "n2"] {
        for role in ["gets", "loses", "part"] {
            twin.client.batch_execute(&format!("SELECT shard_grant_node('{node}', '{role}', '{role}', 'secret')"))?;
        }
    }
    twin.client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}'); GRANT SELECT ON t TO loses")?;
    twin.run("INSERT INTO @ SELECT i, '' FROM generate_series(1, 20) AS i")?;
    let may = |twin: &Twin, node: usize, role: &str, query: &str| -> Result<String> {
        let mut client = twin.cluster.node(node).client_as(role, "secret", "app")?;
        match client.batch_execute(query) {
            Ok(()) => Ok("may".into()),
            Err(_) => code(&mut client, query),
        }
    };
    for (call, node, leaf) in [
        ("shard_move_partition('t_0', 'n2')", 2, "t_0"),
        ("shard_set_modulus('t', 3, nodes => '{local, n1, n2}')", 1, "t_1"),
    ] {
        twin.client.batch_execute(
            "GRANT SELECT ON t TO loses; REVOKE ALL ON t FROM gets; REVOKE SELECT (id) ON t FROM part",
        )?;
        let mut round = 0;
        twin.operate(call, |twin| {
            round += 1;
            twin.client.batch_execute(match round {
                1 => "GRANT SELECT ON t TO gets",
                _ => "REVOKE ALL ON t FROM loses; GRANT UPDATE ON t TO gets; GRANT SELECT (id) ON t TO part",
            })?;
            twin.run("UPDATE @ SET b = b || '.'")
        })?;
        for (role, query, wanted) in [
            ("gets", format!("SELECT b FROM {leaf}; UPDATE {leaf} SET b = b"), "may"),
            ("gets", format!("DELETE FROM {leaf}"), "42501"),
            ("loses", format!("SELECT b FROM {leaf}"), "42501"),
            ("part", format!("SELECT id FROM {leaf}"), "may"),
            ("part", format!("SELECT b FROM {leaf}"), "42501"),
        ] {
            let found = may(&twin, node, role, &query)?;
            ensure!(found == wanted, "{call}: {role}: {query}: {found}");
        }
        let stale = "SELECT count(*) FROM shard_check() WHERE severity <> 'ok' AND finding LIKE '%rights%'";
        eventually("rights are in step", PATIENCE, || Ok(twin.cluster.coordinator.value::<i64>(stale)? == 0))?;
    }
    // And GRANT goes on reaching them.
    twin.client.batch_execute("GRANT SELECT ON t TO loses")?;
    ensure!(may(&twin, 1, "loses", "SELECT b FROM t_1")? == "may");
    twin.nothing_is_left()
}

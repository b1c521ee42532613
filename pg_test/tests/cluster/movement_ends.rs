//! No operation goes on for ever: what time does not cure ends it after some tries, with nothing left, and whatever a hint names
//! can be called.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{complains, ends, field, joined, nothing_is_left, reaches, told};
use pg_test::sql::{column, refused};
use pg_test::{Cluster, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

/// Tables with a leaf on n1 each.
fn scene(tables: &[&str]) -> Result<(Cluster, Client)> {
    let cluster = joined(2)?;
    cluster.coordinator.configure(&[("shardkeeper.trash_keep", "0")])?;
    cluster.coordinator.reload()?;
    let mut client = cluster.coordinator.patient()?;
    for table in tables {
        client.batch_execute(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, version int);
             SELECT shard_create_parent('{table}', 'hash', 'id', modulus => 1, nodes => '{{n1}}');
             INSERT INTO {table} SELECT i, i FROM generate_series(1, 200) AS i"
        ))?;
    }
    Ok((cluster, client))
}

fn begin(client: &mut Client, table: &str, more: &str) -> Result<i64> {
    let call = format!("SELECT shard_move_partition('{table}_0', 'n2'{more})");
    Ok(client.query_one(&call, &[]).context(call)?.get(0))
}

/// The error of an operation that was given up, once nothing of it is left.
fn fails(cluster: &Cluster, id: i64, says: &str) -> Result<()> {
    ends(cluster, id, LIMIT)?;
    let (state, error) = (field(cluster, id, "state")?, field(cluster, id, "error")?);
    ensure!(state == "failed" && error.contains(says), "{state}: {error}\n{}", told(cluster));
    let waited = refused(&mut cluster.coordinator.client()?, &format!("SELECT shard_wait({id})"))?;
    ensure!(waited.message().contains(says), "{waited:?}");
    Ok(())
}

#[test]
fn what_time_does_not_cure_ends_an_operation_with_nothing_left() -> Result<()> {
    let (cluster, mut client) = scene(&["refusing", "checked", "taken", "locked", "back"])?;
    let node = cluster.node(2);
    let back = begin(&mut client, "back", "")?;
    reaches(&cluster, back, "switched", LIMIT)?;

    // The switch back finds another table in its place. The new partitions serve on, and can still be reverted.
    cluster.node(1).run("CREATE TABLE back_0 (id int)")?;
    client.execute("SELECT shard_revert($1)", &[&back])?;
    // P0001: somebody lets no table be made there.
    node.run(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
             IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE '%.refusing_0') THEN
                 RAISE EXCEPTION 'no tables here';
             END IF;
         END $$;
         CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION refuse()",
    )?;
    let refusing = begin(&mut client, "refusing", "")?;
    // 23514 and 42P07, when all is copied and the switch waits for its lock.
    let mut reader = cluster.coordinator.client()?;
    reader.batch_execute(
        "BEGIN; LOCK TABLE checked, taken IN ACCESS SHARE MODE; LOCK TABLE locked IN ROW EXCLUSIVE MODE",
    )?;
    let checked = begin(&mut client, "checked", "")?;
    let taken = begin(&mut client, "taken", "")?;
    let locked = begin(&mut client, "locked", ", mode => 'block_writes'")?;
    complains(&cluster, checked, "nobody holds the parent", LIMIT)?;
    complains(&cluster, taken, "nobody holds the parent", LIMIT)?;
    complains(&cluster, locked, "nobody writes to the parent", LIMIT)?;
    let staging: String =
        cluster.coordinator.value(&format!("SELECT staging::text FROM shardkeeper.operations WHERE id = {checked}"))?;
    node.run(&format!("ALTER TABLE {staging}.checked_0 ADD CHECK (version < 1000)"))?;
    node.run("CREATE TABLE taken_0 (id int); CREATE TABLE locked_0 (id int)")?;
    client.batch_execute("INSERT INTO checked VALUES (1000, 1000)")?;
    reader.batch_execute("COMMIT")?;

    fails(&cluster, refusing, "no tables here")?;
    fails(&cluster, checked, "violates check constraint")?;
    fails(&cluster, taken, "\"taken_0\" already exists")?;
    fails(&cluster, locked, "\"locked_0\" already exists")?;
    let waited = refused(&mut client, &format!("SELECT shard_wait({back})"));
    match waited {
        Ok(error) => ensure!(error.message().contains("was not reverted"), "{error:?}"),
        // It was given up before.
        Err(_) => ensure!(field(&cluster, back, "state")? == "switched"),
    }
    let detail = field(&cluster, back, "detail")?;
    ensure!(detail.contains("Its revert was given up") && detail.contains("already exists"), "{detail}");
    ensure!(field(&cluster, back, "revertible")? == "true", "{}", told(&cluster));

    // The sources serve.
    client.batch_execute(
        "DELETE FROM checked WHERE id = 1000;
         UPDATE refusing SET version = version + 1; UPDATE checked SET version = version + 1;
         UPDATE taken SET version = version + 1; UPDATE locked SET version = version + 1; UPDATE back SET version = version + 1",
    )?;
    node.run("DROP EVENT TRIGGER refuse; DROP FUNCTION refuse(); DROP TABLE taken_0, locked_0")?;
    cluster.node(1).run("DROP TABLE back_0")?;
    client.execute("SELECT shard_revert($1)", &[&back])?;
    ends(&cluster, back, LIMIT)?;
    ensure!(field(&cluster, back, "state")? == "reverted", "{}", told(&cluster));
    for table in ["refusing", "checked", "taken", "locked", "back"] {
        let sum: i64 = client.query_one(&format!("SELECT sum(version) FROM {table}"), &[])?.get(0);
        assert_eq!(sum, 200 * 201 / 2 + 200, "{table}");
    }
    nothing_is_left(&cluster)
}

/// Calls for an operation that are named by what is said about it.
fn calls(text: &str) -> Vec<String> {
    let named = text.split("SELECT shard_").skip(1).filter_map(|rest| rest.split_once(';'));
    named.map(|(call, _)| format!("SELECT shard_{call}")).filter(|call| !call.contains("shard_wait")).collect()
}

/// Each of these calls is accepted now.
fn are_accepted(client: &mut Client, text: &str, named: &[&str]) -> Result<()> {
    let found = calls(text);
    for name in named {
        ensure!(found.iter().any(|call| call.contains(name)), "no {name} in {text}");
    }
    for call in found {
        client.batch_execute("BEGIN")?;
        let outcome = client.batch_execute(&call);
        client.batch_execute("ROLLBACK")?;
        outcome.with_context(|| format!("{call} of {text}"))?;
    }
    Ok(())
}

/// What `shard_check` says of the operations, when it says all of these words.
fn eventually_says(client: &mut Client, words: &[&str]) -> Result<String> {
    let mut last = String::new();
    eventually(&format!("{words:?}"), LIMIT, || {
        let query = "SELECT concat_ws(' | ', severity, finding, hint) FROM shard_check() WHERE area = 'operation'";
        last = column(client, query)?.join("\n");
        Ok(words.iter().all(|word| last.contains(word)))
    })
    .with_context(|| last.clone())?;
    Ok(last)
}

#[test]
fn calls_that_hints_name_are_accepted_in_that_state() -> Result<()> {
    let (cluster, mut client) = scene(&["t", "u"])?;
    let node = cluster.node(2);
    client.batch_execute("BEGIN; SELECT shard_move_partition('t_0', 'n2'); SELECT shard_pause(1); COMMIT")?;
    let said = eventually_says(&mut client, &["is paused in state planned"])?;
    are_accepted(&mut client, &said, &["shard_resume", "shard_cancel"])?;
    let error = refused(&mut client, "SELECT shard_move_partition('t_0', 'n2')")?;
    are_accepted(&mut client, error.hint().unwrap_or_default(), &["shard_cancel"])?;
    for call in ["shard_revert", "shard_finish"] {
        let error = refused(&mut client, &format!("SELECT {call}(1)"))?;
        are_accepted(&mut client, error.hint().unwrap_or_default(), &["shard_cancel"])?;
    }

    // The password is another one there for a while.
    node.run("ALTER ROLE app PASSWORD 'other'")?;
    client.batch_execute("SELECT shard_resume(1)")?;
    eventually_says(&mut client, &["warning | operation 1 is preparing; ", "tries failed", "rejects the password"])?;
    node.run("ALTER ROLE app PASSWORD 'app'")?;

    // No new session of its role is let in there, amid an operation.
    let limited = "ALTER ROLE app CONNECTION LIMIT 0; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
    node.run(limited)?;
    client.batch_execute("SELECT shard_resume(1)")?;
    let words = ["warning | operation 1 is ", "tries failed", "too many connections for role", "CONNECTION LIMIT"];
    eventually_says(&mut client, &words)?;
    node.run("ALTER ROLE app CONNECTION LIMIT -1")?;
    client.batch_execute("SELECT shard_resume(1)")?;
    reaches(&cluster, 1, "switched", LIMIT)?;
    eventually("it is tidied up", LIMIT, || {
        cluster.coordinator.value("SELECT targets_cleaned FROM shardkeeper.operations")
    })?;

    // The same when it has switched, and is to go back.
    let error = refused(&mut client, "SELECT shard_cancel(1)")?;
    are_accepted(&mut client, error.hint().unwrap_or_default(), &["shard_revert"])?;
    node.run(limited)?;
    client.batch_execute("SELECT shard_revert(1)")?;
    let said = eventually_says(&mut client, &["operation 1 is reverting; ", "too many connections for role"])?;
    are_accepted(&mut client, &said, &[])?;
    for call in ["shard_finish", "shard_move_partition"] {
        let arguments = if call == "shard_finish" { "1" } else { "'t_0', 'n1'" };
        let error = refused(&mut client, &format!("SELECT {call}({arguments})"))?;
        are_accepted(&mut client, error.hint().unwrap_or_default(), &[])?;
    }
    node.run("ALTER ROLE app CONNECTION LIMIT -1")?;
    client.batch_execute("SELECT shard_resume(1)")?;
    ends(&cluster, 1, LIMIT)?;
    ensure!(field(&cluster, 1, "state")? == "reverted", "{}", told(&cluster));

    // Without a way back, what is named is no way back.
    let blocked = begin(&mut client, "u", ", mode => 'block_writes'")?;
    reaches(&cluster, blocked, "switched", LIMIT)?;
    for call in ["shard_cancel", "shard_revert"] {
        let error = refused(&mut client, &format!("SELECT {call}({blocked})"))?;
        let hint = error.hint().context("a hint")?;
        ensure!(!hint.contains("shard_revert("), "{hint}");
        are_accepted(&mut client, hint, &[])?;
    }
    client.execute("SELECT shard_finish($1)", &[&blocked])?;
    ends(&cluster, blocked, LIMIT)?;
    nothing_is_left(&cluster)
}

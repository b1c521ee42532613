//! Odd rows move as others do: values that no change tells, rows that nothing tells apart, tables that are emptied meanwhile.
use anyhow::{Context, Result, ensure};
use pg_test::movement::{self, complains, field, told};
use pg_test::sql::{code, column, rows};
use pg_test::{PATIENCE, Twin};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Text of about that length. The columns that it is for are not compressed.
const NOISE: &str = "CREATE FUNCTION noise(seed bigint, length int) RETURNS text LANGUAGE sql AS
    $$ SELECT repeat(md5(seed::text), length / 32) $$";

/// Pairs of keys: a row of the first one gets the second one within its leaf of modulus 2, and so in another of modulus 4.
fn moves_within_leaves(twin: &mut Twin, ids: (i64, i64)) -> Result<Vec<(String, String)>> {
    let remainder = |modulus: i64, id: &str| {
        let list: Vec<String> = (0..modulus)
            .map(|at| format!("WHEN satisfies_hash_partition('t'::regclass, {modulus}, {at}, {id}) THEN {at}"))
            .collect();
        format!("CASE {} END", list.join(" "))
    };
    let query = format!(
        "SELECT old || ' ' || (SELECT min(new) FROM generate_series({to}, {to} + 400) AS new
             WHERE {} = {} AND {} <> {} AND new % 10 = old % 10)
         FROM generate_series({from}::bigint, {from}::bigint + 9) AS old",
        remainder(2, "old"),
        remainder(2, "new::bigint"),
        remainder(4, "old"),
        remainder(4, "new::bigint"),
        from = ids.0,
        to = ids.1,
    );
    let pairs = column(&mut twin.client, &query)?;
    pairs.iter().map(|pair| pair.split_once(' ').map(|(a, b)| (a.into(), b.into())).context("a pair")).collect()
}

#[test]
fn large_values_that_changes_leave_out_come_along() -> Result<()> {
    let mut twin = Twin::joined(
        2,
        "t",
        "CREATE TABLE @ (id bigint PRIMARY KEY, tag text, large text, huge text, packed jsonb);
         ALTER TABLE @ ALTER large SET STORAGE EXTERNAL, ALTER huge SET STORAGE EXTERNAL, ALTER packed SET STORAGE EXTERNAL",
    )?;
    twin.client.batch_execute(NOISE)?;
    twin.run(
        "INSERT INTO @ SELECT i, 'old', noise(i, 4000), CASE WHEN i % 20 = 0 THEN noise(i + 1000, 1500000) END,
             jsonb_build_object('long', noise(i, 3000)) FROM generate_series(1, 200) AS i",
    )?;
    let changes = |twin: &mut Twin| {
        twin.run(
            "UPDATE @ SET tag = 'new #' WHERE id % 3 = 0; UPDATE @ SET tag = tag || '!' WHERE id % 6 = 0;
             UPDATE @ SET large = '' WHERE id = 5; UPDATE @ SET large = NULL WHERE id = 7;
             BEGIN; UPDATE @ SET large = noise(# + 3, 5000) WHERE id = 9; UPDATE @ SET tag = 'twice' WHERE id = 9;
             UPDATE @ SET huge = NULL, tag = NULL WHERE id = 20; COMMIT;
             DELETE FROM @ WHERE id = 30; INSERT INTO @ VALUES (30, '', noise(# + 30, 9000), '', '{}');
             INSERT INTO @ SELECT # + 1000 + i, NULL, noise(# + i, 4000) FROM generate_series(1, 20) AS i;
             UPDATE @ SET tag = 'inserted' WHERE id > # + 1000",
        )
    };
    twin.operate("shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')", changes)?;
    twin.operate("shard_move_partition('t_0', 'n2')", changes)?;
    let mut from = 101;
    twin.operate("shard_set_modulus('t', 4, nodes => '{n1, n2, local, n2}')", |twin| {
        changes(twin)?;
        // Rows change their server with values that the change does not tell, one after an update in the same transaction.
        for (old, new) in moves_within_leaves(twin, (from, from * 1000))? {
            twin.run(&format!("UPDATE @ SET id = {new} WHERE id = {old}"))?;
        }
        for (old, new) in moves_within_leaves(twin, (from + 10, from * 1000 + 500))? {
            twin.run(&format!(
                "BEGIN; UPDATE @ SET tag = 'moves' WHERE id = {old}; UPDATE @ SET id = {new}, tag = '' WHERE id = {old};
                 UPDATE @ SET tag = tag || 'moved' WHERE id = {new}; COMMIT"
            ))?;
        }
        from += 20;
        Ok(())
    })?;
    twin.operate("shard_move_partition('t_1', 'local')", changes)?;
    twin.nothing_is_left()
}

/// Rows that pass values of another unique key on to each other: each update fits only after the one before.
#[test]
fn unique_values_change_hands() -> Result<()> {
    let mut twin = Twin::joined(
        2,
        "t",
        "CREATE TABLE @ (tenant int, id int, place int NOT NULL, large text, PRIMARY KEY (tenant, id), UNIQUE (tenant, place));
         ALTER TABLE @ ALTER large SET STORAGE EXTERNAL",
    )?;
    twin.client.batch_execute(NOISE)?;
    twin.run("INSERT INTO @ SELECT i % 4, i, i, noise(i, 4000) FROM generate_series(1, 40) AS i")?;
    let changes = |twin: &mut Twin| {
        twin.run(
            "BEGIN; UPDATE @ SET place = -1 WHERE tenant = 1 AND id = 1;
             UPDATE @ SET place = 6 - place WHERE tenant = 1 AND id = 5;
             UPDATE @ SET place = 6 - (SELECT o.place FROM @ AS o WHERE o.tenant = 1 AND o.id = 5) WHERE tenant = 1 AND id = 1;
             COMMIT;
             BEGIN; DELETE FROM @ WHERE tenant = 2 AND id = 2;
             UPDATE @ SET place = 8 - place WHERE tenant = 2 AND id = 6;
             INSERT INTO @ SELECT 2, 2, 8 - o.place, noise(#, 3000) FROM @ AS o WHERE o.tenant = 2 AND o.id = 6; COMMIT;
             UPDATE @ SET place = place + 1000 WHERE tenant = 3; UPDATE @ SET place = place - 999 WHERE tenant = 3",
        )
    };
    twin.operate("shard_create_parent('t', 'hash', 'tenant', modulus => 2, nodes => '{n1, local}')", changes)?;
    twin.operate("shard_set_modulus('t', 3, nodes => '{n1, n2, local}')", changes)?;
    twin.operate("shard_set_modulus('t', 2, nodes => '{n2, local}')", changes)?;
    twin.nothing_is_left()
}

/// One of several equal rows is changed, on the server that has it: through the parent it could not be named.
fn one_of(twin: &mut Twin, key: i32, action: &str, condition: &str) -> Result<()> {
    let statement = |table: &str| {
        let one = format!(
            "ctid = (SELECT ctid FROM {table} AS odd WHERE a = {key} AND {condition} ORDER BY odd::text COLLATE \"C\" LIMIT 1)"
        );
        action.replace('@', table).replace("THIS", &one)
    };
    twin.plainly(&statement("@"))?;
    let place = format!("SELECT partition || ' ' || node FROM shard_locate('t', '{{\"a\": {key}}}')");
    let Ok(place) = twin.cluster.coordinator.value::<String>(&place) else {
        return twin.cluster.coordinator.run(&statement("t"));
    };
    let (leaf, node) = place.split_once(' ').context("a leaf and its node")?;
    let server = twin.cluster.servers().find(|server| server.name == node).unwrap_or(&twin.cluster.coordinator);
    server.run(&statement(leaf))
}

#[test]
fn rows_that_nothing_tells_apart_are_changed_one_by_one() -> Result<()> {
    let mut twin = Twin::joined(
        2,
        "t",
        "CREATE TABLE @ (a int, b text, flag bool, short char(7), address inet, at timestamptz, n numeric, f float8, j json,
             pair point, code \"char\", price money);
         ALTER TABLE @ REPLICA IDENTITY FULL",
    )?;
    // Servers write values as they are told to: that must not matter.
    twin.cluster
        .node(1)
        .run("ALTER DATABASE app SET timezone = 'Asia/Kolkata'; ALTER DATABASE app SET datestyle = 'German'")?;
    twin.cluster
        .node(2)
        .run("ALTER DATABASE app SET bytea_output = 'escape'; ALTER DATABASE app SET extra_float_digits = 0")?;
    twin.cluster.coordinator.run("ALTER DATABASE app SET timezone = 'America/Caracas'")?;
    twin.run(
        "INSERT INTO @ SELECT i % 10, CASE i % 3 WHEN 0 THEN '' WHEN 1 THEN 'b' END, i % 2 = 0, 'ab', '10.0.0.1', '2026-01-01 00:00+00',
             1.50, 0.1, '{\"a\":  1}', '(1,2)', 'x', '12.50' FROM generate_series(1, 120) AS i;
         INSERT INTO @ (a) SELECT i % 10 FROM generate_series(1, 40) AS i",
    )?;
    let changes = |twin: &mut Twin| {
        for key in [1, 2, 3, 4] {
            one_of(twin, key, "UPDATE @ SET b = 'one', n = 'NaN' WHERE THIS", "b = 'b'")?;
            one_of(twin, key, "DELETE FROM @ WHERE THIS", "flag")?;
            one_of(twin, key, "DELETE FROM @ WHERE THIS", "b IS NULL AND flag IS NULL")?;
            one_of(twin, key, "UPDATE @ SET flag = NOT flag, short = short || '.' WHERE THIS", "b = ''")?;
            one_of(twin, key, "UPDATE @ SET f = 'Infinity', at = '-infinity', short = NULL WHERE THIS", "b IS NULL")?;
        }
        twin.run(
            "UPDATE @ SET b = NULL WHERE a = 5 AND b = ''; UPDATE @ SET b = '' WHERE a = 6; DELETE FROM @ WHERE a = 7;
                  INSERT INTO @ (a, b, flag) SELECT 7, 'again', true FROM generate_series(1, 3)",
        )
    };
    twin.operate("shard_create_parent('t', 'hash', 'a', modulus => 2, nodes => '{n1, local}')", changes)?;
    twin.operate("shard_move_partition('t_1', 'n2')", changes)?;
    twin.operate("shard_set_modulus('t', 3, nodes => '{n1, n2, local}')", changes)?;
    twin.operate("shard_move_partition('t_0', 'n2')", changes)?;
    twin.nothing_is_left()
}

/// Without a primary key on the parent, a leaf that is given a full identity where it is moves on with it.
#[test]
fn no_identity_is_refused_and_can_be_given_on_the_node() -> Result<()> {
    let mut twin = Twin::joined(
        2,
        "t",
        "CREATE TABLE @ (a int, b text); INSERT INTO @ SELECT i, '' FROM generate_series(1, 9) AS i",
    )?;
    let convert = "SELECT shard_create_parent('t', 'hash', 'a', modulus => 2, nodes => '{n1, local}')";
    let refusal = twin.refuses(convert)?;
    ensure!(refusal.starts_with("55000 ") && refusal.contains("has no replica identity"), "{refusal}");
    ensure!(refusal.contains("REPLICA IDENTITY FULL"), "{refusal}");
    twin.client.batch_execute(&format!(
        "CREATE TEMP TABLE kept AS TABLE t; DELETE FROM t; {convert}; INSERT INTO t TABLE kept"
    ))?;
    let plan = column(&mut twin.client, "SELECT action FROM shard_plan_move_partition('t_0', 'n2') WHERE step = 1")?;
    ensure!(
        plan.len() == 1
            && plan[0].starts_with("wait until this is mended: public.t_0 on node n1 has no replica identity"),
        "{plan:?}"
    );
    let id: i64 = twin.client.query_one("SELECT shard_move_partition('t_0', 'n2')", &[])?.get(0);
    let hint = complains(&twin.cluster, id, "has no replica identity", LIMIT)?;
    ensure!(hint.contains("ALTER TABLE public.t_0 REPLICA IDENTITY FULL"), "{hint}");
    ensure!(field(&twin.cluster, id, "state")? == "preparing");
    twin.run("UPDATE @ SET b = NULL WHERE a < 4; DELETE FROM @ WHERE a = 5")?;
    let command = hint.strip_prefix("Run ").and_then(|rest| rest.split(';').next()).unwrap_or_default();
    let answer = rows(&mut twin.client, command)?;
    ensure!(answer.len() == 1 && answer[0][1] == "t", "{command}: {answer:?}");
    twin.finish(id)?;
    twin.is_same()?;
    twin.operate("shard_move_partition('t_0', 'local')", |twin| {
        twin.run("UPDATE @ SET b = '#' WHERE a % 2 = 0; DELETE FROM @ WHERE a = 2")
    })?;
    twin.cluster.coordinator.run("ALTER TABLE t_0 REPLICA IDENTITY NOTHING")?;
    let id: i64 = twin.client.query_one("SELECT shard_move_partition('t_0', 'n2')", &[])?.get(0);
    complains(&twin.cluster, id, "has no replica identity", LIMIT)?;
    twin.client.execute("SELECT shard_cancel($1)", &[&id])?;
    twin.nothing_is_left()?;
    twin.is_same()
}

#[test]
fn tables_are_emptied_at_any_time() -> Result<()> {
    let cluster = movement::cluster(2)?;
    cluster.add_nodes_by_proxy()?;
    let mut twin = Twin::new(cluster, "t", "CREATE TABLE @ (id int PRIMARY KEY, b text)")?;
    twin.client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, n2}')")?;
    twin.run("INSERT INTO @ SELECT i, '' FROM generate_series(1, 1000) AS i")?;
    // In mid copy: the first leaf is copied, the second one is being read.
    let hit = twin.cluster.proxy(2).stall_on(b"COPY (SELECT");
    let id: i64 = twin.client.query_one("SELECT shard_set_modulus('t', 3, nodes => '{n1, n2, local}')", &[])?.get(0);
    hit.wait_until_hit(PATIENCE).with_context(|| told(&twin.cluster))?;
    let emptied = |node: usize, leaf: &str| {
        format!("BEGIN; SET LOCAL lock_timeout = '300ms'; UPDATE {leaf} SET b = 'n{node}'; TRUNCATE {leaf}; COMMIT")
    };
    let mut first = twin.cluster.node(1).client()?;
    first.batch_execute(&emptied(1, "t_0"))?;
    first.batch_execute("INSERT INTO t_0 SELECT i, 'again' FROM generate_series(1, 1000) AS i WHERE satisfies_hash_partition('t'::regclass, 2, 0, i)")?;
    // What is being read cannot be emptied under the reader.
    let mut second = twin.cluster.node(2).client()?;
    ensure!(code(&mut second, &emptied(2, "t_1"))? == "55P03");
    second.batch_execute("ROLLBACK; UPDATE t_1 SET b = 'kept'")?;
    twin.cluster.proxy(2).resume();
    twin.plainly("TRUNCATE @; INSERT INTO @ SELECT i, CASE WHEN satisfies_hash_partition('t'::regclass, 2, 0, i) THEN 'again' ELSE 'kept' END FROM generate_series(1, 1000) AS i")?;
    twin.finish(id)?;
    twin.is_same()?;
    // In mid catch-up: a leaf of several, the whole, and a part of the sources of one operation.
    for call in ["shard_set_modulus('t', 2, nodes => '{n2, local}')", "shard_move_partition('t_0', 'n1')"] {
        let mut round = 0;
        twin.operate(call, |twin| {
            round += 1;
            // The second round is while the operation is paused: nobody keeps the parent from being locked.
            let empty = if round == 2 {
                "TRUNCATE @; INSERT INTO @ SELECT i, 'new' FROM generate_series(1, 700) AS i;"
            } else {
                ""
            };
            twin.run(&format!(
                "UPDATE @ SET b = b || '.' WHERE id % 2 = 0; {empty} DELETE FROM @ WHERE id % 50 = 0;
                               INSERT INTO @ SELECT i, 'later' FROM generate_series(# + 1001, # + 1300) AS i"
            ))
        })?;
    }
    twin.run("TRUNCATE @")?;
    twin.operate("shard_set_modulus('t', 3, nodes => '{n1, n2, local}')", |_| Ok(()))?;
    twin.nothing_is_left()
}

/// The log of a server is full of what others write: no change of the table itself has to come for its move to go on.
#[test]
fn a_table_that_nobody_writes_to_moves_beside_busy_ones() -> Result<()> {
    let cluster = movement::cluster(2)?;
    cluster.add_nodes_by_proxy()?;
    let mut twin = Twin::new(cluster, "t", "CREATE TABLE @ (id int PRIMARY KEY)")?;
    twin.client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 1, nodes => '{n1}')")?;
    twin.run("INSERT INTO @ SELECT generate_series(1, 10)")?;
    let hit = twin.cluster.proxy(1).stall_on(b"COPY (SELECT");
    let id: i64 = twin.client.query_one("SELECT shard_move_partition('t_0', 'n2')", &[])?.get(0);
    hit.wait_until_hit(PATIENCE).with_context(|| told(&twin.cluster))?;
    twin.cluster
        .node(1)
        .run("CREATE TABLE busy AS SELECT i, repeat('x', 300) AS filler FROM generate_series(1, 100000) AS i")?;
    twin.cluster.proxy(1).resume();
    twin.finish(id)?;
    twin.is_same()?;
    twin.nothing_is_left()
}

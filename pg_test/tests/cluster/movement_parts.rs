//! A modulus that the old one divides, or that divides the old one: partitions are replaced one after the other.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{
    complains, ends, field, filled, is_as_before, joined, nothing_is_left, objects, reaches, there_and_back, told,
    under_load,
};
use pg_test::sql::{column, refused};
use pg_test::{Cluster, Keys, Ledger, PATIENCE, Workload, eventually};
use postgres::Client;

const LIMIT: Duration = Duration::from_secs(60);

fn scene(keys: Keys, create: &str) -> Result<(Cluster, Client)> {
    filled(joined(3)?, keys, create, 3_000)
}

const TWO: &str = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}')";
const FOUR: &str = "SELECT shard_set_modulus('t', 4, nodes => '{n2, local, n1}')";

/// What each part replaced by what: the numbers of old and new leaves.
fn parts(cluster: &Cluster, group: i64) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT jsonb_array_length(plan -> 'sources') || ' to ' || jsonb_array_length(plan -> 'targets')
         FROM shardkeeper.operations WHERE part_of = {group} ORDER BY part"
    );
    column(&mut cluster.coordinator.client()?, &sql)
}

/// Partitions of `t` as `modulus:remainder`.
fn bounds(client: &mut Client) -> Result<Vec<String>> {
    column(
        client,
        "SELECT regexp_replace(bounds, '.*modulus (\\d+), remainder (\\d+).*', '\\1:\\2') FROM shard_partitions
         WHERE parent = 't'::regclass ORDER BY 1",
    )
}

/// A session that keeps all switches from their lock.
fn holder(cluster: &Cluster) -> Result<Client> {
    let mut holder = cluster.coordinator.client()?;
    holder.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")?;
    Ok(holder)
}

/// Begins 2 to 4, and returns with its first part switched and its second one kept from that.
fn half_way(cluster: &Cluster, client: &mut Client) -> Result<(i64, i64, Client)> {
    let id: i64 = client.query_one(FOUR, &[])?.get(0);
    let count = format!("SELECT count(*) FROM shard_operations WHERE part_of = {id}");
    eventually("the second part begins", LIMIT, || Ok(cluster.coordinator.value::<i64>(&count)? == 2))?;
    let holder = holder(cluster)?;
    let second = format!("SELECT max(id) FROM shard_operations WHERE part_of = {id}");
    let second = cluster.coordinator.value(&second)?;
    complains(cluster, second, "nobody holds the parent", LIMIT)?;
    let copied: i64 = cluster.coordinator.value(&format!("SELECT rows_done FROM shard_progress WHERE id = {id}"))?;
    ensure!(copied > 2_000, "{copied} rows of both parts\n{}", told(cluster));
    Ok((id, second, holder))
}

#[test]
fn dividing_moduli_go_part_by_part_while_clients_write() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let calls = [
        "shard_set_modulus('t', 4, nodes => '{n1, n2, local}')",
        "shard_set_modulus('t', 2, nodes => '{n2, local}')",
        "shard_set_modulus('t', 6)",
        "shard_set_modulus('t', 3, nodes => '{n1, n3}')",
        "shard_set_modulus('t', 3, nodes => '{n3, n1}')",
    ];
    under_load(&cluster, "t", Keys::Bigint, Workload::default(), &calls)?;
    let groups = column(&mut client, "SELECT id FROM shard_operations WHERE part_of IS NULL ORDER BY id")?;
    let expected = [vec!["1 to 2"; 2], vec!["2 to 1"; 2], vec!["1 to 3"; 2], vec!["2 to 1"; 3], vec!["1 to 1"; 3]];
    for (group, expected) in groups.iter().zip(expected) {
        assert_eq!(parts(&cluster, group.parse()?)?, expected, "{}", told(&cluster));
    }
    assert_eq!(groups.len(), calls.len());
    assert_eq!(bounds(&mut client)?, ["3:0", "3:1", "3:2"]);
    Ok(())
}

#[test]
fn partitions_with_partitions_go_part_by_part_while_clients_write() -> Result<()> {
    let create = r#"SELECT shard_create_parent('t', '{"method": "hash", "key": "id", "modulus": 2, "nodes": ["n1", "local"],
        "partitions": {"method": "hash", "key": "id", "modulus": 2}}')"#;
    let (cluster, _client) = scene(Keys::Text, create)?;
    let calls = [
        "shard_set_modulus('t', 4)",
        "shard_set_modulus('t_1', 4, nodes => '{n3, n2}')",
        "shard_set_modulus('t', 2, nodes => '{n2, n1}')",
    ];
    under_load(&cluster, "t", Keys::Text, Workload::default(), &calls)
}

#[test]
fn parts_come_to_the_places_that_were_planned() -> Result<()> {
    // The counter of the nodes is above the level, and names sort otherwise than numbers.
    let create = r#"SELECT shard_create_parent('t', '{"method": "list", "key": "client", "nodes": ["n1", "local", "n2"],
        "values": {"a": [0]}, "default": {"nodes": ["local"]},
        "partitions": {"method": "hash", "key": "id", "modulus": 2, "partitions": {"method": "hash", "key": "id", "modulus": 11}}}')"#;
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute("CREATE TABLE t (id bigint, client int, PRIMARY KEY (id, client))")?;
    client.batch_execute(create)?;
    for arguments in ["'t_a', 4", "'t_a', 4, '{n2, n1, local}'", "'t_a', 2, '{n1, n2}'"] {
        let planned = "SELECT DISTINCT concat_ws(' ', split_part(action, ' ', 3), node) FROM shard_plan_set_modulus";
        let planned = format!("{planned}({arguments}) WHERE action ~ '^create' ORDER BY 1");
        let planned = column(&mut client, &planned)?;
        let id: i64 = client.query_one(&format!("SELECT shard_set_modulus({arguments})"), &[])?.get(0);
        reaches(&cluster, id, "switched", LIMIT)?;
        let found = "SELECT concat_ws(' ', partition, node) FROM shard_partitions WHERE is_leaf AND partition::text ~ '^t_a' ORDER BY 1";
        assert_eq!(column(&mut client, found)?, planned, "{arguments}");
        client.execute("SELECT shard_finish($1)", &[&id])?;
        ends(&cluster, id, LIMIT)?;
    }
    nothing_is_left(&cluster)
}

#[test]
fn all_parts_are_reverted_while_clients_write() -> Result<()> {
    let (cluster, _client) = scene(Keys::Uuid, TWO)?;
    let calls = ["shard_set_modulus('t', 4, nodes => '{n1, n2, local}')", "shard_set_modulus('t', 6)"];
    there_and_back(&cluster, "t", Keys::Uuid, Workload::default(), &calls)
}

#[test]
fn writers_blocked_part_by_part() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let calls = ["shard_set_modulus('t', 4, nodes => '{n1, n2, local}', mode => 'block_writes')"];
    let workload = Workload { cancels: true, ..Workload::default() };
    under_load(&cluster, "t", Keys::Bigint, workload, &calls)?;
    assert_eq!(bounds(&mut client)?, ["4:0", "4:1", "4:2", "4:3"]);
    Ok(())
}

#[test]
fn a_cancel_amid_the_parts_brings_everything_back() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let before = objects(&cluster)?;
    let ledger = Ledger::start(&cluster, "t", Keys::Bigint, Workload { clients: 2, ..Workload::default() })?;
    let (id, _, mut holder) = half_way(&cluster, &mut client)?;
    assert_eq!(bounds(&mut client)?.len(), 3, "{}", told(&cluster));
    client.execute("SELECT shard_cancel($1)", &[&id])?;
    holder.batch_execute("COMMIT")?;
    ends(&cluster, id, LIMIT)?;
    assert_eq!(field(&cluster, id, "state")?, "cancelled", "{}", told(&cluster));
    assert_eq!(bounds(&mut client)?, ["2:0", "2:1"]);
    ledger.stop()?.check(&cluster)?;
    nothing_is_left(&cluster)?;
    is_as_before(&cluster, &before)
}

/// Begins 3 to 6 while writers wait, and cancels that when its first part has switched. The group and that part.
fn cancelled_amid_blocked_parts(cluster: &Cluster, client: &mut Client) -> Result<(i64, i64)> {
    // The second part is kept from its lock on the node.
    let mut writer = cluster.node(1).client()?;
    writer.batch_execute("BEGIN; LOCK TABLE t_1 IN ROW EXCLUSIVE MODE")?;
    let id: i64 = client.query_one("SELECT shard_set_modulus('t', 6, mode => 'block_writes')", &[])?.get(0);
    eventually("a part has switched", LIMIT, || Ok(bounds(client)?.len() == 4)).with_context(|| told(cluster))?;
    complains(cluster, id, "nobody writes to the parent", LIMIT)?;
    client.execute("SELECT shard_cancel($1)", &[&id])?;
    ends(cluster, id, LIMIT)?;
    writer.batch_execute("COMMIT")?;
    assert_eq!(field(cluster, id, "state")?, "cancelled", "{}", told(cluster));
    assert_eq!(bounds(client)?, ["3:1", "3:2", "6:0", "6:3"]);
    let part = format!("SELECT min(id) FROM shard_operations WHERE part_of = {id}");
    Ok((id, cluster.coordinator.value(&part)?))
}

#[test]
fn a_cancel_amid_parts_without_a_way_back_says_what_stays() -> Result<()> {
    let three = "SELECT shard_create_parent('t', 'hash', 'id', modulus => 3, nodes => '{local, n1, n2}')";
    let (cluster, mut client) = scene(Keys::Bigint, three)?;
    let rows = cluster.coordinator.count("t")?;
    let (group, part) = cancelled_amid_blocked_parts(&cluster, &mut client)?;
    assert_eq!(field(&cluster, part, "state")?, "switched", "{}", told(&cluster));
    assert_eq!(cluster.coordinator.count("t")?, rows);
    assert_eq!(field(&cluster, group, "error")?, "1 part of it could not be taken back");
    let why =
        format!("Operation {part}, a part of it, cannot be reverted. It was made with mode => 'block_writes', where");
    let detail = field(&cluster, group, "detail")?;
    ensure!(detail.contains(&why), "{detail}");
    assert_eq!(field(&cluster, group, "hint")?, "To go on or back, call shard_set_modulus again.");
    let finish = format!("SELECT shard_finish({part});");
    for call in ["shard_cancel", "shard_revert", "shard_finish", "shard_resume"] {
        let error = refused(&mut client, &format!("SELECT {call}({group})"))?;
        ensure!(error.code().code() == "55000" && error.detail().unwrap_or_default().contains(&why), "{error:?}");
        let hint = error.hint().unwrap_or_default();
        ensure!(hint.contains("call shard_set_modulus again") && hint.ends_with(&finish), "{error:?}");
    }

    // Back, and what the hint names.
    let back: i64 = client.query_one("SELECT shard_set_modulus('t', 3)", &[])?.get(0);
    reaches(&cluster, back, "switched", LIMIT)?;
    assert_eq!(bounds(&mut client)?, ["3:0", "3:1", "3:2"]);
    assert_eq!(cluster.coordinator.count("t")?, rows);
    client.batch_execute(&format!("{finish} SELECT shard_finish({back})"))?;
    ends(&cluster, part, LIMIT)?;
    ends(&cluster, back, LIMIT)?;
    let error = refused(&mut client, &format!("SELECT shard_cancel({group})"))?;
    let dropped = format!("What operation {part} replaced was dropped.");
    assert_eq!(error.detail(), Some(dropped.as_str()));
    assert_eq!(error.hint(), Some("To go on or back, call shard_set_modulus again."));

    // And on.
    let (_, part) = cancelled_amid_blocked_parts(&cluster, &mut client)?;
    let on: i64 = client.query_one("SELECT shard_set_modulus('t', 6)", &[])?.get(0);
    reaches(&cluster, on, "switched", LIMIT)?;
    assert_eq!(bounds(&mut client)?, ["6:0", "6:1", "6:2", "6:3", "6:4", "6:5"]);
    assert_eq!(cluster.coordinator.count("t")?, rows);
    client.batch_execute(&format!("SELECT shard_finish({part}); SELECT shard_finish({on})"))?;
    nothing_is_left(&cluster)
}

#[test]
fn between_the_parts_the_parent_is_not_free() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let (id, part, mut holder) = half_way(&cluster, &mut client)?;
    client.execute("SELECT shard_pause($1)", &[&id])?;
    eventually("the part is paused", PATIENCE, || Ok(field(&cluster, part, "state")? == "paused"))?;
    holder.batch_execute("COMMIT")?;
    for call in ["SELECT shard_move_partition('t_1', 'n3')", FOUR, "ALTER TABLE t ADD COLUMN more int"] {
        let error = refused(&mut client, call)?;
        ensure!(error.code().code() == "55006", "{call}: {error}");
        let hint = error.hint().unwrap_or_default();
        ensure!(hint.contains(&format!("shard_cancel({id})")), "{call}: {error:?}");
    }
    client.execute("SELECT shard_resume($1)", &[&id])?;
    reaches(&cluster, id, "switched", LIMIT)?;
    assert_eq!(bounds(&mut client)?, ["4:0", "4:1", "4:2", "4:3"]);
    client.execute("SELECT shard_finish($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    nothing_is_left(&cluster)
}

#[test]
fn a_group_survives_the_death_of_each_server() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let rows = cluster.coordinator.count("t")?;
    let (id, _, mut holder) = half_way(&cluster, &mut client)?;
    for server in [cluster.node(2), cluster.node(1), &cluster.coordinator] {
        server.kill9()?;
        server.start()?;
    }
    let _ = holder.batch_execute("COMMIT");
    let mut client = cluster.coordinator.patient()?;
    reaches(&cluster, id, "switched", LIMIT)?;
    assert_eq!(bounds(&mut client)?, ["4:0", "4:1", "4:2", "4:3"]);
    // The way back is as long.
    client.execute("SELECT shard_revert($1)", &[&id])?;
    eventually("a part is reverted", LIMIT, || Ok(bounds(&mut client)?.len() == 3))?;
    cluster.coordinator.kill9()?;
    cluster.coordinator.start()?;
    ends(&cluster, id, LIMIT)?;
    assert_eq!(field(&cluster, id, "state")?, "reverted", "{}", told(&cluster));
    let mut client = cluster.coordinator.patient()?;
    assert_eq!(bounds(&mut client)?, ["2:0", "2:1"]);
    assert_eq!(cluster.coordinator.count("t")?, rows);
    nothing_is_left(&cluster)
}

#[test]
fn a_part_that_was_given_up_can_be_called_for_again() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let (id, part, mut holder) = half_way(&cluster, &mut client)?;
    client.execute("SELECT shard_cancel($1)", &[&part])?;
    ends(&cluster, id, LIMIT)?;
    holder.batch_execute("COMMIT")?;
    assert_eq!(field(&cluster, id, "state")?, "failed");
    assert_eq!(bounds(&mut client)?.len(), 3);
    // Only what is missing is done.
    let again: i64 = client.query_one("SELECT shard_set_modulus('t', 4, keep => '0')", &[])?.get(0);
    ends(&cluster, again, LIMIT)?;
    assert_eq!(bounds(&mut client)?, ["4:0", "4:1", "4:2", "4:3"]);
    assert_eq!(parts(&cluster, again)?, Vec::<String>::new());
    // Nothing is left to do.
    assert_eq!(refused(&mut client, "SELECT shard_set_modulus('t', 4)")?.code().code(), "55000");
    client.execute("SELECT shard_finish(id) FROM shard_operations WHERE state = 'switched'", &[])?;
    nothing_is_left(&cluster)
}

#[test]
fn two_parents_change_their_moduli_side_by_side() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    client.batch_execute(&Keys::Bigint.create_sql("u"))?;
    client.batch_execute("SELECT shard_create_parent('u', 'hash', 'id', modulus => 2, nodes => '{n2, n3}')")?;
    let mut holder = holder(&cluster)?;
    let first: i64 = client.query_one(FOUR, &[])?.get(0);
    let second: i64 = client.query_one("SELECT shard_set_modulus('u', 4)", &[])?.get(0);
    reaches(&cluster, second, "switched", LIMIT)?;
    ensure!(field(&cluster, first, "state")? == "copying", "{}", told(&cluster));
    holder.batch_execute("COMMIT")?;
    reaches(&cluster, first, "switched", LIMIT)?;
    client.batch_execute(&format!("SELECT shard_finish({first}); SELECT shard_finish({second})"))?;
    nothing_is_left(&cluster)
}

#[test]
fn a_revert_of_all_parts_can_be_given_up_and_called_for_again() -> Result<()> {
    let (cluster, mut client) = scene(Keys::Bigint, TWO)?;
    let id: i64 = client.query_one(FOUR, &[])?.get(0);
    reaches(&cluster, id, "switched", LIMIT)?;
    let mut holder = holder(&cluster)?;
    client.execute("SELECT shard_revert($1)", &[&id])?;
    complains(&cluster, id, "nobody holds the parent", LIMIT)?;
    client.execute("SELECT shard_cancel($1)", &[&id])?;
    reaches(&cluster, id, "switched", LIMIT)?;
    let others = format!(
        "SELECT count(*) FROM shardkeeper.operations WHERE part_of = {id} AND (state, requested) <> ('switched', 'run')"
    );
    assert_eq!(cluster.coordinator.value::<i64>(&others)?, 0, "{}", told(&cluster));
    holder.batch_execute("COMMIT")?;
    assert_eq!(bounds(&mut client)?, ["4:0", "4:1", "4:2", "4:3"]);
    client.execute("SELECT shard_revert($1)", &[&id])?;
    ends(&cluster, id, LIMIT)?;
    assert_eq!(field(&cluster, id, "state")?, "reverted", "{}", told(&cluster));
    assert_eq!(bounds(&mut client)?, ["2:0", "2:1"]);
    nothing_is_left(&cluster)
}

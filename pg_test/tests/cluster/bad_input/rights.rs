//! A role without the rights for a call.
use anyhow::{Context, Result, ensure};
use pg_test::Cluster;
use pg_test::sql::refused;
use postgres::Client;

use super::{Held, Scene, compare};

/// `guest` may log in everywhere, and use the schema public; what is there belongs to others.
fn with_guest(nodes: usize) -> Result<(Scene, Client)> {
    let mut scene = Scene::new(nodes)?;
    for server in scene.cluster.servers() {
        server.run("CREATE ROLE guest LOGIN PASSWORD 'guest'; GRANT CREATE, USAGE ON SCHEMA public TO guest; GRANT SELECT ON victim TO guest")?;
    }
    scene.client.batch_execute(
        r#"CREATE TABLE theirs (id int PRIMARY KEY, name text); GRANT SELECT, INSERT ON theirs TO guest;
           CREATE TABLE managed (id int, name text); GRANT SELECT ON managed TO guest;
           SELECT shard_create_parent('managed', 'list', 'name', lists => '{"a": ["a"], "b": ["b"]}', nodes => '{local, n1}')"#,
    )?;
    let guest = scene.cluster.coordinator.client_as("guest", "guest", "app")?;
    Ok((scene, guest))
}

fn all_refused(cluster: &Cluster, guest: &mut Client, cases: &[(&str, &str)]) -> Result<()> {
    let before = Held::now(cluster)?;
    let mut wrong = Vec::new();
    for (sql, message) in cases {
        let error = refused(guest, sql)?;
        let hint = error.hint().unwrap_or_default().to_owned();
        wrong.extend(compare(&error, "42501", message, &hint).map(|why| format!("{sql}\n{why}")));
        before.is_unchanged(cluster).with_context(|| sql.to_string())?;
    }
    ensure!(wrong.is_empty(), "{} calls:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn who_does_not_own_a_table_changes_no_hierarchy() -> Result<()> {
    let (scene, mut guest) = with_guest(1)?;
    let theirs = "must be owner of table public.theirs";
    let managed = "must be owner of table public.managed";
    all_refused(
        &scene.cluster,
        &mut guest,
        &[
            ("SELECT shard_create_parent('theirs', 'hash', 'id', modulus => 2)", theirs),
            ("SELECT shard_create_parent('theirs', 'hash', 'id', modulus => 2, nodes => '{n1}')", theirs),
            (r#"SELECT shard_create_parent('theirs', '{"method": "hash", "key": "id", "modulus": 2}')"#, theirs),
            (r#"SELECT shard_plan_parent('theirs', '{"method": "hash", "key": "id", "modulus": 2}')"#, theirs),
            ("SELECT shard_create_parent('managed', 'hash', 'id', modulus => 2)", managed),
            (r#"SELECT shard_add_partition('managed', '{"in": ["c"]}')"#, managed),
            (r#"SELECT shard_add_partition('managed', '{"in": ["c"]}', 'n1')"#, managed),
            ("SELECT shard_detach_partition('managed_a')", managed),
            ("SELECT shard_drop_partition('managed_b')", managed),
            ("SELECT shard_release_parent('managed')", managed),
            ("SELECT shard_drop_parent('managed')", managed),
            (
                "SELECT shard_create_parent('shardkeeper.nodes', 'hash', 'name', modulus => 2)",
                "must be owner of table shardkeeper.nodes",
            ),
            ("SELECT shard_add_node('mine', '127.0.0.1', 1)", "permission denied to add a node"),
            (
                "INSERT INTO shardkeeper.parents VALUES ('theirs', '{}', '{}', '{}')",
                "permission denied for table parents",
            ),
            ("DELETE FROM shardkeeper.partitions", "permission denied for table partitions"),
        ],
    )
}

#[test]
fn a_role_without_a_way_to_a_node_makes_nothing_there() -> Result<()> {
    let (scene, mut guest) = with_guest(1)?;
    guest.batch_execute("CREATE TABLE mine (id int)")?;
    let before = Held::now(&scene.cluster)?;
    let error =
        refused(&mut guest, "SELECT shard_create_parent('mine', 'hash', 'id', modulus => 2, nodes => '{local, n1}')")?;
    println!("{error:?}");
    assert_eq!(error.code().code(), "42501");
    before.is_unchanged(&scene.cluster)?;
    // On its own server it needs nobody.
    guest.batch_execute(
        "SELECT shard_create_parent('mine', 'hash', 'id', modulus => 2); SELECT shard_drop_parent('mine')",
    )?;
    // With a way, but no right to make tables there.
    scene.cluster.coordinator.run("SELECT shard_grant_node('n1', 'guest', password => 'guest')")?;
    scene.cluster.node(1).run("REVOKE CREATE ON SCHEMA public FROM guest")?;
    guest.batch_execute("CREATE TABLE mine (id int)")?;
    let before = Held::now(&scene.cluster)?;
    let call = "SELECT shard_create_parent('mine', 'hash', 'id', modulus => 2, nodes => '{local, n1}')";
    let error = refused(&mut guest, call)?;
    let message = "role guest may not create tables in schema public on node n1";
    assert_eq!(compare(&error, "42501", message, "GRANT CREATE ON SCHEMA public TO guest;"), None);
    before.is_unchanged(&scene.cluster)?;
    scene.cluster.node(1).run("GRANT CREATE ON SCHEMA public TO guest")?;
    guest.batch_execute(call)?;
    Ok(())
}

#[test]
fn the_channel_is_not_for_everybody() -> Result<()> {
    let (scene, mut guest) = with_guest(1)?;
    let denied = "permission denied for foreign table n1";
    all_refused(
        &scene.cluster,
        &mut guest,
        &[
            (
                r#"INSERT INTO shardkeeper_nodes."n1" (command) VALUES ('DROP TABLE public.victim')"#,
                "permission denied for schema shardkeeper_nodes",
            ),
            (r#"SELECT * FROM shardkeeper_nodes."n1""#, "permission denied for schema shardkeeper_nodes"),
        ],
    )?;
    // The schema alone is not enough.
    scene.cluster.coordinator.run("GRANT USAGE ON SCHEMA shardkeeper_nodes TO guest")?;
    let drop = r#"INSERT INTO shardkeeper_nodes."n1" (command) VALUES ('DROP TABLE public.victim')"#;
    all_refused(&scene.cluster, &mut guest, &[(drop, denied)])?;
    // With a way of its own it is guest on the node too, and no more.
    scene.cluster.coordinator.run("SELECT shard_grant_node('n1', 'guest', password => 'guest')")?;
    all_refused(
        &scene.cluster,
        &mut guest,
        &[
            (drop, "must be owner of table victim"),
            (
                r#"INSERT INTO shardkeeper_nodes."n1" (command) VALUES ('SET ROLE app; DROP TABLE public.victim')"#,
                "permission denied to set role \"app\"",
            ),
            (
                r#"INSERT INTO shardkeeper_nodes."n1" (command) VALUES ('DELETE FROM public.victim')"#,
                "permission denied for table victim",
            ),
            (
                r#"INSERT INTO shardkeeper_nodes."n1" (command) VALUES ('DROP TABLE public.managed')"#,
                "must be owner of table managed",
            ),
            (
                r#"INSERT INTO shardkeeper_nodes."n1" (command) VALUES ('SELECT shardkeeper.discard(''public.managed'', interval ''0'')')"#,
                "must be owner of table managed",
            ),
            (r#"UPDATE shardkeeper_nodes."n1" SET command = 'SELECT 1'"#, denied),
            (r#"DELETE FROM shardkeeper_nodes."n1""#, denied),
        ],
    )
}

//! A connection pooler before a node: one that keeps sessions apart is fine, any other is said when the node is added.
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use pg_test::sql::{column, refused};
use pg_test::{Cluster, PATIENCE, eventually, user};

const PROGRAM: &str = "/usr/sbin/pgbouncer";

struct Pooler {
    child: Child,
    port: u16,
}

impl Pooler {
    /// Before the first node, as its machine would have it.
    fn start(cluster: &Cluster, settings: &str) -> Result<Pooler> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let dir = cluster.directory();
        let (config, users) = (dir.join(format!("pooler-{port}.ini")), dir.join("users.txt"));
        fs::write(&users, "\"app\" \"app\"\n")?;
        fs::write(
            &config,
            format!(
                "[databases]\napp = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 auth_type = scram-sha-256\nauth_file = {}\nunix_socket_dir =\n{settings}\n",
                cluster.node(1).port(),
                users.display()
            ),
        )?;
        for file in [&users, &config] {
            user::give(file)?;
        }
        let child = user::command(PROGRAM)?
            .arg("-q")
            .arg(&config)
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start pgbouncer")?;
        let pooler = Pooler { child, port };
        eventually("the pooler listens", PATIENCE, || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
        Ok(pooler)
    }

    fn call_to_add(&self, cluster: &Cluster) -> String {
        let direct = format!("port => {}", cluster.node(1).port());
        cluster.call_to_add(1, ", password => 'app'").replace(&direct, &format!("port => {}", self.port))
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_pooler_must_leave_each_session_its_own_server() -> Result<()> {
    if !Path::new(PROGRAM).exists() {
        println!("skipped: pgbouncer is not installed");
        return Ok(());
    }
    let cluster = Cluster::start(1)?;
    let mut client = cluster.coordinator.client()?;
    // As it comes out of the box.
    let pooler = Pooler::start(&cluster, "pool_mode = transaction")?;
    let error = refused(&mut client, &pooler.call_to_add(&cluster))?;
    assert_eq!(error.message(), "node \"n1\" is behind a pooler that refuses start-up options");
    let lines = ["pool_mode = session", "ignore_startup_parameters = options"];
    assert!(lines.iter().all(|line| error.hint().is_some_and(|hint| hint.contains(line))), "{error:?}");
    for settings in [
        "pool_mode = transaction\nignore_startup_parameters = options",
        "pool_mode = transaction\nignore_startup_parameters = options\ndefault_pool_size = 1",
        "pool_mode = statement\nignore_startup_parameters = options",
    ] {
        let pooler = Pooler::start(&cluster, settings)?;
        let error = refused(&mut client, &pooler.call_to_add(&cluster))?;
        assert!(error.message().contains("n1"), "{settings}: {error:?}");
        if !settings.contains("statement") {
            assert_eq!(
                (error.code().code(), error.message()),
                ("0A000", "node \"n1\" is behind a pooler that gives sessions away between transactions"),
                "{settings}"
            );
        }
    }
    // Nothing of ours was set for others meanwhile, and nothing was made.
    assert!(!cluster.node(1).has("shardkeeper.session")?);
    let pooler = Pooler::start(&cluster, "pool_mode = session\nignore_startup_parameters = options")?;
    cluster.node(1).run("ALTER ROLE app SET standard_conforming_strings = off; ALTER ROLE app SET idle_session_timeout = '500ms'; ALTER ROLE app SET search_path = nowhere")?;
    let said = client.query(&pooler.call_to_add(&cluster), &[])?;
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[1].get::<_, &str>(1).contains("drops start-up options"), "{said:?}");
    client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY, note text CHECK (note <> E'\\\\'));
         SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1}');
         INSERT INTO t SELECT i, i FROM generate_series(1, 100) AS i",
    )?;
    assert_eq!(column(&mut client, "SELECT count(*) FROM t")?, ["100"]);
    let shown = "SELECT result -> 0 ->> 'standard_conforming_strings' FROM shard_run_on_nodes('SHOW standard_conforming_strings')";
    assert_eq!(column(&mut client, shown)?, ["on"]);
    client.batch_execute("SELECT shard_drop_parent('t')")?;
    Ok(())
}

//! How nodes are reached: TLS, revoked certificates, and options that sessions of every kind heed.

use anyhow::{Context, Result};
use pg_test::sql::refused;
use pg_test::{Cluster, Install, Options, PATIENCE, eventually};

#[test]
fn a_node_is_reached_by_tls_with_its_certificate_verified() -> Result<()> {
    if !Install::chosen()?.has_tls()? {
        println!("skipped: this Postgres is built without TLS");
        return Ok(());
    }
    let cluster = Cluster::with(Options { nodes: 1, tls: true, ..Options::default() })?;
    let authority = cluster.tls().context("there is an authority")?.certificate();
    let mut client = cluster.coordinator.client()?;
    let options = |json: String| cluster.call_to_add(1, &format!(", password => 'app', options => '{json}'"));
    let error = refused(&mut client, &options("{\"sslmode\": \"verify-full\"}".into()))?;
    assert!(error.detail().is_some_and(|detail| detail.contains("sslrootcert is not set")), "{error:?}");
    let verify = format!("{{\"sslmode\": \"verify-full\", \"sslrootcert\": \"{}\"}}", authority.display());
    // The certificate is for 127.0.0.1 and localhost; 127.0.0.2 is the same server by a name that it does not have.
    let elsewhere = options(verify.clone()).replace("host => '127.0.0.1'", "host => '127.0.0.2'");
    cluster.node(1).configure(&[("listen_addresses", "127.0.0.1,127.0.0.2")])?;
    cluster.node(1).restart()?;
    let error = refused(&mut client, &elsewhere)?;
    assert_eq!(error.code().code(), "08001");
    assert!(error.detail().is_some_and(|detail| detail.contains("not valid for name")), "{error:?}");
    client.batch_execute(&options(verify))?;
    let ssl = "SELECT result -> 0 ->> 'ssl' FROM shard_run_on_nodes('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()')";
    assert_eq!(cluster.coordinator.value::<String>(ssl)?, "true");
    let channel = "INSERT INTO shardkeeper_nodes.n1 (command) VALUES ('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()') RETURNING result";
    assert_eq!(cluster.coordinator.value::<String>(channel)?, "true");
    Ok(())
}

#[test]
fn a_revoked_certificate_is_refused_by_sessions_of_every_kind() -> Result<()> {
    if !Install::chosen()?.has_tls()? {
        println!("skipped: this Postgres is built without TLS");
        return Ok(());
    }
    let cluster = Cluster::with(Options { nodes: 1, tls: true, ..Options::default() })?;
    let authority = cluster.tls().context("there is an authority")?;
    let mut client = cluster.coordinator.client()?;
    let add = |more: &str| {
        let root = authority.certificate();
        let json = format!("{{\"sslmode\": \"verify-full\", \"sslrootcert\": \"{}\" {more}}}", root.display());
        cluster.call_to_add(1, &format!(", password => 'app', options => '{json}'"))
    };
    let list = |servers: bool| authority.revoked(servers).display().to_string();
    let error = refused(&mut client, &add(&format!(", \"sslcrl\": \"{}\"", list(true))))?;
    assert_eq!(error.code().code(), "08001");
    assert!(error.detail().is_some_and(|detail| detail.to_lowercase().contains("revoked")), "{error:?}");
    let error = refused(&mut client, &add(", \"sslcrl\": \"/nowhere\""))?;
    assert_eq!(error.code().code(), "HV024");
    let error = refused(
        &mut client,
        &add(&format!(", \"sslmode\": \"require\", \"sslrootcert\": \"\", \"sslcrl\": \"{}\"", list(false))),
    )?;
    assert!(error.detail().is_some_and(|detail| detail.contains("no certificate is verified")), "{error:?}");
    let error = refused(&mut client, &add(", \"ssl_max_protocol_version\": \"TLSv1.1\""))?;
    assert!(error.detail().is_some_and(|detail| detail.contains("TLS 1.2 and 1.3")), "{error:?}");
    client.batch_execute(&add(&format!(
        ", \"sslcrl\": \"{}\", \"sslsni\": 0, \"ssl_max_protocol_version\": \"TLSv1.2\", \"ssl_min_protocol_version\": \"TLSv1.2\"",
        list(false)
    )))?;
    let version = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let own = format!("SELECT result -> 0 ->> 'version' FROM shard_run_on_nodes('{version}')");
    let channel = format!("INSERT INTO shardkeeper_nodes.n1 (command) VALUES ('{version}') RETURNING result");
    for sql in [&own, &channel] {
        assert_eq!(cluster.coordinator.value::<String>(sql)?, "TLSv1.2");
    }
    // The certificate is revoked later: neither way is open any more.
    client.batch_execute(&format!("ALTER SERVER n1 OPTIONS (SET sslcrl '{}')", list(true)))?;
    let error = refused(&mut cluster.coordinator.client()?, &channel)?;
    assert!(error.message().contains("could not connect"), "{error:?}");
    let row = client.query_one("SELECT ok, error FROM shard_run_on_nodes('SELECT 1')", &[])?;
    assert!(!row.get::<_, bool>(0) && row.get::<_, String>(1).to_lowercase().contains("revoked"), "{row:?}");
    Ok(())
}

/// What one way to a node would do and the other could not is refused, also when it was set by hand.
#[test]
fn options_count_for_sessions_of_every_kind() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let mut client = cluster.coordinator.client()?;
    let major = cluster.coordinator.install.major;
    let add = |json: &str| cluster.call_to_add(1, &format!(", password => 'app', options => '{json}'"));
    for (json, reason) in [
        ("{\"gssencmode\": \"require\"}", "Kerberos"),
        ("{\"krbsrvname\": \"x\"}", "Kerberos"),
        ("{\"requirepeer\": \"postgres\"}", "other side of a socket"),
        ("{\"service\": \"x\"}", "host, port and dbname"),
    ] {
        let error = refused(&mut client, &add(json))?;
        assert_eq!(error.code().code(), "0A000", "{json}");
        assert!(error.detail().is_some_and(|detail| detail.contains(reason)), "{error:?}");
    }
    if major >= 16 {
        let error = refused(&mut client, &add("{\"require_auth\": \"md5\"}"))?;
        assert!(
            error.detail().is_some_and(|detail| detail.contains("scram-sha-256, which require_auth excludes")),
            "{error:?}"
        );
        client.batch_execute(&add("{\"require_auth\": \"!password,!md5\", \"load_balance_hosts\": \"random\"}"))?;
    } else {
        client.batch_execute(&add("{\"gssencmode\": \"disable\", \"channel_binding\": \"disable\"}"))?;
    }
    // The worker keeps a session of its own with the node, and the channel one of postgres_fdw's.
    for (option, timer) in [("\"keepalives\": 0", false), ("\"keepalives\": 1, \"keepalives_idle\": 7", true)] {
        client.batch_execute(&format!("SELECT shard_alter_node('n1', options => '{{{option}}}')"))?;
        eventually("connections of both kinds are as the options say", PATIENCE, || {
            client.batch_execute("INSERT INTO shardkeeper_nodes.n1 (command) VALUES ('SELECT 1')")?;
            let timers = keepalive_timers(cluster.node(1).port())?;
            Ok(timers.len() >= 2 && timers.iter().all(|on| *on == timer))
        })
        .with_context(|| format!("{option}: {:?}", keepalive_timers(cluster.node(1).port())))?;
    }
    client
        .batch_execute("ALTER SERVER n1 OPTIONS (ADD gssencmode 'require')")
        .or_else(|_| client.batch_execute("ALTER SERVER n1 OPTIONS (SET gssencmode 'require')"))?;
    let row = client.query_one("SELECT error FROM shard_run_on_nodes('SELECT 1')", &[])?;
    assert!(row.get::<_, String>(0).contains("gssencmode = require"), "{row:?}");
    Ok(())
}

/// For each connection of a client to the port, whether its keepalive timer runs, as the kernel tells.
fn keepalive_timers(port: u16) -> Result<Vec<bool>> {
    let text = std::fs::read_to_string("/proc/net/tcp")?;
    let to = format!(":{port:04X}");
    let established = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 5 && fields[2].ends_with(&to) && fields[3] == "01");
    Ok(established.map(|fields| fields[5].starts_with("02")).collect())
}

#[test]
fn of_several_hosts_the_one_that_can_be_written_is_used() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let mut client = cluster.coordinator.client()?;
    cluster.node(1).configure(&[("default_transaction_read_only", "on")])?;
    cluster.node(1).reload()?;
    eventually("it is read-only", PATIENCE, || {
        Ok(cluster.node(1).value::<String>("SHOW default_transaction_read_only")? == "on")
    })?;
    let (dead, read_only, good) = (1, cluster.node(1).port(), cluster.node(2).port());
    let call = |attributes: &str| {
        format!(
            "SELECT shard_add_node('n', '127.0.0.1,127.0.0.1,127.0.0.1', dbname => 'app', username => 'app', password => 'app',
             options => '{{\"port\": \"{dead},{read_only},{good}\" {attributes}}}')"
        )
    };
    let error = refused(&mut client, &call(""))?;
    assert_eq!((error.code().code(), error.message()), ("25006", "node \"n\" cannot be written"));
    client.batch_execute(&call(", \"target_session_attrs\": \"read-write\""))?;
    let port = "SELECT (result -> 0 ->> 'port')::int FROM shard_run_on_nodes('SELECT inet_server_port() AS port')";
    assert_eq!(cluster.coordinator.value::<i32>(port)?, i32::from(good));
    cluster.node(2).stop()?;
    let row = client.query_one("SELECT ok, error FROM shard_run_on_nodes('SELECT 1')", &[])?;
    assert!(!row.get::<_, bool>(0));
    let error: String = row.get(1);
    assert!(error.contains("is read-only") && error.contains("refused"), "{error}");
    Ok(())
}

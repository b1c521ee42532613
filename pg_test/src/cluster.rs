//! A coordinator with its nodes, started for one test and gone with it.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postgres::Client;

use crate::home::Home;
use crate::install::{Install, target_dir};
use crate::proxy::Proxy;
use crate::server::{DATABASE, ROLE, Server};
use crate::tls::{self, Authority};

/// What a cluster is made of. `Options::default()` is a coordinator with the extension, preloaded, and three plain nodes.
#[derive(Clone)]
pub struct Options {
    pub nodes: usize,
    /// Their names; those without one are n1, n2 …
    pub names: &'static [&'static str],
    pub coordinator_settings: Vec<(&'static str, &'static str)>,
    pub node_settings: Vec<(&'static str, &'static str)>,
    /// `CREATE EXTENSION` in the coordinator's database `app`.
    pub extension: bool,
    /// `shared_preload_libraries` on the coordinator; without it there are no workers.
    pub preload: bool,
    /// Servers offer TLS with a certificate for 127.0.0.1 of an authority of our own.
    pub tls: bool,
    /// `fsync` on and files on a disk, for measuring. Off is faster, and a killed server process loses nothing by it: only a killed machine would.
    pub durable: bool,
    /// Major version, if not the chosen one.
    pub version: Option<u16>,
    /// Major version of the nodes, if not that of the coordinator.
    pub node_version: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            nodes: 3,
            names: &[],
            coordinator_settings: Vec::new(),
            node_settings: Vec::new(),
            extension: true,
            preload: true,
            tls: false,
            durable: false,
            version: None,
            node_version: None,
        }
    }
}

impl Options {
    /// Nothing of ours on the coordinator either.
    pub fn plain() -> Options {
        Options { extension: false, preload: false, ..Options::default() }
    }
}

pub struct Cluster {
    pub coordinator: Server,
    nodes: Vec<Server>,
    proxies: Vec<Proxy>,
    tls: Option<Authority>,
    home: Home,
}

impl Cluster {
    pub fn start(nodes: usize) -> Result<Cluster> {
        Cluster::with(Options { nodes, ..Options::default() })
    }

    /// With its nodes added, and a session that would rather fail than wait for ever.
    pub fn joined(nodes: usize) -> Result<(Cluster, Client)> {
        let cluster = Cluster::start(nodes)?;
        cluster.add_nodes()?;
        let client = cluster.coordinator.patient()?;
        Ok((cluster, client))
    }

    pub fn with(options: Options) -> Result<Cluster> {
        let install = match options.version {
            Some(major) => Install::of(major)?,
            None => Install::chosen()?,
        };
        let node_install = match (options.node_version, Install::guest()) {
            (Some(major), _) => Install::of(major)?,
            // Some packaged versions are built without TLS.
            (None, Some(major)) if !options.tls || Install::of(major)?.has_tls()? => Install::of(major)?,
            (None, _) => install.clone(),
        };
        let home = Home::create(!options.durable)?;
        let tls = if options.tls {
            for install in [&install, &node_install] {
                ensure!(install.has_tls()?, "Postgres {} is built without TLS", install.major);
            }
            Some(tls::create(home.path())?)
        } else {
            None
        };
        let servers = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..=options.nodes)
                .map(|place| {
                    let (options, tls, home) = (&options, tls.as_ref(), home.path());
                    let install = if place == 0 { &install } else { &node_install };
                    scope.spawn(move || {
                        let name = match place {
                            0 => "coordinator".to_owned(),
                            _ => options
                                .names
                                .get(place - 1)
                                .map_or_else(|| format!("n{place}"), |name| (*name).to_owned()),
                        };
                        let server = Server::create(home, &name, place, install)?;
                        configure(&server, place, options, tls)?;
                        server.start()?;
                        Ok(server)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<Server>>>()
        })?;
        let mut servers = servers.into_iter();
        let coordinator = servers.next().context("a cluster has a coordinator")?;
        let nodes: Vec<Server> = servers.collect();
        let proxies = nodes.iter().map(|node| Proxy::start(node.port())).collect::<Result<Vec<_>>>()?;
        if options.extension {
            coordinator
                .client()?
                .batch_execute("CREATE EXTENSION shardkeeper CASCADE")
                .context("CREATE EXTENSION shardkeeper")?;
        }
        Ok(Cluster { coordinator, nodes, proxies, tls, home })
    }

    /// Nodes count from one: `node(1)` is `n1`.
    pub fn node(&self, number: usize) -> &Server {
        &self.nodes[number - 1]
    }

    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// What can be put between the coordinator and the node: register the node with the proxy's port to use it.
    pub fn proxy(&self, number: usize) -> &Proxy {
        &self.proxies[number - 1]
    }

    /// The certificate of the authority that signed the servers' ones.
    pub fn tls(&self) -> Option<&Authority> {
        self.tls.as_ref()
    }

    /// Registers all nodes by the names n1, n2 …, as the ordinary role `app`.
    pub fn add_nodes(&self) -> Result<()> {
        self.register(|_, node| node.port())
    }

    /// The same, with each node reached through its proxy.
    pub fn add_nodes_by_proxy(&self) -> Result<()> {
        self.register(|number, _| self.proxy(number).port())
    }

    /// The call that adds a node as the role `app`; `more` is further arguments, each after a comma.
    pub fn call_to_add(&self, number: usize, more: &str) -> String {
        let node = self.node(number);
        format!(
            "SELECT * FROM shard_add_node('{}', host => '127.0.0.1', port => {}, dbname => '{DATABASE}', username => '{ROLE}'{more})",
            node.name,
            node.port()
        )
    }

    fn register(&self, port: impl Fn(usize, &Server) -> u16) -> Result<()> {
        let mut client = self.coordinator.client()?;
        for (index, node) in self.nodes.iter().enumerate() {
            let port = port(index + 1, node);
            client
                .batch_execute(&format!(
                    "SELECT shard_add_node('{}', host => '127.0.0.1', port => {port}, \
                     dbname => '{DATABASE}', username => '{ROLE}', password => '{ROLE}')",
                    node.name
                ))
                .with_context(|| format!("shard_add_node('{}')", node.name))?;
        }
        Ok(())
    }

    /// The coordinator first.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.coordinator).chain(&self.nodes)
    }

    pub fn directory(&self) -> &std::path::Path {
        self.home.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for server in self.servers() {
                eprintln!("-- the last lines of the log of {}:\n{}", server.name, tail(&server.log(), 20));
            }
        }
        // A failed test may want them, and its servers are gone.
        let _ = self.keep_logs();
        let alarms = self.alarms();
        self.proxies.clear();
        self.home.close();
        for server in self.servers() {
            server.reap();
        }
        // Whatever the test was about, and however well everything went on afterwards.
        assert!(
            alarms.is_empty() || std::thread::panicking(),
            "the servers' logs tell of bugs:\n{}",
            alarms.join("\n")
        );
    }
}

/// What only a crash or a bug writes into a server's log.
const ALARMS: [&str; 6] = [
    "PANIC:",
    "panicked at",
    "fatal runtime error",
    "terminated by signal 6",
    "terminated by signal 11",
    "cache lookup failed",
];

impl Cluster {
    /// Lines of the servers' logs that tell of a crash or a bug.
    fn alarms(&self) -> Vec<String> {
        let logs = self.servers().map(|server| (server, server.log()));
        logs.flat_map(|(server, log)| {
            // Without room for its log a server gives up, which is no bug: the process of that number aborts.
            let full = log.lines().filter(|line| line.contains("PANIC:") && line.contains("No space left on device"));
            let gave_up: Vec<String> =
                full.filter_map(pid).map(|pid| format!("(PID {pid}) was terminated by signal 6")).collect();
            let is_full = |line: &str| {
                line.contains("No space left on device") || gave_up.iter().any(|aborts| line.contains(aborts))
            };
            let found = log.lines().filter(|line| ALARMS.iter().any(|alarm| line.contains(alarm)) && !is_full(line));
            found.map(|line| format!("{}: {line}", server.name)).collect::<Vec<_>>()
        })
        .collect()
    }

    /// In `target/logs/<version>/<test>/<server>.log`.
    fn keep_logs(&self) -> Result<()> {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("main");
        let version = self.coordinator.install.major.to_string();
        let directory = target_dir().join("logs").join(version).join(test.replace("::", "."));
        std::fs::create_dir_all(&directory)?;
        for server in self.servers() {
            std::fs::write(directory.join(format!("{}.log", server.name)), server.log())?;
        }
        Ok(())
    }
}

/// Of the process that wrote a line.
fn pid(line: &str) -> Option<&str> {
    line.split_once('[')?.1.split_once(']').map(|(pid, _)| pid)
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Long enough for what a test waits for on a busy machine; a condition that holds ends the wait at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

const COMMON: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    ("max_connections", "100"),
    ("max_replication_slots", "20"),
    ("max_wal_senders", "20"),
    ("shared_buffers", "32MB"),
    // Of small tables every plan is run in a moment, and compiled for longer.
    ("jit", "off"),
    // Files in the data directory: a killed server leaves nothing in /dev/shm.
    ("dynamic_shared_memory_type", "mmap"),
    ("log_line_prefix", "%m [%p] %a "),
    ("log_min_messages", "info"),
    ("log_checkpoints", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
];

fn configure(server: &Server, place: usize, options: &Options, tls: Option<&Authority>) -> Result<()> {
    server.configure(COMMON)?;
    let switch = if options.durable { "on" } else { "off" };
    server.configure(&[("fsync", switch)])?;
    if let Some(authority) = tls {
        server.configure(&authority.settings())?;
    }
    if place == 0 {
        if options.preload {
            server.configure(&[("shared_preload_libraries", "shardkeeper")])?;
            // What the worker settles a moment later is waited for in many tests.
            server.configure(&[("shardkeeper.heal_interval", "200ms")])?;
        }
        server.configure(&options.coordinator_settings)?;
    } else {
        server.configure(&options.node_settings)?;
    }
    server.replace_hba(
        "local all all trust\n\
         local replication all trust\n\
         host all all 127.0.0.1/32 scram-sha-256\n\
         host replication all 127.0.0.1/32 scram-sha-256\n",
    )
}

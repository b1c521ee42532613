//! A ledger: clients write to a table while something happens to it, remember every acknowledged write, and afterwards
//! each must be there exactly once, in its right leaf on its right server.
//!
//! ```ignore
//! client.batch_execute(&Keys::Bigint.create_sql("orders"))?;
//! Keys::Bigint.load(&mut client, "orders", 10_000)?;
//! let ledger = Ledger::start(&cluster, "orders", Keys::Bigint, Workload::default())?;
//! // … what happens to it …
//! ledger.stop()?.check(&cluster)?;
//! ```
//!
//! A write is acknowledged when its COMMIT has returned. Where the connection broke during it, the write may be there or
//! not; its rows are left alone from then on. Transactions that end in 40001 or 40P01 are repeated: they do so without
//! any operation too. Every other error is a failure, except those of broken connections where the test breaks them.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use postgres::{Client, Config, NoTls};

use crate::cluster::{Cluster, PATIENCE};
use crate::server::{DATABASE, Server};
use crate::template::SUPERUSER;

mod check;
mod client;
mod direct;
mod keys;
mod outcome;
mod row;
mod session;
mod work;

pub use check::Difference;
pub use keys::{Keys, REGIONS};
pub use outcome::{Failure, Outcome, Slice, Timing};

use outcome::{Diary, Tally};
use row::Book;

/// What clients may see besides 40001 and 40P01.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerate {
    Nothing,
    /// Servers are killed, or connections cut: clients connect again.
    Restarts,
    /// The same, and a change of partitions may be half made for a moment: then a partition is not in its place.
    SplitCommits,
}

#[derive(Clone, Debug)]
pub struct Workload {
    /// Sessions on the coordinator that do a bit of everything.
    pub clients: usize,
    /// Writers that connect to the server where a row lives, and upsert there.
    pub direct: usize,
    /// Updates that change a key in place. Postgres refuses them where the row leaves a leaf on a node.
    pub key_updates: bool,
    /// A rest after each transaction.
    pub think: Duration,
    pub tolerate: Tolerate,
    /// What reads and then writes in one transaction may be cancelled, as in a deadlock: it is repeated.
    pub cancels: bool,
    /// A role with a password the same as its name; a superuser if not given.
    pub role: Option<&'static str>,
    /// No statement may take longer, and nothing that clients have to wait for.
    pub patience: Duration,
}

impl Default for Workload {
    fn default() -> Self {
        Workload {
            clients: 4,
            direct: 0,
            key_updates: false,
            // Clients that never rest leave two cores to nobody else; with all cases they may.
            think: if crate::matrix::is_full() { Duration::ZERO } else { Duration::from_millis(3) },
            tolerate: Tolerate::Nothing,
            cancels: false,
            role: None,
            patience: PATIENCE,
        }
    }
}

/// Clients at work. Dropping it ends them.
pub struct Ledger {
    site: Site,
    started: Instant,
    gate: Arc<Gate>,
    diaries: Vec<Arc<Mutex<Diary>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Ledger {
    /// The table was filled by `Keys::load`, and nobody else writes to it. Its name stands in statements as it is.
    pub fn start(cluster: &Cluster, table: &str, keys: Keys, workload: Workload) -> Result<Ledger> {
        let mut client = cluster.coordinator.client()?;
        let row = client
            .query_one(
                "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.oid = $1::text::regclass",
                &[&table],
            )
            .with_context(|| format!("table {table}"))?;
        let table: String = row.get(0);
        let rows: i64 = client.query_one(&format!("SELECT count(*) FROM {table}"), &[])?.get(0);
        ensure!(rows > 0, "{table} was not filled by Keys::load: it lacks the hot row");
        let site = Site::new(cluster, table, keys, rows - 1, workload);
        let mut ledger =
            Ledger { site, started: Instant::now(), gate: Arc::default(), diaries: Vec::new(), threads: Vec::new() };
        for number in 1..=ledger.site.workload.clients + ledger.site.workload.direct {
            ledger.add(number)?;
        }
        Ok(ledger)
    }

    fn add(&mut self, number: usize) -> Result<()> {
        let (name, clients) = (i32::try_from(number)?, self.site.workload.clients);
        let is_direct = number > clients;
        let book = if is_direct { Book::new(name, 1, 0) } else { Book::new(name, clients, self.site.loaded) };
        let diary = Arc::new(Mutex::new(Diary { book, tally: Tally::default() }));
        self.diaries.push(Arc::clone(&diary));
        let worker = client::Worker::new(name, self.site.clone(), Arc::clone(&self.gate), diary);
        let run = move || if is_direct { direct::run(worker) } else { client::run(worker) };
        self.threads.push(std::thread::Builder::new().name(format!("ledger client {number}")).spawn(run)?);
        Ok(())
    }

    /// Returns when no client is within a transaction.
    pub fn pause(&self) -> Result<()> {
        let mut state = self.gate.lock();
        state.paused = true;
        let deadline = Instant::now() + self.site.workload.patience * 2;
        while state.working > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{} clients do not pause", state.working);
            state = self.gate.changed.wait_timeout(state, left).unwrap_or_else(|e| e.into_inner()).0;
        }
        Ok(())
    }

    pub fn resume(&self) {
        self.gate.lock().paused = false;
        self.gate.changed.notify_all();
    }

    /// `Outcome::check` between two transactions of all clients, which then go on.
    pub fn check(&self, cluster: &Cluster) -> Result<()> {
        self.pause()?;
        let diaries: Vec<_> = self.diaries.iter().map(|diary| lock(diary)).collect();
        let books: Vec<&Book> = diaries.iter().map(|diary| &diary.book).collect();
        let failures = diaries.iter().flat_map(|diary| &diary.tally.failures).cloned().collect::<Vec<_>>();
        let checked = check::check(cluster, &self.site, &books, &failures);
        drop(diaries);
        self.resume();
        checked
    }

    /// Committed transactions so far.
    pub fn acknowledged(&self) -> usize {
        self.diaries.iter().map(|diary| lock(diary).tally.commits.len()).sum()
    }

    /// What clients could not do so far.
    pub fn failures(&self) -> Vec<Failure> {
        self.diaries.iter().flat_map(|diary| lock(diary).tally.failures.clone()).collect()
    }

    /// Ends all clients after the transactions that they are at.
    pub fn stop(mut self) -> Result<Outcome> {
        self.gate.stop();
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a client of the ledger panicked"))?;
        }
        let take = |diary: Arc<Mutex<Diary>>| Arc::into_inner(diary).map(|diary| diary.into_inner());
        let diaries = self.diaries.drain(..).filter_map(take).map(|diary| diary.unwrap_or_else(|e| e.into_inner()));
        Ok(Outcome::new(self.site.clone(), self.started, diaries.collect()))
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.gate.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Where clients wait between transactions.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    paused: bool,
    stopped: bool,
    working: usize,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        lock(&self.state)
    }

    /// Before a transaction; waits while the ledger pauses. `false`: it is over.
    fn enter(&self) -> bool {
        let state = self.lock();
        let mut state =
            self.changed.wait_while(state, |state| state.paused && !state.stopped).unwrap_or_else(|e| e.into_inner());
        state.working += usize::from(!state.stopped);
        !state.stopped
    }

    fn leave(&self) {
        self.lock().working -= 1;
        self.changed.notify_all();
    }

    /// Nobody waits for those who would rather go on.
    fn is_open(&self) -> bool {
        let state = self.lock();
        !state.paused && !state.stopped
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// What clients work with.
#[derive(Clone)]
struct Site {
    /// Schema-qualified, as it stands in statements.
    table: String,
    keys: Keys,
    /// Rows that were there before all clients, without the hot row.
    loaded: i64,
    workload: Workload,
    coordinator: Address,
    nodes: BTreeMap<String, Address>,
}

#[derive(Clone)]
struct Address {
    directory: PathBuf,
    port: u16,
}

/// By which sessions of clients are known on all servers.
const APPLICATION: &str = "ledger";

impl Site {
    fn new(cluster: &Cluster, table: String, keys: Keys, loaded: i64, workload: Workload) -> Site {
        let address = |server: &Server| Address { directory: server.socket_dir().to_owned(), port: server.port() };
        let nodes = cluster.nodes().iter().map(|node| (node.name.clone(), address(node))).collect();
        Site { table, keys, loaded, workload, coordinator: address(&cluster.coordinator), nodes }
    }

    fn connect(&self, address: &Address) -> std::result::Result<Client, postgres::Error> {
        let mut config = Config::new();
        config
            .port(address.port)
            .dbname(DATABASE)
            .application_name(APPLICATION)
            .connect_timeout(Duration::from_secs(10));
        match self.workload.role {
            Some(role) => config.host("127.0.0.1").user(role).password(role),
            None => config.host_path(&address.directory).user(SUPERUSER),
        };
        let mut client = config.connect(NoTls)?;
        client.batch_execute(&format!("SET statement_timeout = {}", self.workload.patience.as_millis()))?;
        Ok(client)
    }
}

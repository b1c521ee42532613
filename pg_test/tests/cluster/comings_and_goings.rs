//! A random walk through what comes and goes: the extension, nodes and parents, in transactions that commit, roll back, or
//! commit on a node only. Whatever the order, all servers agree afterwards, and what was made is there with its rows.
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use pg_test::server::{DATABASE, ROLE};
use pg_test::sql::{column, rows};
use pg_test::{Cluster, Options, PATIENCE, Then, eventually};
use postgres::Client;

const STEPS: usize = 320;
const NODES: usize = 3;
const TABLES: [&str; 3] = ["a", "b", "c"];

/// xorshift: the same walk for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Table {
    /// It is a parent; otherwise the extension that made it is gone.
    managed: bool,
    nodes: BTreeSet<usize>,
    rows: i64,
}

/// What should be there.
#[derive(Clone, Debug, PartialEq)]
struct World {
    extension: bool,
    nodes: BTreeSet<usize>,
    tables: BTreeMap<&'static str, Table>,
}

#[derive(Clone, Debug)]
enum Step {
    CreateExtension,
    DropExtension,
    AddNode(usize),
    DropNode(usize),
    Create(&'static str, BTreeSet<usize>),
    Drop(&'static str),
    /// What outlived its extension, on all servers, by hand.
    Clear(&'static str),
    Insert(&'static str),
}

impl World {
    /// A step that is possible now.
    fn choose(&self, dice: &mut Dice) -> Step {
        loop {
            let (node, table) = (1 + dice.roll(NODES), TABLES[dice.roll(TABLES.len())]);
            let step = match dice.roll(12) {
                0 => Step::DropExtension,
                1 | 2 => Step::CreateExtension,
                3 | 4 => Step::AddNode(node),
                5 => Step::DropNode(node),
                6..=8 => {
                    let chosen: BTreeSet<usize> = self.nodes.iter().copied().filter(|_| !dice.one_in(3)).collect();
                    Step::Create(table, chosen)
                }
                9 => Step::Drop(table),
                10 => Step::Clear(table),
                _ => Step::Insert(table),
            };
            if self.allows(&step) {
                return step;
            }
        }
    }

    fn allows(&self, step: &Step) -> bool {
        let is_used = |node: &usize| self.tables.values().any(|table| table.nodes.contains(node));
        match step {
            Step::CreateExtension => !self.extension,
            Step::DropExtension => self.extension,
            Step::AddNode(node) => self.extension && !self.nodes.contains(node),
            Step::DropNode(node) => self.extension && self.nodes.contains(node) && !is_used(node),
            Step::Create(table, nodes) => self.extension && !nodes.is_empty() && !self.tables.contains_key(table),
            Step::Drop(table) => self.extension && self.tables.get(table).is_some_and(|table| table.managed),
            Step::Clear(table) => self.tables.get(table).is_some_and(|table| !table.managed),
            Step::Insert(table) => self.tables.contains_key(table),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::CreateExtension => self.extension = true,
            Step::DropExtension => {
                self.extension = false;
                self.tables.values_mut().for_each(|table| table.managed = false);
            }
            Step::AddNode(node) => {
                self.nodes.insert(*node);
            }
            Step::DropNode(node) => {
                self.nodes.remove(node);
            }
            Step::Create(table, nodes) => {
                self.tables.insert(table, Table { managed: true, nodes: nodes.clone(), rows: 30 });
            }
            Step::Drop(table) | Step::Clear(table) => {
                self.tables.remove(table);
            }
            Step::Insert(table) => {
                if let Some(table) = self.tables.get_mut(table) {
                    table.rows += 10;
                }
            }
        }
    }

    /// The nodes that a step works on.
    fn touched(&self, step: &Step) -> BTreeSet<usize> {
        match step {
            Step::Create(_, nodes) => nodes.clone(),
            Step::Drop(table) | Step::Clear(table) | Step::Insert(table) => self.tables[table].nodes.clone(),
            _ => BTreeSet::new(),
        }
    }

    fn sql(&self, cluster: &Cluster, step: &Step) -> String {
        match step {
            Step::CreateExtension => "CREATE EXTENSION shardkeeper".into(),
            Step::DropExtension => "DROP EXTENSION shardkeeper".into(),
            Step::AddNode(node) => format!(
                "SELECT shard_add_node('n{node}', host => '127.0.0.1', port => {}, dbname => '{DATABASE}', username => '{ROLE}', password => '{ROLE}')",
                cluster.proxy(*node).port()
            ),
            Step::DropNode(node) => format!("SELECT shard_drop_node('n{node}')"),
            Step::Create(table, nodes) => {
                let names: Vec<String> = nodes.iter().map(|node| format!("n{node}")).chain(["local".into()]).collect();
                format!(
                    "CREATE TABLE {table} (id int PRIMARY KEY);
                     SELECT shard_create_parent('{table}', 'hash', 'id', modulus => {}, nodes => '{{{}}}');
                     INSERT INTO {table} SELECT generate_series(1, 30)",
                    names.len(),
                    names.join(",")
                )
            }
            Step::Drop(table) => format!("SELECT shard_drop_parent('{table}')"),
            Step::Clear(table) => self.tables[table]
                .nodes
                .iter()
                .map(|node| {
                    format!("INSERT INTO shardkeeper_nodes.n{node} (command) VALUES ('DROP TABLE public.{table}');")
                })
                .chain([format!("DROP TABLE {table}")])
                .collect(),
            Step::Insert(table) => {
                format!("INSERT INTO {table} SELECT {} + i FROM generate_series(1, 10) AS i", self.tables[table].rows)
            }
        }
    }
}

#[derive(Debug, PartialEq)]
enum End {
    Commit,
    RollBack,
    /// This node commits; the coordinator never learns of it, and rolls back.
    Split(usize),
}

struct Walk {
    cluster: Cluster,
    client: Client,
    /// The coordinator and the nodes.
    lookers: Vec<Client>,
    dice: Dice,
    world: World,
    steps: usize,
    ends: BTreeMap<String, usize>,
}

impl Walk {
    fn transaction(&mut self) -> Result<()> {
        let before = self.world.clone();
        let (mut done, mut touched, mut left) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut heals = true;
        self.client.batch_execute("BEGIN")?;
        for _ in 0..=self.dice.roll(4) {
            let step = self.world.choose(&mut self.dice);
            let sql = self.world.sql(&self.cluster, &step);
            let kept = self.world.clone();
            self.client.batch_execute("SAVEPOINT before")?;
            let outcome = self.client.batch_execute(&sql);
            self.steps += 1;
            done.push(sql);
            // A node that this transaction has left while it was at work there cannot come back in it.
            let again = matches!(step, Step::AddNode(node) if left.contains(&node));
            match outcome {
                Ok(()) => {
                    touched.extend(self.world.touched(&step));
                    if let Step::DropNode(node) = step
                        && touched.contains(&node)
                    {
                        left.insert(node);
                    }
                    heals &= !matches!(step, Step::Insert(_) | Step::Clear(_));
                    self.world.take(&step);
                    if self.dice.one_in(8) {
                        self.client.batch_execute("ROLLBACK TO before")?;
                        done.push("ROLLBACK TO before".into());
                        self.world = kept;
                    }
                }
                Err(error) if again && error.code().is_some_and(|code| code.code() == "55006") => {
                    self.client.batch_execute("ROLLBACK TO before")?;
                }
                Err(error) => return Err(error).with_context(|| format!("in {done:#?}\nbefore it: {before:?}")),
            }
        }
        let victim = touched.iter().nth(self.dice.roll(touched.len().max(1))).copied();
        let end = match (self.dice.roll(10), victim) {
            (0..=3, Some(node)) if heals => End::Split(node),
            (4 | 5, _) => End::RollBack,
            _ => End::Commit,
        };
        *self.ends.entry(format!("{end:?}").chars().take_while(char::is_ascii_alphabetic).collect()).or_default() += 1;
        self.end(&end, &before, &touched).and_then(|()| self.agree()).with_context(|| {
            format!("{end:?} of {done:#?}\nbefore it: {before:?}\nafter it should be: {:?}", self.world)
        })
    }

    fn end(&mut self, end: &End, before: &World, touched: &BTreeSet<usize>) -> Result<()> {
        match end {
            End::Commit => self.client.batch_execute("COMMIT")?,
            End::RollBack => {
                self.client.batch_execute("ROLLBACK")?;
                self.world = before.clone();
            }
            End::Split(node) => {
                let hit = self.cluster.proxy(*node).on(b"COMMIT TRANSACTION", Then::CutAnswer);
                ensure!(self.client.batch_execute("COMMIT").is_err(), "it was committed");
                hit.wait_until_hit(PATIENCE)?;
                self.cluster.proxy(*node).resume();
                self.world = before.clone();
                // Where the extension or the node was to come in this transaction, it is healed once they are there.
                let missing = touched.iter().filter(|node| !before.nodes.contains(node)).copied();
                for step in [Step::CreateExtension].into_iter().chain(missing.map(Step::AddNode)) {
                    if self.world.allows(&step) {
                        self.client.batch_execute(&self.world.sql(&self.cluster, &step))?;
                        self.world.take(&step);
                    }
                }
                // A COMMIT that was sent to another node may still be on its way.
                let busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shardkeeper coordinator' AND state <> 'idle'";
                for looker in self.lookers.iter_mut().skip(1) {
                    eventually("the node has ended it", PATIENCE, || Ok(number(looker, busy)? == 0))?;
                }
                eventually("all servers agree", PATIENCE, || Ok(self.agree().is_ok()))?;
                self.settled()?;
            }
        }
        Ok(())
    }

    /// The worker has nothing to do any more. Without the extension there is none, and nodes that were dropped have no visits.
    fn settled(&mut self) -> Result<()> {
        let Walk { world, lookers, .. } = self;
        if !world.extension {
            return Ok(());
        }
        let (coordinator, nodes) = lookers.split_first_mut().context("there is a coordinator")?;
        eventually("all is settled", PATIENCE, || {
            let mut left = number(coordinator, "SELECT count(*) FROM shardkeeper.transactions")?;
            for node in &world.nodes {
                left += number(&mut nodes[node - 1], "SELECT count(*) FROM shardkeeper.journal")?;
            }
            Ok(left == 0)
        })
    }

    /// The tables are those that should be there, on all servers, with their rows.
    fn agree(&mut self) -> Result<()> {
        let Walk { world, lookers, .. } = self;
        let (coordinator, nodes) = lookers.split_first_mut().context("there is a coordinator")?;
        let roots = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1";
        ensure!(column(coordinator, roots)? == world.tables.keys().copied().collect::<Vec<_>>(), "other tables here");
        for (name, table) in &world.tables {
            let found = number(coordinator, &format!("SELECT count(*) FROM {name}"))?;
            ensure!(found == table.rows, "{name} has {found} rows");
        }
        let places = "SELECT s.srvname, c.relname, pg_partition_root(c.oid)::regclass FROM pg_foreign_table t JOIN pg_class c ON c.oid = t.ftrelid
             JOIN pg_foreign_server s ON s.oid = t.ftserver WHERE c.relnamespace = 'public'::regnamespace";
        let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in rows(coordinator, places)? {
            let [node, leaf, root] = row.try_into().ok().context("three columns")?;
            wanted.entry(node).or_default().extend([leaf, root]);
        }
        let there =
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')";
        for (at, node) in nodes.iter_mut().enumerate() {
            let name = format!("n{}", at + 1);
            let found: BTreeSet<String> = column(node, there)?.into_iter().collect();
            ensure!(found == wanted.remove(&name).unwrap_or_default(), "{name} has {found:?}");
        }
        let known = "SELECT right(srvname, 1) FROM pg_foreign_server ORDER BY 1";
        let known: Vec<usize> =
            column(coordinator, known)?.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        ensure!(known == world.nodes.iter().copied().collect::<Vec<_>>(), "other nodes: {known:?}");
        if world.extension {
            let parents = column(coordinator, "SELECT parent FROM shard_parents ORDER BY parent::text")?;
            let wanted: Vec<&str> =
                world.tables.iter().filter(|(_, table)| table.managed).map(|(name, _)| *name).collect();
            ensure!(parents == wanted, "other parents: {parents:?}");
        }
        Ok(())
    }

    /// Everything comes back, so that everything can be settled; and goes.
    fn come_home(&mut self) -> Result<()> {
        let mut last = Vec::new();
        if !self.world.extension {
            last.push(Step::CreateExtension);
        }
        last.extend((1..=NODES).filter(|node| !self.world.nodes.contains(node)).map(Step::AddNode));
        let tables = self.world.tables.iter();
        last.extend(tables.map(|(name, table)| if table.managed { Step::Drop(name) } else { Step::Clear(name) }));
        for step in last {
            self.client.batch_execute(&self.world.sql(&self.cluster, &step)).with_context(|| format!("{step:?}"))?;
            self.world.take(&step);
        }
        self.settled()?;
        self.agree()
    }
}

fn number(client: &mut Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[])?.get(0))
}

fn seed() -> u64 {
    let given = std::env::var("SHARDKEEPER_SEED").ok().and_then(|text| text.parse().ok());
    given
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64))
        .max(1)
}

#[test]
fn all_servers_agree_whatever_comes_and_goes_in_whatever_order() -> Result<()> {
    let seed = seed();
    println!("SHARDKEEPER_SEED={seed}");
    let coordinator_settings = vec![("shardkeeper.heal_interval", "100ms")];
    let cluster = Cluster::with(Options { nodes: NODES, coordinator_settings, ..Options::default() })?;
    let client = cluster.coordinator.patient()?;
    let lookers = cluster.servers().map(|server| server.patient()).collect::<Result<Vec<_>>>()?;
    let world = World { extension: true, nodes: BTreeSet::new(), tables: BTreeMap::new() };
    let mut walk = Walk { cluster, client, lookers, dice: Dice(seed), world, steps: 0, ends: BTreeMap::new() };
    let start = Instant::now();
    let mut transactions = 0;
    while walk.steps < STEPS {
        let told = || format!("SHARDKEEPER_SEED={seed}, transaction {transactions}");
        walk.transaction().with_context(told)?;
        if transactions % 10 == 9 {
            walk.settled().with_context(told)?;
        }
        transactions += 1;
    }
    walk.come_home().with_context(|| format!("SHARDKEEPER_SEED={seed}, at the end: {:?}", walk.world))?;
    println!("{} steps in {transactions} transactions, {:?}, {:?}", walk.steps, walk.ends, start.elapsed());
    if walk.ends.len() < 3 {
        bail!("the walk had no end of each kind: {:?}", walk.ends);
    }
    Ok(())
}

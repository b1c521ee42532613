//! The books against the servers: every row as the parent shows it, and every row that lies in a leaf of any server.
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, Row};

use super::direct::LOCAL;
use super::keys::{HOT, Keys, VALUES};
use super::outcome::{Failure, Outcome};
use super::row::{Book, Fate, State};
use super::{APPLICATION, Site};
use crate::cluster::Cluster;
use crate::wait::eventually;

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// As `id = 5`; empty where it is about no single row.
    pub key: String,
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.key, self.what) }
    }
}

/// More of them are counted only.
const SHOWN: usize = 40;
/// A commit may still be on its way when its client is gone.
const LEFT: Duration = Duration::from_secs(30);

impl Outcome {
    /// Fails unless no client saw an error and every row is as acknowledged, once, and where it belongs.
    pub fn check(&self, cluster: &Cluster) -> Result<()> {
        wait_for_sessions(cluster)?;
        check(cluster, &self.site, &self.books.iter().collect::<Vec<_>>(), &self.failures)
    }

    /// What the servers have otherwise than the ledger.
    pub fn differences(&self, cluster: &Cluster) -> Result<Vec<Difference>> {
        wait_for_sessions(cluster)?;
        differences(cluster, &self.site, &self.books.iter().collect::<Vec<_>>())
    }
}

fn wait_for_sessions(cluster: &Cluster) -> Result<()> {
    let none = format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = '{APPLICATION}'");
    let gone = || cluster.servers().try_fold(true, |all, server| Ok(all && server.value(&none)?));
    eventually("the sessions of the ledger's clients have ended", LEFT, gone)
}

pub(super) fn check(cluster: &Cluster, site: &Site, books: &[&Book], failures: &[Failure]) -> Result<()> {
    let differences = differences(cluster, site, books)?;
    if differences.is_empty() && failures.is_empty() {
        return Ok(());
    }
    let mut report = format!("{}: {} failures, {} differences", site.table, failures.len(), differences.len());
    failures.iter().take(SHOWN).for_each(|failure| report.push_str(&format!("\n{failure}")));
    differences.iter().take(SHOWN).for_each(|difference| report.push_str(&format!("\n{difference}")));
    bail!(report)
}

/// A leaf on the server that stores it. Of a foreign leaf it is the table that it stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    node: String,
    leaf: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.leaf, self.node)
    }
}

struct Seen {
    version: i64,
    /// In `Auditor::places`.
    place: usize,
    /// How often that leaf has it.
    in_leaves: u32,
}

struct Auditor<'a> {
    keys: Keys,
    loaded: i64,
    books: &'a [&'a Book],
    fates: HashMap<i64, Fate>,
    places: Vec<Place>,
    seen: HashMap<i64, Seen>,
    differences: Vec<Difference>,
}

fn differences(cluster: &Cluster, site: &Site, books: &[&Book]) -> Result<Vec<Difference>> {
    let fates = books.iter().flat_map(|book| book.fates()).collect();
    let mut auditor = Auditor {
        keys: site.keys,
        loaded: site.loaded,
        books,
        fates,
        places: Vec::new(),
        seen: HashMap::new(),
        differences: Vec::new(),
    };
    let mut client = cluster.coordinator.client()?;
    auditor.read_parent(&mut client, &site.table).with_context(|| format!("reading {}", site.table))?;
    auditor.find_missing();
    let known: BTreeSet<Place> = auditor.places.iter().cloned().collect();
    let is_partitioned = "SELECT relkind = 'p' FROM pg_class WHERE oid = $1::text::regclass";
    let partitioned: bool = client.query_one(is_partitioned, &[&site.table])?.get(0);
    for server in cluster.servers() {
        let is_here = server.name == cluster.coordinator.name;
        // A plain table has no mirror, whatever nodes have by its name.
        if partitioned || is_here {
            let node = if is_here { LOCAL } else { &server.name };
            let mut client = server.client()?;
            auditor
                .read_leaves(&mut client, node, &site.table, &known)
                .with_context(|| format!("on {}", server.name))?;
        }
    }
    auditor.find_unfounded();
    Ok(auditor.differences)
}

impl Auditor<'_> {
    /// Row by row through the coordinator, with the leaf that `shard_locate` names if the table is a managed parent.
    fn read_parent(&mut self, client: &mut Client, table: &str) -> Result<()> {
        let by_oid = self.read_places(client, table)?;
        let managed = "SELECT to_regclass('shardkeeper.parents') IS NOT NULL";
        let managed = client.query_one(managed, &[])?.get(0)
            && client
                .query_one("SELECT count(*) > 0 FROM shardkeeper.parents WHERE parent = $1::text::regclass", &[&table])?
                .get(0);
        let columns = self.keys.columns();
        let members: Vec<_> = columns.iter().map(|(name, _)| format!("'{name}', t.{name}")).collect();
        let (located, join) = if managed {
            let (table, members) = (table.replace('\'', "''"), members.join(", "));
            let join = format!("CROSS JOIN LATERAL shard_locate('{table}', jsonb_build_object({members})) l");
            ("l.partition::oid, l.node", join)
        } else {
            ("NULL::oid, NULL::text", String::new())
        };
        let keys: Vec<_> = columns.iter().map(|(name, _)| format!("t.{name}::text")).collect();
        let values = VALUES.map(|name| format!("t.{name}::text")).join(", ");
        let sql =
            format!("SELECT {}, {values}, t.version, t.tableoid, {located} FROM {table} t {join}", keys.join(", "));
        let mut rows = client.query_raw::<_, i32, _>(&sql, [])?;
        while let Some(row) = rows.next()? {
            self.see(&row, &by_oid);
        }
        Ok(())
    }

    /// The leaves that the coordinator knows; the table itself if it has none.
    fn read_places(&mut self, client: &mut Client, table: &str) -> Result<HashMap<u32, usize>> {
        let sql = "SELECT c.oid, coalesce(s.srvname::text, $2), format('%I.%I', coalesce(o.schema, n.nspname), coalesce(o.name, c.relname))
            FROM (SELECT relid FROM pg_partition_tree($1::text::regclass) WHERE isleaf UNION SELECT $1::text::regclass) t
            JOIN pg_class c ON c.oid = t.relid AND c.relkind IN ('r', 'f') JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid LEFT JOIN pg_foreign_server s ON s.oid = f.ftserver
            CROSS JOIN LATERAL (SELECT max(option_value) FILTER (WHERE option_name = 'schema_name') AS schema,
                                       max(option_value) FILTER (WHERE option_name = 'table_name') AS name
                                FROM pg_options_to_table(f.ftoptions)) o";
        let mut by_oid = HashMap::new();
        for row in client.query(sql, &[&table, &LOCAL])? {
            by_oid.insert(row.get(0), self.places.len());
            self.places.push(Place { node: row.get(1), leaf: row.get(2) });
        }
        Ok(by_oid)
    }

    fn see(&mut self, row: &Row, by_oid: &HashMap<u32, usize>) {
        let count = self.keys.columns().len();
        let key: Vec<String> = (0..count).map(|at| row.get(at)).collect();
        let values: Vec<Option<String>> = (count..count + VALUES.len()).map(|at| row.get(at)).collect();
        let rest = count + VALUES.len();
        let (version, oid): (i64, u32) = (row.get(rest), row.get(rest + 1));
        let (located, node): (Option<u32>, Option<String>) = (row.get(rest + 2), row.get(rest + 3));
        let Some(number) = self.keys.number(&key) else {
            return self.differs(&key, format!("no client has written this row, version {version}"));
        };
        let Some(place) = by_oid.get(&oid).copied() else {
            return self.differs(&key, format!("lies in a relation with oid {oid} that is no leaf"));
        };
        if let Some(wrong) = located.filter(|located| *located != oid) {
            let right = by_oid.get(&wrong).map_or_else(|| format!("oid {wrong}"), |at| self.places[*at].to_string());
            self.differs(&key, format!("lies in {}, and shard_locate says {right}", self.places[place]));
        } else if let Some(wrong) = node.filter(|node| *node != self.places[place].node) {
            self.differs(&key, format!("lies in {}, and shard_locate says {wrong}", self.places[place]));
        }
        match self.seen.get(&number).map(|seen| (seen.version, seen.place)) {
            Some((other, at)) => {
                let (here, there) = (&self.places[place], &self.places[at]);
                let text = format!("the parent has it twice: version {version} in {here}, version {other} in {there}");
                self.differs(&key, text);
            }
            None => {
                self.seen.insert(number, Seen { version, place, in_leaves: 0 });
            }
        }
        self.compare(number, &key, version, &values);
    }

    fn compare(&mut self, number: i64, key: &[String], version: i64, values: &[Option<String>]) {
        if number == HOT {
            return self.compare_hot(key, version, values);
        }
        let fate = self.fate(number);
        let possible: Vec<State> =
            [Some(fate.known), fate.or].into_iter().flatten().filter(|state| state.present).collect();
        let wrong: Vec<_> = possible.iter().map_while(|state| state.difference(values)).collect();
        if wrong.len() < possible.len() {
            return;
        }
        // Of two possible states that of the same version tells most.
        let near = possible.iter().position(|state| state.version == version).unwrap_or(0);
        let what = wrong.get(near).map(|what| format!(" ({what})")).unwrap_or_default();
        self.differs(key, format!("version {version} is there; the ledger has {fate}{what}"));
    }

    /// Every client adds to it: the sum of what was acknowledged, and at most what is in doubt more.
    fn compare_hot(&mut self, key: &[String], version: i64, values: &[Option<String>]) {
        let known: i64 = 1 + self.books.iter().map(|book| book.hot_known).sum::<i64>();
        let unknown: i64 = self.books.iter().map(|book| book.hot_unknown).sum();
        if !(known..=known + unknown).contains(&version) {
            self.differs(key, format!("the hot row has version {version} instead of {known} (and {unknown} in doubt)"));
        }
        if State::loaded(HOT).values()[1..] != values[1..] {
            self.differs(key, "another column of the hot row than its version has changed".to_owned());
        }
    }

    fn fate(&self, number: i64) -> Fate {
        let first = || if (HOT..self.loaded).contains(&number) { State::loaded(number) } else { State::NEVER };
        self.fates.get(&number).copied().unwrap_or_else(|| Fate { known: first(), or: None })
    }

    fn find_missing(&mut self) {
        let all: BTreeSet<i64> = (HOT..self.loaded).chain(self.fates.keys().copied()).collect();
        for number in all.into_iter().filter(|number| !self.seen.contains_key(number)).collect::<Vec<_>>() {
            let fate = self.fate(number);
            if fate.known.present && fate.or.is_none_or(|or| or.present) {
                self.differs(&self.keys.key(number), format!("is missing; the ledger has {fate}"));
            }
        }
    }

    /// All rows in leaves of one server, whether the parent shows them or not.
    fn read_leaves(&mut self, client: &mut Client, node: &str, table: &str, known: &BTreeSet<Place>) -> Result<()> {
        let sql = "SELECT format('%I.%I', n.nspname, c.relname)
            FROM (SELECT relid FROM pg_partition_tree(to_regclass($1)) WHERE isleaf UNION SELECT to_regclass($1)) t
            JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'r' JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1";
        let keys: Vec<_> = self.keys.columns().iter().map(|(name, _)| format!("{name}::text")).collect();
        for row in client.query(sql, &[&table])? {
            let place = Place { node: node.to_owned(), leaf: row.get(0) };
            if !known.contains(&place) {
                self.differs(&[], format!("{place} is a leaf that the coordinator does not know"));
            }
            let sql = format!("SELECT {}, version FROM ONLY {}", keys.join(", "), place.leaf);
            let mut rows = client.query_raw::<_, i32, _>(&sql, [])?;
            while let Some(row) = rows.next()? {
                let key: Vec<String> = (0..keys.len()).map(|at| row.get(at)).collect();
                self.find(&key, row.get(keys.len()), &place);
            }
        }
        Ok(())
    }

    fn find(&mut self, key: &[String], version: i64, place: &Place) {
        let number = self.keys.number(key);
        let Some(seen) = number.and_then(|number| self.seen.get_mut(&number)) else {
            return self.differs(key, format!("version {version} lies in {place}, and the parent does not show it"));
        };
        let (shown, at) = (seen.version, &self.places[seen.place]);
        seen.in_leaves += u32::from(at == place);
        let what = if at != place {
            format!("version {version} lies in {place}, and the parent shows version {shown} in {at}")
        } else if seen.in_leaves > 1 {
            format!("lies more than once in {place}")
        } else if version != shown {
            format!("version {version} lies in {place}, and the parent shows version {shown}")
        } else {
            return;
        };
        self.differs(key, what);
    }

    /// What the parent shows, and no leaf of a mirror has.
    fn find_unfounded(&mut self) {
        let mut unfounded: Vec<_> = self
            .seen
            .iter()
            .filter(|(_, seen)| seen.in_leaves == 0)
            .map(|(number, seen)| (*number, seen.place))
            .collect();
        unfounded.sort();
        for (number, place) in unfounded {
            let text = format!("the parent shows it in {}, and that is no leaf that has it", self.places[place]);
            self.differs(&self.keys.key(number), text);
        }
    }

    fn differs(&mut self, key: &[String], what: String) {
        self.differences.push(Difference { key: self.keys.shown(key), what });
    }
}

//! What people call: operations and what controls them, single partitions, whole parents, and DDL that is allowed.
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use pg_test::Cluster;
use postgres::Client;

use super::dice::Dice;
use super::tally::Tally;
use super::{NODES, TABLES};

const REST: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(2500));
/// In each table that is made by the way.
pub const SIDE_ROWS: i64 = 300;

/// What a call may end in amid all this: a server that is away, a lock that is held, an object that has just gone, something that
/// is there already, another operation that is at it. Everything else is a bug.
const REFUSALS: [&str; 15] = [
    "40001", "40P01", "42P01", "42704", "42710", "42P07", "42809", "22023", "53300", "53400", "55000", "55006",
    "55P03", "57014", "2BP01",
];
const CLASSES: [&str; 3] = ["08", "57", "HV"];

/// DDL that leaves servers in step; `{}` is the table.
const ALLOWED: [&str; 8] = [
    "ALTER TABLE {} ALTER COLUMN payload SET DEFAULT 'x'",
    "ALTER TABLE {} ALTER COLUMN payload DROP DEFAULT",
    "COMMENT ON TABLE {} IS 'amid the chaos'",
    "GRANT SELECT ON {} TO app",
    "REVOKE SELECT ON {} FROM app",
    "CREATE OR REPLACE VIEW {}_seen AS SELECT count(*) FROM {}",
    "ALTER TABLE {} ALTER COLUMN payload SET STATISTICS 50",
    "ANALYZE {}",
];

/// What people and their monitoring ask meanwhile.
const LOOKING: [&str; 7] = [
    "SELECT count(*) FROM shard_check()",
    "SELECT count(*) FROM shard_check('{}')",
    "SELECT shard_tree('{}')",
    "SELECT count(*) FROM shard_progress",
    "SELECT count(*) FROM shard_partition_sizes('{}')",
    "SELECT count(*) FROM shard_plan_rebalance('{}')",
    "SELECT count(*) FROM shard_trash",
];

static SIDE_TABLES: AtomicUsize = AtomicUsize::new(1);

pub struct Caller<'a> {
    cluster: &'a Cluster,
    tally: &'a Tally,
    dice: Dice,
    session: Option<Client>,
}

impl<'a> Caller<'a> {
    pub fn new(cluster: &'a Cluster, tally: &'a Tally, dice: Dice) -> Caller<'a> {
        Caller { cluster, tally, dice, session: None }
    }

    pub fn run(mut self, until: Instant, stop: &AtomicBool) -> Result<()> {
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            let (what, sql) = self.choose();
            if let Some(sql) = sql
                && let Err(error) = self.call(what, &sql)
            {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
            std::thread::sleep(self.dice.between(REST.0, REST.1));
        }
        Ok(())
    }

    /// Fails where the answer is one that nothing here explains.
    fn call(&mut self, what: &str, sql: &str) -> Result<()> {
        let tally = self.tally;
        let Some(session) = self.session() else { return Ok(()) };
        match session.batch_execute(sql) {
            Ok(()) => tally.done(what),
            Err(error) => {
                tally.refused(what);
                let Some(told) = error.as_db_error() else {
                    self.session = None;
                    return Ok(());
                };
                let code = told.code().code();
                if !REFUSALS.contains(&code) && !CLASSES.iter().any(|class| code.starts_with(class)) {
                    let (detail, context) = (told.detail().unwrap_or_default(), told.where_().unwrap_or_default());
                    bail!("{sql}: {code} {}\n{detail}\n{context}", told.message());
                }
                // Of a transaction that was left open.
                if session.batch_execute("ROLLBACK").is_err() {
                    self.session = None;
                }
            }
        }
        Ok(())
    }

    /// `None` while the coordinator is away.
    fn session(&mut self) -> Option<&mut Client> {
        if self.session.as_ref().is_none_or(Client::is_closed) {
            let mut session = self.cluster.coordinator.client().ok()?;
            session
                .batch_execute(
                    "SET lock_timeout = '5s'; SET statement_timeout = '60s'; SET client_min_messages = error",
                )
                .ok()?;
            self.session = Some(session);
        }
        self.session.as_mut()
    }

    fn ask(&mut self, sql: &str) -> Option<String> {
        let row = self.session()?.query_opt(sql, &[]).ok()??;
        row.try_get::<_, Option<String>>(0).ok()?
    }

    fn choose(&mut self) -> (&'static str, Option<String>) {
        let table = self.dice.pick(&TABLES).0;
        match self.dice.roll(26) {
            20..=22 => self.recut(),
            23 => ("shard_release_parent and shard_adopt_parent", self.adopt_again()),
            24..=25 => ("looking", Some(self.dice.pick(&LOOKING).replace("{}", table))),
            0..=4 => ("shard_set_modulus", self.modulus(table)),
            5..=7 => ("shard_move_partition", self.move_leaf(table)),
            8 => ("shard_rebalance", Some(format!("SELECT shard_rebalance('{table}', by => 'count')"))),
            9 => {
                let node = self.dice.roll(NODES) + 1;
                ("shard_drain_node", Some(format!("SELECT shard_drain_node('n{node}')")))
            }
            10..=13 => self.control(),
            14 => ("shard_create_parent with rows", Some(self.convert())),
            15 => ("shard_create_parent in a transaction", Some(self.create())),
            16 => ("shard_drop_parent", self.drop_side()),
            _ => {
                let sql = self.dice.pick(&ALLOWED).replace("{}", table);
                ("DDL", Some(sql))
            }
        }
    }

    /// `'{local,n2}'`: at least one.
    fn nodes(&mut self) -> String {
        let mut names: Vec<String> = (0..=NODES).map(server_name).filter(|_| self.dice.percent(50)).collect();
        if names.is_empty() {
            names.push(server_name(self.dice.roll(NODES + 1)));
        }
        format!("'{{{}}}'", names.join(","))
    }

    /// Mostly online; not always kept.
    fn how(&mut self) -> String {
        let mode = if self.dice.percent(15) { ", mode => 'block_writes'" } else { "" };
        let keep = if self.dice.percent(30) { ", keep => '0'" } else { "" };
        format!("{mode}{keep}")
    }

    fn modulus(&mut self, table: &str) -> Option<String> {
        let place = match table {
            "b" => format!("b_{}", self.dice.pick(&["us", "eu", "asia"])),
            table => table.to_owned(),
        };
        let (modulus, nodes, how) = (self.dice.roll(5) + 1, self.nodes(), self.how());
        Some(format!("SELECT shard_set_modulus('{place}', {modulus}, nodes => {nodes}{how})"))
    }

    fn move_leaf(&mut self, table: &str) -> Option<String> {
        let leaf = self.ask(&format!(
            "SELECT relid::regclass::text FROM pg_partition_tree('{table}') WHERE isleaf ORDER BY random() LIMIT 1"
        ))?;
        let (node, how) = (server_name(self.dice.roll(NODES + 1)), self.how());
        Some(format!("SELECT shard_move_partition('{leaf}', '{node}'{how})"))
    }

    fn control(&mut self) -> (&'static str, Option<String>) {
        let (state, what) = *self.dice.pick(&[
            ("'switched'", "shard_finish"),
            ("'switched'", "shard_finish"),
            ("'switched'", "shard_revert"),
            ("'copying', 'catching_up', 'verifying', 'ready'", "shard_cancel"),
            ("'copying', 'catching_up', 'verifying', 'ready'", "shard_pause"),
            ("'paused'", "shard_resume"),
            ("'paused'", "shard_resume"),
            ("'paused'", "shard_cancel"),
        ]);
        let id = self.ask(&format!(
            "SELECT id::text FROM shard_operations WHERE state IN ({state}) AND part_of IS NULL ORDER BY random() LIMIT 1"
        ));
        (what, id.map(|id| format!("SELECT {what}({id})")))
    }

    /// Ranges and lists cut anew: leaves that stand at this moment, which may be others when the call arrives.
    fn recut(&mut self) -> (&'static str, Option<String>) {
        let how = self.how();
        match self.dice.roll(5) {
            0 => ("shard_split of a range", self.split_range(&how)),
            1 => {
                let bounds = "regexp_match(bounds, 'FROM [(](.*)[)] TO [(](.*)[)]')";
                let pair = self.ask(&format!(
                    "WITH leaves AS (SELECT partition, {bounds} AS ends FROM shard_partitions
                                     WHERE parent = 'd'::regclass AND bounds LIKE 'FOR VALUES%')
                     SELECT '{{' || a.partition || ',' || b.partition || '}}' FROM leaves a, leaves b
                     WHERE a.ends[2] = b.ends[1] ORDER BY random() LIMIT 1"
                ));
                let node = server_name(self.dice.roll(NODES + 1));
                (
                    "shard_merge of ranges",
                    pair.map(|pair| format!("SELECT shard_merge('{pair}', node => '{node}'{how})")),
                )
            }
            2 => {
                // A list of one value has none to give.
                let leaf = self.ask(
                    "SELECT partition::text FROM shard_partitions
                     WHERE parent = 'e'::regclass AND is_leaf AND bounds LIKE '%,%' ORDER BY random() LIMIT 1",
                );
                ("shard_split of a list", leaf.and_then(|leaf| self.split_list(&leaf, &how)))
            }
            3 => {
                let pair = self.ask(
                    "SELECT '{' || string_agg(partition::text, ',') || '}' FROM (SELECT partition FROM shard_partitions
                     WHERE parent = 'e'::regclass AND is_leaf ORDER BY random() LIMIT 2) AS two",
                );
                let number = SIDE_TABLES.fetch_add(1, Ordering::Relaxed);
                let call = |pair| format!("SELECT shard_merge('{pair}', name => 'e_merged_{number}'{how})");
                ("shard_merge of lists", pair.map(call))
            }
            _ => {
                let call = self.ask(&format!(
                    "SELECT format('SELECT shard_move_values(%L, %L, %L{how})', a.partition, b.partition,
                                jsonb_build_array(substring(a.bounds FROM '''([a-z]+)''')))
                     FROM shard_partitions a, shard_partitions b
                     WHERE a.parent = 'e'::regclass AND b.parent = a.parent AND a.partition <> b.partition AND a.is_leaf
                           AND b.is_leaf AND a.bounds LIKE '%,%' ORDER BY random() LIMIT 1",
                    how = how.replace('\'', "''")
                ));
                ("shard_move_values", call)
            }
        }
    }

    /// Near its middle; of the default partition, a piece that may be there already.
    fn split_range(&mut self, how: &str) -> Option<String> {
        let row = self.ask(
            "SELECT concat_ws(' ', partition, coalesce(substring(bounds FROM 'FROM [(]''?(-?[0-9]+)'), '-1000'),
                    coalesce(substring(bounds FROM 'TO [(]''?(-?[0-9]+)'), '1000000'), bounds = 'DEFAULT')
             FROM shard_partitions WHERE parent = 'd'::regclass AND is_leaf ORDER BY random() LIMIT 1",
        )?;
        let mut words = row.split(' ');
        let (leaf, from, to) = (words.next()?, words.next()?.parse::<i64>().ok()?, words.next()?.parse::<i64>().ok()?);
        if words.next() == Some("t") {
            let from = 1500 + self.dice.roll(20) as i64 * 500;
            return Some(format!(r#"SELECT shard_split('{leaf}', '{{"from": {from}, "to": {}}}'{how})"#, from + 500));
        }
        let (middle, nodes) = (from + (to - from) / 2, self.nodes());
        (from < middle).then(|| format!("SELECT shard_split('{leaf}', '[{middle}]', nodes => {nodes}{how})"))
    }

    /// Its first value for itself, and the others.
    fn split_list(&mut self, leaf: &str, how: &str) -> Option<String> {
        let number = SIDE_TABLES.fetch_add(1, Ordering::Relaxed);
        self.ask(&format!(
            "SELECT format('SELECT shard_split(%L, %L{how})', partition, jsonb_build_object(
                        'first_{number}', to_jsonb(values[1:1]), 'rest_{number}', to_jsonb(values[2:])))
             FROM shard_partitions, regexp_split_to_array(substring(bounds FROM '[(](.*)[)]'), ', ') AS quoted,
                  LATERAL (SELECT array_agg(btrim(value, '''')) AS values FROM unnest(quoted) AS value) AS plain
             WHERE partition = '{leaf}'::regclass",
            how = how.replace('\'', "''")
        ))
    }

    /// In two transactions: somebody may come between them.
    fn adopt_again(&mut self) -> Option<String> {
        let table = self.side()?;
        self.session()?.batch_execute(&format!("SELECT shard_release_parent('{table}')")).ok()?;
        Some(format!("SELECT shard_adopt_parent('{table}')"))
    }

    /// A plain table with rows becomes a parent.
    fn convert(&mut self) -> String {
        let (number, modulus, nodes) =
            (SIDE_TABLES.fetch_add(1, Ordering::Relaxed), self.dice.roll(4) + 1, self.nodes());
        format!(
            "BEGIN; CREATE TABLE side_{number} (id bigint PRIMARY KEY, note text);
             INSERT INTO side_{number} SELECT i, 'note ' || i FROM generate_series(1, {SIDE_ROWS}) AS i;
             SELECT shard_create_parent('side_{number}', 'hash', 'id', modulus => {modulus}, nodes => {nodes}); COMMIT"
        )
    }

    /// An empty table becomes one and is filled, in one transaction that may be rolled back.
    fn create(&mut self) -> String {
        let (number, modulus, nodes) =
            (SIDE_TABLES.fetch_add(1, Ordering::Relaxed), self.dice.roll(4) + 1, self.nodes());
        let end = if self.dice.percent(30) { "ROLLBACK" } else { "COMMIT" };
        format!(
            "BEGIN; CREATE TABLE side_{number} (id bigint PRIMARY KEY, note text);
             SELECT shard_create_parent('side_{number}', 'hash', 'id', modulus => {modulus}, nodes => {nodes});
             INSERT INTO side_{number} SELECT i, 'note ' || i FROM generate_series(1, {SIDE_ROWS}) AS i; {end}"
        )
    }

    fn drop_side(&mut self) -> Option<String> {
        Some(format!("SELECT shard_drop_parent('{}')", self.side()?))
    }

    /// One of the tables made by the way.
    fn side(&mut self) -> Option<String> {
        self.ask("SELECT parent::text FROM shard_parents WHERE parent::text LIKE 'side%' ORDER BY random() LIMIT 1")
    }
}

/// The coordinator is number zero.
fn server_name(number: usize) -> String {
    if number == 0 { "local".to_owned() } else { format!("n{number}") }
}

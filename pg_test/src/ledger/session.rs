//! A client's session on the coordinator: the statements, prepared once, and the running of planned transactions.
use std::io::Write;
use std::time::Instant;

use postgres::{Client, Statement};

use super::keys::{HOT, Keys, Text, VALUES, params, texts};
use super::outcome::Timing;
use super::row::State;
use super::work::{End, Step, Work};

/// Why a transaction did not come to its end.
pub(super) enum Trouble {
    Sql(postgres::Error),
    /// A statement succeeded, and did not find what is known to be there.
    Wrong(String),
}

impl From<postgres::Error> for Trouble {
    fn from(error: postgres::Error) -> Trouble {
        Trouble::Sql(error)
    }
}

/// A connection with statements that are prepared once and kept as long as it lasts.
pub(super) struct Session {
    pub client: Client,
    keys: Keys,
    table: String,
    insert: Statement,
    bump: Statement,
    set: Statement,
    rekey: Statement,
    hot: Statement,
    delete: Statement,
    read: Statement,
    lock: Statement,
    pub timings: Vec<Timing>,
    /// What has been sent may commit.
    pub deciding: bool,
}

/// All of `VALUES` but the payload, as parameters from `$1` on.
const SET: &str = "client = $1, amount = $2, doc = $3";

impl Session {
    pub fn new(mut client: Client, keys: Keys, table: &str) -> Result<Session, postgres::Error> {
        let (key, values) = (keys.equal(1), VALUES.map(|name| format!("t.{name}::text")).join(", "));
        let count = keys.columns().len();
        let mut prepare = |sql: String| client.prepare(&sql);
        let read = format!("SELECT {values} FROM {table} AS t WHERE {key}");
        Ok(Session {
            insert: prepare(insert(keys, table, 1))?,
            bump: prepare(format!("UPDATE {table} SET version = version + 1, {SET} WHERE {}", keys.equal(4)))?,
            set: prepare(format!("UPDATE {table} SET {SET}, version = $4, payload = $5 WHERE {}", keys.equal(6)))?,
            rekey: prepare(format!(
                "UPDATE {table} SET {SET}, version = version + 1, {} WHERE {}",
                keys.equal(4).replace(" AND ", ", "),
                keys.equal(4 + count)
            ))?,
            hot: prepare(format!("UPDATE {table} SET version = version + 1 WHERE {key}"))?,
            delete: prepare(format!("DELETE FROM {table} WHERE {key}"))?,
            lock: prepare(format!("{read} FOR UPDATE"))?,
            read: prepare(read)?,
            client,
            keys,
            table: table.to_owned(),
            timings: Vec::new(),
            deciding: false,
        })
    }

    pub fn run(&mut self, work: &Work) -> Result<(), Trouble> {
        self.deciding = work.end == End::Itself;
        if work.end != End::Itself {
            self.command("BEGIN")?;
        }
        for step in &work.steps {
            self.step(step)?;
        }
        match work.end {
            End::Itself => {}
            End::Commit => {
                self.deciding = true;
                self.command("COMMIT")?;
            }
            End::Rollback => self.command("ROLLBACK")?,
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), Trouble> {
        let (what, expected, number) = match step {
            Step::Insert(rows) => ("INSERT", rows.len(), rows[0].0),
            Step::Copy(rows) => ("COPY", rows.len(), rows[0].0),
            Step::Bump(number, _) => ("UPDATE", 1, *number),
            Step::Set(number, _) => ("UPDATE of all columns", 1, *number),
            Step::Rekey(number, ..) => ("UPDATE of the key", 1, *number),
            Step::Hot => ("UPDATE of the hot row", 1, HOT),
            Step::Delete(rows) => ("DELETE", rows.len(), rows[0]),
            Step::Read(number, _) => ("SELECT", 1, *number),
            Step::Lock(number, _) => ("SELECT FOR UPDATE", 1, *number),
            Step::Savepoint => return Ok(self.command("SAVEPOINT here")?),
            Step::RollbackTo => return Ok(self.command("ROLLBACK TO SAVEPOINT here")?),
        };
        let begun = Instant::now();
        let rows = self.send(step);
        // One that fails has waited too.
        self.timings.push(Timing { what, begun, took: begun.elapsed() });
        let rows = rows?;
        if rows != expected as u64 {
            let key = self.keys.shown(&self.keys.key(number));
            return Err(Trouble::Wrong(format!("{what} with {key}: {rows} rows instead of {expected}")));
        }
        Ok(())
    }

    /// The number of rows that it found.
    fn send(&mut self, step: &Step) -> Result<u64, Trouble> {
        let keys = self.keys;
        let key = |number: &i64| texts(keys.key(*number));
        let affected = match step {
            Step::Insert(rows) => {
                let values: Vec<Text> = rows.iter().flat_map(|(number, state)| all(keys, *number, state)).collect();
                match rows.len() {
                    1 => self.client.execute(&self.insert, &params(&values))?,
                    many => self.client.execute(&insert(keys, &self.table, many), &params(&values))?,
                }
            }
            Step::Copy(rows) => {
                let sql = format!("COPY {} ({}) FROM STDIN", self.table, keys.all_columns());
                let mut copy = self.client.copy_in(&sql)?;
                for (number, state) in rows {
                    // An error of the connection comes with `finish`.
                    let _ = copy.write_all(keys.copy_line(*number, state).as_bytes());
                }
                copy.finish()?
            }
            Step::Bump(number, state) => {
                self.client.execute(&self.bump, &params(&[named(state), key(number)].concat()))?
            }
            Step::Set(number, state) => {
                let [version, _, payload, ..] = state.values().map(Text);
                let values = [named(state), vec![version, payload], key(number)].concat();
                self.client.execute(&self.set, &params(&values))?
            }
            Step::Rekey(from, to, state) => {
                self.client.execute(&self.rekey, &params(&[named(state), key(to), key(from)].concat()))?
            }
            Step::Hot => self.client.execute(&self.hot, &params(&key(&HOT)))?,
            Step::Delete(rows) if rows.len() == 1 => self.client.execute(&self.delete, &params(&key(&rows[0])))?,
            Step::Delete(rows) => {
                let count = keys.columns().len();
                let terms: Vec<_> = (0..rows.len()).map(|at| format!("({})", keys.equal(1 + at * count))).collect();
                let sql = format!("DELETE FROM {} WHERE {}", self.table, terms.join(" OR "));
                let values: Vec<Text> = rows.iter().flat_map(key).collect();
                self.client.execute(&sql, &params(&values))?
            }
            Step::Read(number, state) => {
                compare(keys, *number, state, &self.client.query(&self.read, &params(&key(number)))?)?
            }
            Step::Lock(number, state) => {
                compare(keys, *number, state, &self.client.query(&self.lock, &params(&key(number)))?)?
            }
            Step::Savepoint | Step::RollbackTo => 0,
        };
        Ok(affected)
    }

    fn command(&mut self, sql: &'static str) -> Result<(), postgres::Error> {
        let begun = Instant::now();
        let result = self.client.batch_execute(sql);
        self.timings.push(Timing { what: sql, begun, took: begun.elapsed() });
        result
    }

    /// Ends a failed transaction. `false`: the connection is of no use any more.
    pub fn is_usable(&mut self) -> bool {
        !self.client.is_closed() && self.client.batch_execute("ROLLBACK").is_ok()
    }
}

/// For so many rows, with parameters for all columns of each.
pub(super) fn insert(keys: Keys, table: &str, rows: usize) -> String {
    let width = keys.columns().len() + VALUES.len();
    let row = |at: usize| (1..=width).map(|column| format!("${}", at * width + column)).collect::<Vec<_>>().join(", ");
    let rows: Vec<_> = (0..rows).map(|at| format!("({})", row(at))).collect();
    format!("INSERT INTO {table} ({}) VALUES {}", keys.all_columns(), rows.join(", "))
}

pub(super) fn all(keys: Keys, number: i64, state: &State) -> Vec<Text> {
    texts(keys.key(number)).into_iter().chain(state.values().map(Text)).collect()
}

/// The parameters of `SET`.
fn named(state: &State) -> Vec<Text> {
    let [_, client, _, amount, doc] = state.values().map(Text);
    vec![client, amount, doc]
}

fn compare(keys: Keys, number: i64, state: &State, found: &[postgres::Row]) -> Result<u64, Trouble> {
    for row in found {
        let values: Vec<Option<String>> = (0..VALUES.len()).map(|at| row.get(at)).collect();
        if let Some(difference) = state.difference(&values) {
            let key = keys.shown(&keys.key(number));
            return Err(Trouble::Wrong(format!("SELECT with {key}: {difference}")));
        }
    }
    Ok(found.len() as u64)
}

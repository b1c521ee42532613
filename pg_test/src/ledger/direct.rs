//! A direct writer: asks the coordinator where a row lives, and upserts it there, into the node's mirror.
//!
//! When the row has moved, the server that had it refuses it: the writer asks again, as an application that routes for
//! itself has to.
use std::collections::HashMap;
use std::time::Instant;

use postgres::Client;

use super::client::{Meaning, REST, Worker, describe, ends_before_commit};
use super::keys::{Text, VALUES, params, texts};
use super::outcome::Timing;
use super::row::{State, Verdict};
use super::session::{all, insert};

const KIND: &str = "direct upsert";
/// So many rows a writer keeps writing to.
const ROWS: u64 = 200;

/// The row, or the table, is not here any more: 23514 no partition for it, 42P01 no mirror, 42P10 no primary key on the
/// coordinator's parent.
const MOVED: [&str; 3] = ["23514", "42P01", "42P10"];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    node: String,
    relation: String,
}

struct Direct {
    worker: Worker,
    /// By node.
    clients: HashMap<String, Client>,
    places: HashMap<i64, Place>,
    timings: Vec<Timing>,
}

pub(super) fn run(worker: Worker) {
    let mut direct = Direct { worker, clients: HashMap::new(), places: HashMap::new(), timings: Vec::new() };
    while !direct.worker.has_failed_enough() && direct.worker.gate.enter() {
        direct.write();
        direct.worker.gate.leave();
        std::thread::sleep(direct.worker.site.workload.think);
    }
}

impl Direct {
    fn write(&mut self) {
        let (number, state, taken) = self.plan();
        let deadline = Instant::now() + self.worker.site.workload.patience;
        let verdict = loop {
            let (error, sent) = match self.upsert(number, &state) {
                Ok(1) => break Verdict::Committed,
                Ok(rows) => {
                    self.worker.fail(KIND, format!("{rows} rows instead of 1, at {:?}", self.places.get(&number)));
                    break Verdict::Unknown;
                }
                Err(Refused::NoConnection) => break Verdict::Undone,
                Err(Refused::Looking(error)) => (error, false),
                Err(Refused::Writing(error)) => (error, true),
            };
            let moved = sent && error.code().is_some_and(|code| MOVED.contains(&code.code()));
            if moved && Instant::now() < deadline {
                self.worker.diary().tally.moved += 1;
                self.places.remove(&number);
                if !self.worker.gate.is_open() {
                    break Verdict::Undone;
                }
                std::thread::sleep(REST);
                continue;
            }
            match self.worker.meaning(&error) {
                Meaning::Again => {
                    self.worker.diary().tally.retries += 1;
                    if self.worker.gate.is_open() {
                        continue;
                    }
                }
                Meaning::Broken => {
                    self.worker.diary().tally.broken += 1;
                    self.clients.clear();
                    std::thread::sleep(REST);
                }
                Meaning::Failure => {
                    let place = self.places.get(&number);
                    self.worker.fail(KIND, format!("{}\nat {place:?}", describe(&error)));
                    self.clients.clear();
                }
            }
            break if sent && !ends_before_commit(&error) { Verdict::Unknown } else { Verdict::Undone };
        };
        let (changes, taken) = (HashMap::from([(number, state)]), taken.as_slice());
        self.worker.settle(KIND, taken, &changes, 0, verdict);
        self.worker.note(&mut self.timings);
    }

    /// A new row, or one more version of a row.
    fn plan(&mut self) -> (i64, State, Vec<i64>) {
        let (dice, seed) = (self.worker.dice.roll(), self.worker.dice.roll() as i64);
        let mut diary = self.worker.diary();
        let known = if dice.is_multiple_of(4) && (self.places.len() as u64) < ROWS {
            None
        } else {
            diary.book.take_live(dice >> 2)
        };
        let number = known.unwrap_or_else(|| diary.book.fresh());
        let version = diary.book.state(number).version + 1;
        (number, State { version, client: self.worker.name, seed, present: true }, known.into_iter().collect())
    }

    fn upsert(&mut self, number: i64, state: &State) -> Result<u64, Refused> {
        let place = match self.places.get(&number) {
            Some(place) => place.clone(),
            None => {
                let place = self.locate(number)?;
                self.places.insert(number, place.clone());
                place
            }
        };
        let keys = self.worker.site.keys;
        let set: Vec<_> = VALUES.iter().map(|name| format!("{name} = EXCLUDED.{name}")).collect();
        let sql = format!(
            "{} ON CONFLICT ({}) DO UPDATE SET {}",
            insert(keys, &place.relation, 1),
            keys.names(""),
            set.join(", ")
        );
        let client = self.client(&place.node).ok_or(Refused::NoConnection)?;
        let begun = Instant::now();
        let written = client.execute(&sql, &params(&all(keys, number, state))).map_err(Refused::Writing);
        self.timings.push(Timing { what: "INSERT ON CONFLICT on a node", begun, took: begun.elapsed() });
        written
    }

    /// On a node by the parent's mirror; here by the leaf, as the parent has no primary key.
    fn locate(&mut self, number: i64) -> Result<Place, Refused> {
        let (keys, table) = (self.worker.site.keys, self.worker.site.table.clone());
        let members: Vec<_> = (keys.columns().iter().enumerate())
            .map(|(at, (name, kind))| format!("'{name}', ${}::{kind}", at + 2))
            .collect();
        let sql = format!(
            "SELECT l.node, format('%I.%I', n.nspname, c.relname)
             FROM shard_locate($1::regclass, jsonb_build_object({})) l
             JOIN pg_class c ON c.oid = l.partition JOIN pg_namespace n ON n.oid = c.relnamespace",
            members.join(", ")
        );
        let mut values = vec![Text(Some(table.clone()))];
        values.extend(texts(keys.key(number)));
        let client = self.client(LOCAL).ok_or(Refused::NoConnection)?;
        match client.query_one(&sql, &params(&values)) {
            Ok(row) => {
                let (node, leaf): (String, String) = (row.get(0), row.get(1));
                let relation = if node == LOCAL { leaf } else { table };
                Ok(Place { node, relation })
            }
            // Not a managed parent (yet).
            Err(error) if error.code().is_some_and(|code| ["42P01", "42883"].contains(&code.code())) => {
                Ok(Place { node: LOCAL.to_owned(), relation: table })
            }
            Err(error) => Err(Refused::Looking(error)),
        }
    }

    fn client(&mut self, node: &str) -> Option<&mut Client> {
        let site = &self.worker.site;
        let Some(address) = (if node == LOCAL { Some(&site.coordinator) } else { site.nodes.get(node) }) else {
            self.worker.fail(KIND, format!("no server of the cluster is called {node}"));
            return None;
        };
        if self.clients.get(node).is_none_or(Client::is_closed) {
            let client = self.worker.connect(address)?;
            self.clients.insert(node.to_owned(), client);
        }
        self.clients.get_mut(node)
    }
}

/// The coordinator, as shard_locate names it.
pub(super) const LOCAL: &str = "local";

enum Refused {
    NoConnection,
    /// Nothing was written.
    Looking(postgres::Error),
    Writing(postgres::Error),
}

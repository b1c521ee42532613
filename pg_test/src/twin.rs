//! A table that moves, and a plain one beside it that gets the same statements: whatever happens to the first, both hold the
//! same rows.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postgres::Client;

use crate::movement::{self, complains, ends, field, reaches, told};
use crate::sql::{column, refused, rows};
use crate::{Cluster, eventually};

const LIMIT: Duration = Duration::from_secs(90);

pub struct Twin {
    pub cluster: Cluster,
    pub client: Client,
    /// As SQL has to name it.
    pub table: String,
    plain: String,
    steps: usize,
    /// Keeps the switch from its lock.
    reader: Option<Client>,
}

impl Twin {
    /// A cluster with nodes n1 …, and both tables made by this: `@` stands for the table, in all statements.
    pub fn new(cluster: Cluster, table: &str, create: &str) -> Result<Twin> {
        let mut client = cluster.coordinator.patient()?;
        client.batch_execute("SET statement_timeout = '60s'")?;
        let mut twin =
            Twin { cluster, client, table: table.into(), plain: "public.plain_twin".into(), steps: 0, reader: None };
        twin.run(create)?;
        Ok(twin)
    }

    pub fn joined(nodes: usize, table: &str, create: &str) -> Result<Twin> {
        Twin::new(movement::joined(nodes)?, table, create)
    }

    /// On both tables. `#` is a number that grows with every operation, so that the same statements bring new rows.
    pub fn run(&mut self, statements: &str) -> Result<()> {
        let statements = statements.replace('#', &(self.steps * 1000).to_string());
        for table in [&self.table, &self.plain] {
            let text = statements.replace('@', table);
            self.client.batch_execute(&text).with_context(|| shortened(&text))?;
        }
        Ok(())
    }

    /// The same by different statements: on servers where the leaves are, and on the plain table.
    pub fn plainly(&mut self, statements: &str) -> Result<()> {
        let text = statements.replace('@', &self.plain);
        self.client.batch_execute(&text).with_context(|| shortened(&text))
    }

    /// Carries an operation out. The changes are made twice after the copy: while it follows, and again while it is paused,
    /// so that the comparison meets them too.
    pub fn operate(&mut self, call: &str, mut changes: impl FnMut(&mut Twin) -> Result<()>) -> Result<()> {
        let id = self.hold(call)?;
        self.steps += 1;
        changes(self).with_context(|| format!("while it follows, {call}"))?;
        self.pause(id)?;
        self.steps += 1;
        changes(self).with_context(|| format!("while it is paused, {call}"))?;
        self.release(id).with_context(|| call.to_string())?;
        self.is_same().with_context(|| call.to_string())
    }

    /// Begins an operation and brings it to where only its switch is left. A reader keeps it there until it is paused.
    fn hold(&mut self, call: &str) -> Result<i64> {
        let mut reader = self.cluster.coordinator.client()?;
        reader.batch_execute(&format!("BEGIN; LOCK TABLE {} IN ACCESS SHARE MODE", self.table))?;
        let id: Option<i64> = self.client.query_one(&format!("SELECT {call}"), &[]).context(call.to_string())?.get(0);
        let id = id.context("no operation")?;
        complains(&self.cluster, id, "nobody holds the parent", LIMIT).context(call.to_string())?;
        self.reader = Some(reader);
        Ok(id)
    }

    fn pause(&mut self, id: i64) -> Result<()> {
        self.client.execute("SELECT shard_pause($1)", &[&id])?;
        let none = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'shardkeeper operation'";
        eventually("the worker has left", LIMIT, || self.cluster.coordinator.value(none))?;
        self.reader = None;
        Ok(())
    }

    fn release(&mut self, id: i64) -> Result<()> {
        self.client.execute("SELECT shard_resume($1)", &[&id])?;
        self.finish(id)
    }

    /// Waits for the switch, and drops the old tables.
    pub fn finish(&mut self, id: i64) -> Result<()> {
        eventually("it has switched, or needs a person", LIMIT, || {
            let tell = |column: &str| field(&self.cluster, id, column);
            let halted = format!("SELECT halted FROM shardkeeper.operations WHERE id = {id}");
            let stuck = self.cluster.coordinator.value::<bool>(&halted)?;
            ensure!(!stuck, "{}: {}", tell("error")?, tell("hint")?);
            Ok(tell("state")? == "switched")
        })
        .with_context(|| told(&self.cluster))?;
        reaches(&self.cluster, id, "switched", LIMIT)?;
        self.client.execute("SELECT shard_finish($1)", &[&id])?;
        ends(&self.cluster, id, LIMIT)
    }

    /// Both tables hold the same rows, and each row is in the leaf that its key belongs to.
    pub fn is_same(&mut self) -> Result<()> {
        let mut content = |table: &str| {
            let all = format!("SELECT left(odd_row::text, 200), md5(odd_row::text) FROM {table} AS odd_row ORDER BY 2");
            rows(&mut self.client, &all)
        };
        let (found, wanted) = (content(&self.table)?, content(&self.plain)?);
        let differ = |some: &[Vec<String>], others: &[Vec<String>]| {
            let only: Vec<&str> = some.iter().filter(|row| !others.contains(row)).map(|row| row[0].as_str()).collect();
            only.join("\n")
        };
        ensure!(
            found == wanted,
            "{} and {} rows; only in the table:\n{}\nonly in the plain one:\n{}",
            found.len(),
            wanted.len(),
            differ(&found, &wanted),
            differ(&wanted, &found)
        );
        let leaves = format!(
            "SELECT format('SELECT count(*) FROM %s WHERE (%s) IS NOT TRUE', partition, pg_get_partition_constraintdef(partition))
             FROM shard_partitions WHERE parent = '{}'::regclass AND is_leaf",
            self.table.replace('\'', "''")
        );
        for query in column(&mut self.client, &leaves)? {
            let astray = column(&mut self.client, &query)?;
            ensure!(astray == ["0"], "{query}: {astray:?}");
        }
        Ok(())
    }

    pub fn nothing_is_left(&self) -> Result<()> {
        movement::nothing_is_left(&self.cluster)
    }

    /// SQLSTATE, message and hint of what the call must end in.
    pub fn refuses(&mut self, call: &str) -> Result<String> {
        let error = refused(&mut self.client, call)?;
        Ok(format!("{} {} / {}", error.code().code(), error.message(), error.hint().unwrap_or_default()))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(500).collect()
}

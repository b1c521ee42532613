//! What bad input gets: an SQLSTATE, one line that says what is wrong, a hint where there is something to do, and nothing
//! half done on any server.
use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use pg_test::sql::{column, refused};
use pg_test::{Cluster, Options, Snapshot};
use postgres::Client;
use postgres::error::DbError;

mod bounds;
mod cancel;
mod keys;
mod limits;
mod names;
mod overlap;
mod rights;
mod short_form;
mod spec;
mod tables;

/// A call that must be refused: SQLSTATE, message, and a piece of the hint, or "" where none is due.
type Case<'a> = (&'a str, &'a str, &'a str, &'a str);

/// Servers with registered nodes, and each with a table `victim` that nothing may touch.
struct Scene {
    cluster: Cluster,
    client: Client,
}

impl Scene {
    fn new(nodes: usize) -> Result<Scene> {
        Scene::with(Options { nodes, ..Options::default() })
    }

    fn with(options: Options) -> Result<Scene> {
        let cluster = Cluster::with(options)?;
        cluster.add_nodes()?;
        for server in cluster.servers() {
            server.run("CREATE TABLE victim (id int PRIMARY KEY); INSERT INTO victim VALUES (1); ALTER TABLE victim OWNER TO app")?;
        }
        let client = cluster.coordinator.client()?;
        Ok(Scene { cluster, client })
    }

    /// What all servers hold now.
    fn held(&self) -> Result<Held> {
        Held::now(&self.cluster)
    }

    /// Makes each call and compares what it gets; all that is wrong is told at the end.
    fn refuses(&mut self, cases: &[Case]) -> Result<()> {
        let before = self.held()?;
        let mut wrong = Vec::new();
        for (sql, code, message, hint) in cases {
            match refused(&mut self.client, sql) {
                Ok(error) => wrong.extend(compare(&error, code, message, hint).map(|why| format!("{sql}\n{why}"))),
                Err(error) => wrong.push(format!("{error:#}")),
            }
            before.is_unchanged(&self.cluster).with_context(|| sql.to_string())?;
        }
        ensure!(wrong.is_empty(), "{} of {} calls:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
        Ok(())
    }
}

/// What is different from what is expected, if anything is.
fn compare(error: &DbError, code: &str, message: &str, hint: &str) -> Option<String> {
    let hinted = error.hint().unwrap_or_default();
    let mut wrong = Vec::new();
    if (error.code().code(), error.message()) != (code, message) {
        wrong.push(format!("  wanted {code} {message}"));
    }
    if hint.is_empty() != hinted.is_empty() || !hinted.contains(hint) {
        wrong.push(format!("  wanted the hint {hint:?}"));
    }
    wrong.extend(ill_formed(error));
    let got = format!("  got    {} {}\n         {:?} {hinted:?}", error.code().code(), error.message(), error.detail());
    (!wrong.is_empty()).then(|| format!("{}\n{got}", wrong.join("\n")))
}

/// A message is one line, lower case and without a period; details and hints are sentences.
fn ill_formed(error: &DbError) -> Vec<String> {
    let mut wrong = Vec::new();
    let message = error.message();
    if message.contains('\n') || message.ends_with('.') || message.starts_with(char::is_uppercase) {
        wrong.push("  the message is not one line in lower case without a period".to_owned());
    }
    for (what, text) in [("detail", error.detail()), ("hint", error.hint())] {
        // A detail may begin with a path, a name or a number.
        if text.is_some_and(|text| !text.ends_with(['.', ';'])) {
            wrong.push(format!("  the {what} is not a sentence"));
        }
    }
    wrong
}

/// All objects of all servers, what is in the journals, and the victims' rows.
struct Held {
    objects: Snapshot,
    journals: BTreeSet<String>,
}

impl Held {
    fn now(cluster: &Cluster) -> Result<Held> {
        Ok(Held { objects: Snapshot::take(cluster)?, journals: journals(cluster)? })
    }

    /// Nothing came and nothing went. Rows of journals may go: those of calls that succeeded before are settled meanwhile.
    fn is_unchanged(&self, cluster: &Cluster) -> Result<()> {
        self.objects.is_unchanged(cluster)?;
        let new: Vec<String> = journals(cluster)?.difference(&self.journals).cloned().collect();
        ensure!(new.is_empty(), "new in the journals:\n{}", new.join("\n"));
        for server in cluster.servers() {
            ensure!(server.value::<i64>("SELECT count(*) FROM victim")? == 1, "the victim on {} is empty", server.name);
        }
        Ok(())
    }
}

fn journals(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for server in cluster.nodes() {
        let found = column(&mut server.client()?, "SELECT concat_ws(' ', id, command) FROM shardkeeper.journal")?;
        lines.extend(found.into_iter().map(|line| format!("{}: {line}", server.name)));
    }
    Ok(lines)
}

//! After the chaos: what goes on is let end, and then everything must be as if nothing had happened.
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_test::movement::{nothing_is_left, told};
use pg_test::objects::settled;
use pg_test::sql::rows;
use pg_test::{Cluster, eventually};

use super::calls::SIDE_ROWS;

/// Operations that were amid something end by themselves.
const LIMIT: Duration = Duration::from_secs(300);

/// Lets every operation go on, and waits until all are at their ends and nothing has to be settled.
pub fn settle(cluster: &Cluster) -> Result<()> {
    let mut client = None;
    eventually("all operations end", LIMIT, || {
        // A session of before may have ended with its server.
        let session = match &mut client {
            Some(session) => session,
            none => none.insert(cluster.coordinator.client()?),
        };
        // A part is its group's, unless that has ended without it: what could not be taken back is kept for itself.
        let open = "SELECT o.id, o.state FROM shard_operations o LEFT JOIN shard_operations g ON g.id = o.part_of
                    WHERE o.ended_at IS NULL AND (g.id IS NULL OR g.ended_at IS NOT NULL)";
        let open = rows(session, open);
        let Ok(open) = open else {
            client = None;
            return Ok(false);
        };
        for operation in &open {
            let call = match operation[1].as_str() {
                "paused" => "shard_resume",
                "switched" => "shard_finish",
                _ => continue,
            };
            // It may have moved on meanwhile.
            let _ = session.batch_execute(&format!("SELECT {call}({})", operation[0]));
        }
        Ok(open.is_empty())
    })
    .with_context(|| told(cluster))?;
    settled(cluster, LIMIT)
}

/// The side tables have their rows, `shard_check` is content, and nothing is left. What servers tell of bugs is looked at when
/// the cluster ends.
pub fn check(cluster: &Cluster) -> Result<()> {
    let mut client = cluster.coordinator.client()?;
    for table in rows(&mut client, "SELECT tablename FROM pg_tables WHERE tablename ~ '^side_[0-9]+$'")? {
        let count = cluster.coordinator.count(&table[0])?;
        ensure!(count == SIDE_ROWS, "{} has {count} of {SIDE_ROWS} rows", table[0]);
    }
    let wrong = "SELECT area, object, node, severity, finding, hint FROM shard_check() WHERE severity <> 'ok'";
    let found = |client: &mut _| rows(client, wrong);
    eventually("shard_check is content", LIMIT, || Ok(found(&mut client)?.is_empty()))
        .with_context(|| format!("{:#?}", cluster.coordinator.client().map(|mut client| rows(&mut client, wrong))))?;
    nothing_is_left(cluster)
}

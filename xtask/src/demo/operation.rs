//! An operation as the demo shows it: how far it is and what the application feels, until it has switched.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use postgres::Client;

use super::application::Application;
use super::screen::{Screen, number, seconds};

/// Between two looks; and after how long the application's pulse is told anew.
const LOOK: Duration = Duration::from_millis(100);
const BEAT: Duration = Duration::from_secs(1);
/// Longer than any step of the demo takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

pub fn follow(screen: &Screen, client: &mut Client, application: &Application, id: i64) -> Result<()> {
    let begun = Instant::now();
    let mut beat = begun;
    loop {
        let row = client.query_one(
            "SELECT o.phase, coalesce(o.error, ''), p.rows_done, p.rows_total
             FROM shard_operations o LEFT JOIN shard_progress p USING (id) WHERE o.id = $1",
            &[&id],
        )?;
        let (phase, error): (&str, &str) = (row.get(0), row.get(1));
        if phase == "switched" {
            break;
        }
        ensure!(phase != "failed", "operation {id} failed: {error}");
        ensure!(begun.elapsed() < LIMIT, "operation {id} is still {phase} after {LIMIT:?}: {error}");
        // It has to fit into 80 columns.
        let rows = match (phase, row.get::<_, Option<i64>>(2), row.get::<_, Option<i64>>(3)) {
            // What there is to copy is known a moment later.
            ("copying", Some(done), Some(total)) if total > 0 => {
                format!("{} of {}", number(done), number(total.max(done)))
            }
            _ => String::new(),
        };
        let pulse = application.pulse(beat)?;
        let due = beat.elapsed() >= BEAT;
        // The first moment of a beat would tell of nothing.
        if due || beat == begun || pulse.writes > 50 {
            screen.live(&format!("{phase:<11} {rows:<18} {pulse}"), due);
        }
        if due {
            beat = Instant::now();
        }
        std::thread::sleep(LOOK);
    }
    screen.say(&format!("switched: {}", phases(client, id)?));
    Ok(())
}

/// How long it was in each state.
fn phases(client: &mut Client, id: i64) -> Result<String> {
    let sql = "SELECT state, extract(epoch FROM lead(at) OVER (ORDER BY at) - at)::float8
               FROM shardkeeper.operation_log WHERE operation = $1 ORDER BY at";
    let mut phases = Vec::new();
    for row in client.query(sql, &[&id])? {
        if let (state, Some(time)) = (row.get::<_, String>(0), row.get::<_, Option<f64>>(1)) {
            phases.push(format!("{state} {}", seconds(Duration::from_secs_f64(time))));
        }
    }
    Ok(phases.join(", "))
}

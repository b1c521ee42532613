//! Clients that update rows of `t` by key, through the coordinator and without a pause, and what became of their statements.
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pg_test::Cluster;

const COUNT: i64 = 4;

/// When each statement began, and how long it took until it had succeeded.
type Statements = Vec<(Instant, Duration)>;

pub struct Clients {
    stop: AtomicBool,
    /// Of each client.
    statements: Vec<Mutex<Statements>>,
}

/// Does `work` while the clients are at work on a table of so many rows.
pub fn at_work(cluster: &Cluster, rows: i64, work: impl FnOnce(&Clients) -> Result<()>) -> Result<()> {
    let statements = (0..COUNT).map(|_| Mutex::default()).collect();
    let clients = Clients { stop: AtomicBool::new(false), statements };
    std::thread::scope(|scope| {
        let clients = &clients;
        let threads: Vec<_> =
            (0..COUNT).map(|number| scope.spawn(move || clients.write(cluster, rows / COUNT, number))).collect();
        let outcome = work(clients);
        clients.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("no panic")?;
        }
        outcome
    })
}

impl Clients {
    /// Each client has rows of its own, so that no two of them meet.
    fn write(&self, cluster: &Cluster, own: i64, number: i64) -> Result<()> {
        let mut client = cluster.coordinator.client()?;
        let update = client.prepare("UPDATE t SET counter = counter + 1 WHERE id = $1")?;
        let mut place = number;
        while !self.stop.load(Ordering::Relaxed) {
            place = (place + 7919) % own;
            let id = place * COUNT + number + 1;
            let start = Instant::now();
            loop {
                match client.execute(&update, &[&id]) {
                    Ok(rows) => break ensure!(rows == 1, "{rows} rows with the id {id}"),
                    // A client repeats it, and waits all that time.
                    Err(error) if error.code().is_some_and(|code| code.code() == "40001") => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let took = start.elapsed();
            self.statements[number as usize].lock().expect("no panic").push((start, took));
        }
        Ok(())
    }

    /// Statements that have succeeded.
    pub fn written(&self) -> usize {
        self.statements.iter().map(|own| own.lock().expect("no panic").len()).sum()
    }

    /// Statements a second that ended within that time.
    pub fn rate(&self, from: Instant, to: Instant) -> f64 {
        let count = self.fold(0, |count, at, took| count + usize::from((from..to).contains(&(at + took))));
        count as f64 / (to - from).as_secs_f64()
    }

    /// The longest statement of which some part was within that time, in milliseconds.
    pub fn longest(&self, from: Instant, to: Instant) -> f64 {
        let touches = |at: Instant, took: Duration| at + took >= from && at < to;
        let longest = self.fold(Duration::ZERO, |most, at, took| if touches(at, took) { most.max(took) } else { most });
        longest.as_secs_f64() * 1e3
    }

    fn fold<T>(&self, first: T, mut with: impl FnMut(T, Instant, Duration) -> T) -> T {
        let mut value = first;
        for own in &self.statements {
            for (at, took) in own.lock().expect("no panic").iter() {
                value = with(value, *at, *took);
            }
        }
        value
    }
}

//! The application of the demo: one session that writes orders all the time, and keeps books of what was acknowledged.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use pg_test::Cluster;
use postgres::Client;

/// Two thirds of the orders are of the first branch of the tree, one third of the second.
const REGIONS: [&str; 6] = ["DE", "US", "FR", "DE", "US", "FR"];
const CUSTOMERS: i64 = 5_000;
/// Between two writes.
const THINK: Duration = Duration::from_millis(2);

/// What an order is follows from its number, but for its amount, which the application changes.
pub struct Order {
    pub region: &'static str,
    pub customer: i64,
    pub note: String,
}

impl Order {
    pub fn of(id: i64) -> Order {
        let region = REGIONS[(id % 6) as usize];
        Order { region, customer: id * 7919 % CUSTOMERS, note: format!("order number {id}") }
    }
}

/// The amount of each order by its number; `None` was deleted.
#[derive(Default)]
pub struct Books {
    amounts: Vec<Option<i32>>,
}

impl Books {
    pub fn orders(&self) -> usize {
        self.amounts.iter().flatten().count()
    }

    /// Each order once, as it was written last, and nothing else.
    pub fn check(&self, client: &mut Client) -> Result<()> {
        let mut seen = vec![false; self.amounts.len()];
        for row in client.query("SELECT id, region, customer_id, amount, note FROM orders", &[])? {
            let (id, amount): (i64, i32) = (row.get(0), row.get(3));
            let order = Order::of(id);
            let found = (row.get::<_, &str>(1), row.get::<_, i64>(2), row.get::<_, &str>(4));
            ensure!(found == (order.region, order.customer, order.note.as_str()), "order {id} is {found:?}");
            let wanted = usize::try_from(id).ok().and_then(|id| *self.amounts.get(id)?);
            ensure!(wanted == Some(amount), "order {id} has the amount {amount}, not {wanted:?}");
            ensure!(!std::mem::replace(&mut seen[id as usize], true), "order {id} is there twice");
        }
        let lost = (0..seen.len()).find(|id| self.amounts[*id].is_some() && !seen[*id]);
        lost.map_or(Ok(()), |id| Err(anyhow!("order {id} is lost")))
    }
}

pub struct Application {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Locked during a write: who else holds it sees no half of one.
    books: Mutex<Books>,
    /// When each write ended, and how long it took.
    writes: Mutex<Vec<(Instant, Duration)>>,
    error: Mutex<Option<String>>,
}

/// What the application felt for some time.
pub struct Pulse {
    pub writes: usize,
    pub a_second: f64,
    pub median: Duration,
    pub longest: Duration,
}

impl Application {
    /// The orders 0 to `orders` - 1 are in the table, each with its number modulo 100 as amount.
    pub fn start(cluster: &Cluster, orders: i64) -> Result<Application> {
        let shared = Arc::new(Shared::default());
        lock(&shared.books).amounts = (0..orders).map(|id| Some((id % 100) as i32)).collect();
        let mut client = cluster.coordinator.client()?;
        client.batch_execute("SET application_name = 'the application'")?;
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                if let Err(error) = shared.work(&mut client) {
                    *lock(&shared.error) = Some(format!("{error:#}"));
                }
            }
        });
        Ok(Application { shared, thread: Some(thread) })
    }

    /// The books, with no write under way for as long as they are held.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.shared.books)
    }

    pub fn pulse(&self, from: Instant) -> Result<Pulse> {
        if let Some(error) = &*lock(&self.shared.error) {
            return Err(anyhow!("the application met an error: {error}"));
        }
        let mut took: Vec<Duration> =
            lock(&self.shared.writes).iter().rev().take_while(|(at, _)| *at >= from).map(|(_, took)| *took).collect();
        took.sort();
        Ok(Pulse {
            writes: took.len(),
            a_second: took.len() as f64 / from.elapsed().as_secs_f64(),
            median: took.get(took.len() / 2).copied().unwrap_or_default(),
            longest: took.last().copied().unwrap_or_default(),
        })
    }

    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What went wrong is told by the next pulse.
            let _ = thread.join();
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn work(&self, client: &mut Client) -> Result<()> {
        let insert =
            client.prepare("INSERT INTO orders (id, region, customer_id, amount, note) VALUES ($1, $2, $3, $4, $5)")?;
        let key = "WHERE region = $1 AND customer_id = $2 AND id = $3";
        let update = client.prepare(&format!("UPDATE orders SET amount = amount + 1 {key}"))?;
        let delete = client.prepare(&format!("DELETE FROM orders {key}"))?;
        let mut chance = 1_u64;
        while !self.stop.load(Ordering::Relaxed) {
            let mut books = lock(&self.books);
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let new = books.amounts.len();
            let place = (chance >> 33) as usize % new;
            let start = Instant::now();
            match (chance >> 60, books.amounts[place]) {
                (0..4, _) | (_, None) => {
                    let order = Order::of(new as i64);
                    let values = (new as i64, order.region, order.customer, 0_i32, order.note.as_str());
                    let rows = client.execute(&insert, &[&values.0, &values.1, &values.2, &values.3, &values.4])?;
                    ensure!(rows == 1, "the order {new} was inserted {rows} times");
                    books.amounts.push(Some(0));
                }
                (4..6, Some(_)) => {
                    changed(client, &delete, place)?;
                    books.amounts[place] = None;
                }
                (_, Some(amount)) => {
                    changed(client, &update, place)?;
                    books.amounts[place] = Some(amount + 1);
                }
            }
            let took = start.elapsed();
            drop(books);
            lock(&self.writes).push((Instant::now(), took));
            std::thread::sleep(THINK);
        }
        Ok(())
    }
}

fn changed(client: &mut Client, statement: &postgres::Statement, id: usize) -> Result<()> {
    let order = Order::of(id as i64);
    let rows = client
        .execute(statement, &[&order.region, &order.customer, &(id as i64)])
        .with_context(|| format!("order {id}"))?;
    ensure!(rows == 1, "order {id} was met {rows} times");
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|error| error.into_inner())
}

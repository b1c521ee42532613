//! What the demo shows: a table of one server grows over six, and shrinks back, while an application writes to it.
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::Cluster;
use pg_test::movement::{ends, nothing_is_left};
use pg_test::sql::column;
use postgres::Client;

use super::application::{Application, Order};
use super::screen::{Screen, milliseconds, number};
use super::{look, operation};

/// In the order in which they join.
pub const NODES: [&str; 5] = ["n2", "n3", "us_1", "us_2", "us_3"];
const ORDERS: i64 = 120_000;
const ALONE: Duration = Duration::from_secs(2);

const TABLE: &str = "\
CREATE TABLE orders (
    id bigint, region text, customer_id bigint, amount integer NOT NULL, note text,
    PRIMARY KEY (region, customer_id, id)
);";

const CREATE: &str = r#"SELECT shard_create_parent('orders', '{
    "method": "list", "key": "region", "values": {"eu": ["DE", "FR"], "us": ["US"]},
    "partitions": {"method": "hash", "key": "customer_id", "modulus": 1}
}');"#;

pub fn tell(screen: &mut Screen, cluster: &Cluster) -> Result<()> {
    let mut client = cluster.coordinator.client()?;
    screen.step("One server, one ordinary table", |screen| table(screen, &mut client))?;
    let mut application = Application::start(cluster, ORDERS)?;
    let mut tale = Tale { cluster, client, application: &application, felt: Vec::new() };
    tale.chapter(screen, "An application begins to write: new orders, changes, deletions", |_, _| {
        std::thread::sleep(ALONE);
        Ok(())
    })?;
    tale.chapter(
        screen,
        "The table becomes a hierarchy, by region and customer, while the application writes",
        |tale, screen| tale.moves(screen, CREATE),
    )?;
    tale.chapter(screen, "A second server for Europe's orders: modulus 2", |tale, screen| {
        tale.join(screen, &NODES[..1])?;
        tale.moves(screen, "SELECT shard_set_modulus('orders_eu', 2, nodes => '{local, n2}');")
    })?;
    tale.chapter(screen, "A third server: modulus 3", |tale, screen| {
        tale.join(screen, &NODES[1..2])?;
        tale.moves(screen, "SELECT shard_set_modulus('orders_eu', 3, nodes => '{local, n2, n3}');")
    })?;
    tale.chapter(screen, "A branch of the United States on three more servers", |tale, screen| {
        tale.join(screen, &NODES[2..])?;
        tale.moves(screen, "SELECT shard_set_modulus('orders_us', 3, nodes => '{us_1, us_2, us_3}');")?;
        tale.draw()
    })?;
    screen.step("Is everything where it belongs? The application waits a moment", |screen| tale.check(screen))?;
    tale.chapter(screen, "Ask all servers, and ask for one key", |tale, screen| {
        look::question(screen, cluster)?;
        look::one_key(screen, cluster, &mut tale.client)
    })?;
    tale.chapter(screen, "Send wrong rows straight to a node: it refuses them itself", |_, screen| {
        look::wrong_rows(screen, cluster)
    })?;
    tale.chapter(screen, "Change several servers in one transaction, and change your mind", |tale, screen| {
        look::change_of_mind(screen, cluster, &mut tale.client)
    })?;
    tale.chapter(screen, "Shrink back: the United States to one server", |tale, screen| {
        tale.moves(screen, "SELECT shard_set_modulus('orders_us', 1, nodes => '{local}');")
    })?;
    tale.chapter(screen, "Shrink back: Europe to one server", |tale, screen| {
        tale.moves(screen, "SELECT shard_set_modulus('orders_eu', 1, nodes => '{local}');")
    })?;
    let Tale { mut client, felt, .. } = tale;
    application.stop();
    screen.step("The books of the application, and what it felt", |screen| {
        application.pulse(Instant::now())?;
        application.books().check(&mut client)?;
        let orders = application.books().orders();
        screen.say(&format!("{} orders: each acknowledged write is there, exactly once", number(orders as i64)));
        nothing_is_left(cluster)?;
        screen.say("no slot, publication or table of an operation is left on any server");
        screen.say("");
        screen.say(&summary(&felt));
        let longest = felt.iter().skip(1).max_by_key(|chapter| chapter.longest).context("no chapter")?;
        let alone = felt.first().map(|chapter| chapter.longest).unwrap_or_default();
        screen.strong(&format!(
            "\nThe longest pause of the application: {}, in \"{}\". With nobody else at work it was {}.",
            milliseconds(longest.longest),
            longest.title,
            milliseconds(alone)
        ));
        Ok(())
    })
}

/// The tree at its widest, as an SVG beside the servers' data, so that it goes when they go.
pub fn picture(cluster: &Cluster) -> PathBuf {
    Path::new(cluster.directory()).join("orders.svg")
}

/// What the application felt in one step.
struct Felt {
    title: String,
    writes: usize,
    median: Duration,
    longest: Duration,
}

struct Tale<'a> {
    cluster: &'a Cluster,
    client: Client,
    application: &'a Application,
    felt: Vec<Felt>,
}

impl Tale<'_> {
    /// A step, and what the application felt meanwhile.
    fn chapter(
        &mut self,
        screen: &mut Screen,
        title: &str,
        work: impl FnOnce(&mut Self, &Screen) -> Result<()>,
    ) -> Result<()> {
        screen.step(title, |screen| {
            let begun = Instant::now();
            work(self, screen)?;
            let pulse = self.application.pulse(begun)?;
            screen.note(&format!("the application: {pulse}"));
            let (writes, median, longest) = (pulse.writes, pulse.median, pulse.longest);
            self.felt.push(Felt { title: title.to_owned(), writes, median, longest });
            Ok(())
        })
    }

    fn join(&mut self, screen: &Screen, names: &[&str]) -> Result<()> {
        for node in self.cluster.nodes().iter().filter(|node| names.contains(&node.name.as_str())) {
            let command = format!(
                "SELECT finding FROM shard_add_node('{}', host => '127.0.0.1', port => {}, username => 'app', password => 'app');",
                node.name,
                node.port()
            );
            screen.command(&command);
            for finding in column(&mut self.client, &command)? {
                screen.say(&finding);
            }
        }
        Ok(())
    }

    /// Begins an operation, tells how it goes until it has switched, drops the old tables, and draws the tree.
    fn moves(&mut self, screen: &Screen, command: &str) -> Result<()> {
        screen.command(command);
        let id: i64 = self.client.query_one(command, &[]).with_context(|| command.to_owned())?.get(0);
        operation::follow(screen, &mut self.client, self.application, id)?;
        screen.command(&format!("SELECT shard_finish({id});"));
        self.client.execute("SELECT shard_finish($1)", &[&id])?;
        ends(self.cluster, id, operation::LIMIT)?;
        screen.command("SELECT shard_tree('orders');");
        let tree: String = self.client.query_one("SELECT shard_tree('orders')", &[])?.get(0);
        screen.picture(&tree);
        Ok(())
    }

    fn draw(&mut self) -> Result<()> {
        let svg: String = self.client.query_one("SELECT shard_tree('orders', 'svg')", &[])?.get(0);
        let path = picture(self.cluster);
        std::fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))
    }

    /// While the application waits between two writes.
    fn check(&mut self, screen: &Screen) -> Result<()> {
        let books = self.application.books();
        books.check(&mut self.client)?;
        let orders = books.orders() as i64;
        screen.say(&format!("{} orders, each as the application wrote it last", number(orders)));
        let located = "SELECT count(*) FROM orders o, shard_locate('orders', jsonb_build_object(
                       'region', o.region, 'customer_id', o.customer_id)) l WHERE l.partition = o.tableoid";
        let right: i64 = self.client.query_one(located, &[])?.get(0);
        ensure!(right == orders, "{right} of {orders} orders are where shard_locate says");
        screen.say("each is in the leaf that shard_locate names for its key");
        let here = "SELECT string_agg('SELECT FROM ' || partition, ' UNION ALL ') FROM shard_partitions
                    WHERE parent = 'orders'::regclass AND is_leaf AND node = 'local'";
        let here: String = self.client.query_one(here, &[])?.get(0);
        let here: i64 = self.client.query_one(&format!("SELECT count(*) FROM ({here}) AS here"), &[])?.get(0);
        let mut shares = vec![("local", here)];
        for node in self.cluster.nodes() {
            shares.push((&node.name, node.value("SELECT count(*) FROM orders")?));
        }
        ensure!(shares.iter().map(|(_, rows)| rows).sum::<i64>() == orders, "the shares are {shares:?}");
        let shares: Vec<String> = shares.iter().map(|(node, rows)| format!("{node} {}", number(*rows))).collect();
        screen.say(&format!("every server asked by itself: {}", shares.join(" + ")));
        Ok(())
    }
}

fn table(screen: &Screen, client: &mut Client) -> Result<()> {
    screen.command(TABLE);
    client.batch_execute(TABLE)?;
    screen.command("COPY orders FROM STDIN;");
    let mut copy = client.copy_in("COPY orders FROM STDIN")?;
    for id in 0..ORDERS {
        let Order { region, customer, note } = Order::of(id);
        writeln!(copy, "{id}\t{region}\t{customer}\t{}\t{note}", id % 100)?;
    }
    copy.finish()?;
    client.batch_execute("ANALYZE orders")?;
    screen.say(&format!("{} orders", number(ORDERS)));
    Ok(())
}

fn summary(felt: &[Felt]) -> String {
    let mut text = "  writes     median    longest  while\n".to_owned();
    for Felt { title, writes, median, longest } in felt {
        let (median, longest) = (milliseconds(*median), milliseconds(*longest));
        text += &format!("{:>8} {median:>10} {longest:>10}  {title}\n", number(*writes as i64));
    }
    text
}

impl std::fmt::Display for super::application::Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let median = self.median.as_secs_f64() * 1e3;
        write!(f, "{:.0} writes/s, median {median:.1}, longest {}", self.a_second, milliseconds(self.longest))
    }
}

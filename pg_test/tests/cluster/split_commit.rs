//! Faults in the middle of a commit over several servers: afterwards all agree, by themselves and soon.
use std::collections::BTreeSet;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::objects::unsettled;
use pg_test::sql::{refused, rows};
use pg_test::{Cluster, Objects, Options, PATIENCE, Then, eventually, matrix};

/// The promise: all servers agree that long after they are up.
const HEALED: Duration = Duration::from_secs(10);

/// `Full` has 100 rows in each of four regions, most of them on both nodes. `small` has one leaf on each. `fresh` waits
/// for being made a parent.
fn prepared(preload: bool) -> Result<Cluster> {
    let cluster = Cluster::with(Options { nodes: 2, preload, ..Options::default() })?;
    cluster.add_nodes_by_proxy()?;
    cluster.servers().try_for_each(|server| server.run("CREATE ROLE reader"))?;
    cluster.coordinator.run(
        r#"CREATE TABLE fresh (id int PRIMARY KEY, note text);
           CREATE TABLE "Full" (id int, region text, note text, PRIMARY KEY (id, region));
           CREATE INDEX ON "Full" (note);
           SELECT shard_create_parent('"Full"', '{"method": "list", "key": "region", "nodes": ["n1", "n2"],
               "values": {"us": ["US"], "eu": ["EU", "UK"], "cn": {"in": ["CN"], "nodes": ["local"]}}, "default": {"nodes": ["n2"]},
               "partitions": {"method": "hash", "key": "id", "modulus": 2}}');
           INSERT INTO "Full" SELECT i, r, 'row ' || i FROM generate_series(1, 100) i, unnest('{US,EU,CN,FR}'::text[]) r;
           CREATE TABLE small (id int, region text, PRIMARY KEY (id, region));
           SELECT shard_create_parent('small', '{"method": "list", "key": "region", "nodes": ["n1", "n2"],
               "values": {"us": ["US"], "eu": ["EU"]}}');
           INSERT INTO small SELECT i, r FROM generate_series(1, 100) i, unnest('{US,EU}'::text[]) r"#,
    )?;
    settled(&cluster)?;
    Ok(cluster)
}

fn settled(cluster: &Cluster) -> Result<()> {
    eventually("all is settled", HEALED, || Ok(unsettled(cluster)? == 0))
}

/// What a transaction does, on both nodes, before the fault.
const OPERATIONS: [&str; 8] = [
    "SELECT shard_create_parent('fresh', 'hash', 'id', modulus => 4, nodes => '{n1,n2,local}');
     INSERT INTO fresh SELECT generate_series(1, 100)",
    r#"SELECT shard_add_partition('"Full"', '{"in": ["JP"], "label": "jp"}');
       INSERT INTO "Full" SELECT i, 'JP' FROM generate_series(1, 100) i"#,
    r#"SELECT shard_drop_parent('"Full"')"#,
    r#"SELECT shard_detach_partition('"Full_us"')"#,
    r#"SELECT shard_drop_partition('"Full_eu"')"#,
    r#"SELECT shard_drop_partition('"Full_default"'); SELECT shard_detach_partition('"Full_cn"');
       SELECT shard_add_partition('"Full"', '{"in": ["FR", "CN"], "label": "fr"}'); INSERT INTO "Full" VALUES (1, 'CN')"#,
    r#"GRANT SELECT ON "Full" TO reader; SELECT shard_detach_partition('"Full_eu"'); SELECT shard_drop_parent('"Full"')"#,
    "SELECT shard_detach_partition('small_us'); SELECT shard_drop_partition('small_eu')",
];

/// How far the commit has come when the fault strikes. Both nodes get their COMMIT at the same time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// A command is on its way to the second node.
    Working,
    /// No node has its COMMIT.
    Before,
    /// The first node has committed, the second does not know yet.
    Between,
    /// Both have committed, and the coordinator does not know yet.
    After,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    KillCoordinator,
    /// The network forwards to the second node what it held back, when the coordinator is there again.
    KillCoordinatorAndDeliverLate,
    /// The one of which nothing was held back.
    KillFirstNode,
    KillSecondNode,
    CutNetwork,
}

const FAULTS: [(Moment, Fault); 11] = [
    (Moment::Between, Fault::KillCoordinator),
    (Moment::Between, Fault::KillSecondNode),
    (Moment::After, Fault::KillCoordinator),
    (Moment::Between, Fault::KillCoordinatorAndDeliverLate),
    (Moment::After, Fault::KillSecondNode),
    (Moment::Between, Fault::CutNetwork),
    (Moment::Before, Fault::KillCoordinator),
    (Moment::After, Fault::CutNetwork),
    (Moment::Working, Fault::KillCoordinator),
    (Moment::Between, Fault::KillFirstNode),
    (Moment::Working, Fault::KillSecondNode),
];

/// Every operation with every fault, neighbours different in both: 8 and 11 have no common divisor.
fn cases() -> Vec<(&'static str, Moment, Fault)> {
    (0..OPERATIONS.len() * FAULTS.len())
        .map(|number| (OPERATIONS[number % OPERATIONS.len()], FAULTS[number % FAULTS.len()]))
        .map(|(operation, (moment, fault))| (operation, moment, fault))
        .collect()
}

type Call = JoinHandle<Result<(), postgres::Error>>;

/// Starts the transaction and returns when it has come to that moment.
fn run_to(cluster: &Cluster, operation: &str, moment: Moment) -> Result<Call> {
    let commit = b"COMMIT TRANSACTION";
    let traps = match moment {
        Moment::Working => vec![cluster.proxy(2).on(b"INSERT INTO shardkeeper.session", Then::StallAnswer)],
        Moment::Before => vec![cluster.proxy(1).on(commit, Then::Stall), cluster.proxy(2).on(commit, Then::Stall)],
        Moment::Between => {
            vec![cluster.proxy(1).on(commit, Then::StallAnswer), cluster.proxy(2).on(commit, Then::Stall)]
        }
        Moment::After => {
            vec![cluster.proxy(1).on(commit, Then::StallAnswer), cluster.proxy(2).on(commit, Then::StallAnswer)]
        }
    };
    let mut client = cluster.coordinator.client()?;
    let sql = format!("BEGIN; {operation}; COMMIT");
    let call = std::thread::spawn(move || client.batch_execute(&sql));
    traps.iter().try_for_each(|trap| trap.wait_until_hit(PATIENCE)).with_context(|| format!("{call:?}"))?;
    let committed: &[usize] = match moment {
        Moment::Working | Moment::Before => &[],
        Moment::Between => &[1],
        Moment::After => &[1, 2],
    };
    for number in committed {
        eventually(&format!("n{number} has committed"), PATIENCE, || {
            cluster.node(*number).value("SELECT count(*) > 0 FROM shardkeeper.journal")
        })?;
    }
    Ok(call)
}

/// Makes the fault, and all servers run again.
fn strike(cluster: &Cluster, fault: Fault, call: Call) -> Result<()> {
    let network = |work: fn(&pg_test::Proxy)| (1..=2).for_each(|number| work(cluster.proxy(number)));
    match fault {
        Fault::KillCoordinator => {
            cluster.coordinator.kill9()?;
            network(|proxy| proxy.cut());
            cluster.coordinator.start()?;
        }
        Fault::KillCoordinatorAndDeliverLate => {
            cluster.coordinator.kill9()?;
            cluster.proxy(1).cut();
            cluster.proxy(1).resume();
            cluster.coordinator.start()?;
            let journal = "SELECT count(*) = 0 FROM shardkeeper.journal";
            eventually("the first node is healed", HEALED, || cluster.node(1).value(journal))?;
        }
        Fault::KillFirstNode | Fault::KillSecondNode => {
            let number = if fault == Fault::KillFirstNode { 1 } else { 2 };
            cluster.node(number).kill9()?;
            network(|proxy| proxy.cut());
            cluster.node(number).start()?;
        }
        Fault::CutNetwork => network(|proxy| proxy.cut()),
    }
    let undone = || cluster.coordinator.log().matches("node \"n2\": undid").count();
    let undone_before = undone();
    network(|proxy| proxy.resume());
    if fault == Fault::KillCoordinatorAndDeliverLate {
        eventually("the late commit is undone", HEALED, || Ok(undone() > undone_before))?;
    }
    ensure!(call.join().expect("no panic").is_err(), "the commit succeeded");
    Ok(())
}

/// All objects but the remains of what was undone: that goes to the trash, in case somebody wrote to it meanwhile.
fn objects(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let all = Objects::of_all(cluster)?.with(&[]);
    Ok(all
        .into_iter()
        .filter(|line| !line.contains("shardkeeper_trash") && !line.contains("shardkeeper.trash"))
        .collect())
}

fn in_trash(cluster: &Cluster) -> Result<BTreeSet<String>> {
    Ok(Objects::of_all(cluster)?.with(&["relation shardkeeper_trash."]).into_iter().collect())
}

/// Every row with the place where it lies.
fn content(cluster: &Cluster) -> Result<Vec<Vec<String>>> {
    let sql = r#"SELECT tableoid::regclass, count(*), sum(hashtext(t::text))
                 FROM (SELECT tableoid, id, region, note FROM "Full" UNION ALL SELECT tableoid, id, region, NULL FROM small) t
                 GROUP BY tableoid ORDER BY tableoid::regclass::text"#;
    let mut all = rows(&mut cluster.coordinator.client()?, sql)?;
    for node in cluster.nodes() {
        all.extend(rows(&mut node.client()?, sql)?);
    }
    Ok(all)
}

/// The hierarchy is whole: each row gets to its place, and no other is accepted by a server.
fn works(cluster: &Cluster) -> Result<()> {
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(r#"BEGIN; INSERT INTO "Full" SELECT i, r FROM generate_series(201, 220) i, unnest('{US,EU,UK,CN,FR,JP}'::text[]) r"#)?;
    client.batch_execute(r#"UPDATE "Full" SET note = 'new'; DELETE FROM "Full"; ROLLBACK"#)?;
    assert_eq!(
        refused(&mut client, r#"INSERT INTO "Full" SELECT i, 'EU' FROM generate_series(1, 9) i"#)?.code().code(),
        "23505"
    );
    let mut there = cluster.node(2).client()?;
    for wrong in ["'US'", "'EU'", "'CN'"] {
        assert_eq!(
            refused(&mut there, &format!(r#"INSERT INTO "Full_default" VALUES (1, {wrong})"#))?.code().code(),
            "23514"
        );
    }
    Ok(())
}

struct State {
    objects: BTreeSet<String>,
    content: Vec<Vec<String>>,
}

impl State {
    fn of(cluster: &Cluster) -> Result<State> {
        Ok(State { objects: objects(cluster)?, content: content(cluster)? })
    }
}

/// Waits until everything is as it was before the transaction.
fn agrees(cluster: &Cluster, before: &State) -> Result<Duration> {
    let start = Instant::now();
    let mut now = BTreeSet::new();
    let agreed = eventually("all servers agree", HEALED, || {
        now = objects(cluster)?;
        Ok(now == before.objects && unsettled(cluster)? == 0)
    });
    let new: Vec<_> = now.difference(&before.objects).collect();
    let gone: Vec<_> = before.objects.difference(&now).collect();
    agreed.with_context(|| format!("new: {new:#?}\ngone: {gone:#?}"))?;
    let took = start.elapsed();
    assert_eq!(content(cluster)?, before.content);
    works(cluster)?;
    Ok(took)
}

fn check(cluster: &Cluster, operation: &str, moment: Moment, fault: Fault) -> Result<()> {
    let before = State::of(cluster)?;
    let trash = in_trash(cluster)?;
    let call = run_to(cluster, operation, moment)?;
    strike(cluster, fault, call)?;
    let took = agrees(cluster, &before)?;
    // Nothing that was there before is in the trash; what the transaction made may be.
    let thrown: Vec<_> = in_trash(cluster)?.difference(&trash).cloned().collect();
    let made = ["fresh", "Full_jp", "Full_fr"];
    assert!(thrown.iter().all(|line| made.iter().any(|name| line.contains(name))), "{thrown:?}");
    println!("{moment:?}, {fault:?}, agreed after {took:?}: {operation}");
    Ok(())
}

#[test]
fn all_servers_agree_after_a_fault_at_any_moment_of_a_commit() -> Result<()> {
    let cluster = prepared(true)?;
    let all = cases();
    for (operation, moment, fault) in matrix::take(FAULTS.len(), &all) {
        check(&cluster, operation, *moment, *fault).with_context(|| format!("{moment:?}, {fault:?}: {operation}"))?;
    }
    Ok(())
}

#[test]
fn a_deferred_constraint_that_fails_on_one_node_undoes_all() -> Result<()> {
    let cluster = prepared(true)?;
    let node = cluster.node(2);
    node.run("CREATE TABLE picky (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); GRANT ALL ON picky TO app")?;
    let before = State::of(&cluster)?;
    for operation in OPERATIONS {
        let mut client = cluster.coordinator.client()?;
        client.batch_execute(&format!("BEGIN; {operation}"))?;
        client.batch_execute(
            "INSERT INTO shardkeeper_nodes.n2 (command) VALUES ('INSERT INTO public.picky VALUES (1), (1)')",
        )?;
        assert_eq!(refused(&mut client, "COMMIT")?.code().code(), "23505", "{operation}");
        agrees(&cluster, &before).context(operation)?;
    }
    Ok(())
}

/// A constraint of the application's own, checked when a row trigger's queue is worked off at the end.
#[test]
fn a_deferred_constraint_of_the_new_parent_itself_undoes_its_making() -> Result<()> {
    let cluster = prepared(true)?;
    let before = State::of(&cluster)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(
        "BEGIN; CREATE TABLE pairs (id int, other int, UNIQUE (id, other) DEFERRABLE INITIALLY DEFERRED);
         SELECT shard_create_parent('pairs', 'hash', 'id', modulus => 2, nodes => '{n1,n2}');
         INSERT INTO pairs SELECT i, 1 FROM generate_series(1, 20) i, generate_series(1, 2)",
    )?;
    assert_eq!(refused(&mut client, "COMMIT")?.code().code(), "23505");
    agrees(&cluster, &before)?;
    Ok(())
}

#[test]
fn what_all_servers_committed_stays_when_the_coordinator_dies_right_after() -> Result<()> {
    let cluster = prepared(true)?;
    for (operation, rows_of_full) in
        [(OPERATIONS[0], 400), (OPERATIONS[1], 500), (OPERATIONS[3], 400), (OPERATIONS[4], 300)]
    {
        let mut client = cluster.coordinator.client()?;
        client.batch_execute(&format!("BEGIN; {operation}; COMMIT"))?;
        let before = objects(&cluster)?;
        let stays = |line: &&String| {
            !line.contains("row of shardkeeper.journal") && !line.contains("row of shardkeeper.transactions")
        };
        cluster.coordinator.kill9()?;
        cluster.coordinator.start()?;
        settled(&cluster)?;
        let now = objects(&cluster)?;
        assert_eq!(
            now.iter().filter(stays).collect::<Vec<_>>(),
            before.iter().filter(stays).collect::<Vec<_>>(),
            "{operation}"
        );
        let count: i64 = cluster.coordinator.value(r#"SELECT count(*) FROM "Full""#)?;
        assert_eq!(count, rows_of_full, "{operation}");
    }
    Ok(())
}

/// Its commit may be lost with it; then what the nodes committed goes too.
#[test]
fn an_asynchronous_commit_is_lost_on_all_servers_or_on_none() -> Result<()> {
    let cluster = prepared(true)?;
    for round in 0..3 {
        let mut client = cluster.coordinator.client()?;
        client.batch_execute("SET synchronous_commit = off")?;
        client.batch_execute(&format!(
            "BEGIN; CREATE TABLE t{round} (id int PRIMARY KEY);
             SELECT shard_create_parent('t{round}', 'hash', 'id', modulus => 2, nodes => '{{n1,n2}}'); COMMIT"
        ))?;
        cluster.coordinator.kill9()?;
        cluster.coordinator.start()?;
        settled(&cluster)?;
        let all: Vec<bool> = cluster.servers().map(|server| server.has(&format!("t{round}"))).collect::<Result<_>>()?;
        println!("committed: {}", all[0]);
        assert!(all.iter().all(|is| *is == all[0]), "{all:?}");
    }
    Ok(())
}

/// Nothing runs in the background until a call of ours starts it; whether that call succeeds is another matter.
#[test]
fn without_preload_the_next_call_starts_the_healing() -> Result<()> {
    let cluster = prepared(false)?;
    // What somebody calls who looks what has become of it, or tries again.
    let calls = [
        "SELECT * FROM shard_check()",
        r#"SELECT shard_drop_parent('"Full"'); SELECT 1/0"#,
        r#"SELECT shard_add_partition('"Full"', '{"in": ["AR"], "label": "ar"}'); SELECT 1/0"#,
        r#"SELECT shard_detach_partition('"Full_us"'); SELECT 1/0"#,
        "SELECT shard_create_parent('fresh', 'hash', 'id', modulus => 2, nodes => '{n1,n2}'); SELECT 1/0",
    ];
    let before = State::of(&cluster)?;
    for (operation, call) in OPERATIONS.iter().zip(calls.iter().cycle()) {
        let commit = run_to(&cluster, operation, Moment::Between)?;
        strike(&cluster, Fault::KillCoordinator, commit)?;
        let outcome = cluster.coordinator.client()?.batch_execute(call);
        agrees(&cluster, &before).with_context(|| format!("{call} after {operation}: {outcome:?}"))?;
    }
    Ok(())
}

/// A call that only adds partitions wants to be settled too.
#[test]
fn without_preload_each_call_that_changes_nodes_gets_its_worker() -> Result<()> {
    let cluster = prepared(false)?;
    for call in [
        r#"SELECT shard_add_partition('"Full"', '{"in": ["AR"], "label": "ar"}')"#,
        r#"GRANT SELECT ON "Full" TO reader"#,
        r#"SELECT shard_drop_partition('"Full_ar"')"#,
        r#"SELECT shard_detach_partition('"Full_us"')"#,
        r#"SELECT shard_drop_parent('"Full"')"#,
    ] {
        cluster.coordinator.kill9()?;
        cluster.coordinator.start()?;
        cluster.coordinator.run(call)?;
        settled(&cluster).context(call)?;
    }
    Ok(())
}

/// What was made since is newer in the trash by then.
#[test]
fn what_a_transaction_dropped_comes_back_and_not_what_it_made_under_the_same_name() -> Result<()> {
    let cluster = prepared(true)?;
    let before = State::of(&cluster)?;
    let make = |region: &str| {
        format!(
            "SELECT shard_drop_parent('small'); CREATE TABLE small (id int, region text, PRIMARY KEY (id, region));
             SELECT shard_create_parent('small', '{{\"method\": \"list\", \"key\": \"region\", \"nodes\": [\"n2\", \"n1\"],
                 \"values\": {{\"us\": [\"US\"], \"eu\": [\"{region}\"]}}}}');
             INSERT INTO small SELECT i, '{region}' FROM generate_series(1, 9) AS i;"
        )
    };
    let twice = format!("{} {}", make("FR"), make("CN"));
    for moment in [Moment::Between, Moment::After] {
        let call = run_to(&cluster, &twice, moment)?;
        strike(&cluster, Fault::KillCoordinator, call)?;
        agrees(&cluster, &before).with_context(|| format!("{moment:?}"))?;
    }
    Ok(())
}

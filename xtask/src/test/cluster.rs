//! The tests against real servers: each in a process of its own, the longest first, some at a time.
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_test::Install;
use pg_test::install::{target_dir, workspace};

use super::options::Options;
use super::rotation::commits;
use crate::build;
use crate::extension::cargo;
use crate::run::output;
use crate::setup::MAJORS;

/// A test runs several servers and often waits for them. More at a time only make each other's time limits run out.
pub const AT_A_TIME: usize = 3;
/// Nobody waits longer for one test: it hangs. With `--full`, of all cases, for one that takes them.
const LIMIT: Duration = Duration::from_secs(900);
const FULL_LIMIT: Duration = Duration::from_secs(3600);
/// Where a test is not in the file of seconds.
const UNKNOWN: f64 = 10.0;
const SLOWEST: usize = 10;
/// A run of several versions takes a test that lasts longer, in seconds, on every other one of them, and on the rest when the
/// next commit comes.
const LONG: f64 = 5.0;
/// Files of tests that load one cluster and only read it: they run in one process, one after the other.
const SHARED: [&str; 1] = ["flights::"];

/// The binary with all the tests, and their names.
pub struct Tests {
    binary: PathBuf,
    names: Vec<String>,
    /// The run takes several versions: long tests take turns on them.
    pub alternate: bool,
}

/// What became of all tests, on all versions.
#[derive(Default)]
pub struct Report {
    ended: Vec<Ended>,
}

struct Ended {
    name: String,
    major: u16,
    /// The version of the nodes, if another one.
    guest: Option<u16>,
    verdict: Verdict,
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    /// Not beside others.
    PassedAlone,
    Failed,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.verdict == Verdict::Failed { "FAILED" } else { "ok" };
        write!(f, "{verdict} {:>6.1} s  {} on {}", self.seconds, self.name, self.major)?;
        self.guest.map_or(Ok(()), |guest| write!(f, ", nodes on {guest}"))
    }
}

/// Builds the tests and asks for their names.
pub fn prepare() -> Result<Tests> {
    let mut command = cargo("test");
    command.args(["--profile", "cluster", "--package", "pg_test", "--no-run"]);
    let binary = build::build("building the tests", "pg_test", &mut command)?
        .into_iter()
        .filter(|message| message["target"]["name"] == "cluster" && message["target"]["kind"][0] == "test")
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .context("cargo built no binary of cluster tests")?;
    let list = output(Command::new(&binary).args(["--list", "--format", "terse"]))?;
    let names = list.lines().filter_map(|line| Some(line.strip_suffix(": test")?.to_owned())).collect();
    Ok(Tests { binary, names, alternate: false })
}

impl Tests {
    /// All of them, or those with the named piece in their names. What fails is tried once more when nothing else runs: the two
    /// cores of a small machine can be too few for a test's time limits. How each ended is in the report.
    pub fn run(&self, install: &Install, options: &Options, report: &mut Report) -> Result<()> {
        let mut units = self.units(options.filter());
        ensure!(!units.is_empty(), "no test is called {}", options.filter().unwrap_or_default());
        let seconds = seconds();
        let expected = |name: &str| seconds.get(name).copied().unwrap_or(UNKNOWN);
        if self.alternate && options.filter().is_none() && !options.full {
            let all = units.len();
            units.retain(|name| expected(name) < LONG || is_turn(name, install.major));
            println!(
                "{} of {all} tests; the other ones last long, and their turn on {} is with the next commit",
                units.len(),
                install.major
            );
        }
        units.sort_by(|a, b| expected(b).total_cmp(&expected(a)));
        let total = units.len();
        let guests = guests(&units, install.major);
        let queue = Mutex::new(units.into_iter().collect::<VecDeque<_>>());
        let ended = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                loop {
                    let next = queue.lock().unwrap_or_else(|e| e.into_inner()).pop_front();
                    let Some(name) = next else { return Ok(()) };
                    let one = self.one(&name, install.major, guests.get(&name).copied(), options)?;
                    let mut ended = ended.lock().unwrap_or_else(|e| e.into_inner());
                    println!("{:>4}/{total} {one}", ended.len() + 1);
                    ended.push(one);
                }
            };
            let workers: Vec<_> = (0..options.at_a_time).map(|_| scope.spawn(work)).collect();
            let ends = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
            ends.collect::<Result<Vec<()>>>()
        })?;
        let mut ended = ended.into_inner().unwrap_or_else(|e| e.into_inner());
        for one in ended.iter_mut().filter(|one| one.verdict == Verdict::Failed) {
            println!("again, alone: {}", one.name);
            let again = self.one(&one.name, one.major, one.guest, options)?;
            if again.verdict == Verdict::Passed {
                one.verdict = Verdict::PassedAlone;
            }
        }
        report.ended.extend(ended);
        Ok(())
    }

    /// What runs in a process of its own: single tests, and files of them that share what they load.
    fn units(&self, filter: Option<&str>) -> Vec<String> {
        let mut units: Vec<String> = Vec::new();
        for name in self.names.iter().filter(|name| filter.is_none_or(|filter| name.contains(filter))) {
            match SHARED.iter().find(|shared| name.starts_with(**shared)) {
                Some(shared) if units.iter().any(|unit| unit == shared) => {}
                Some(shared) => units.push((*shared).to_owned()),
                None => units.push(name.clone()),
            }
        }
        units
    }

    fn one(&self, name: &str, major: u16, guest: Option<u16>, options: &Options) -> Result<Ended> {
        let mut command = Command::new("timeout");
        let limit = if options.full { FULL_LIMIT } else { LIMIT };
        command.args(["--kill-after=10", &limit.as_secs().to_string()]).arg(&self.binary);
        command.args([name, "--nocapture", "--test-threads", "1"]).args((!name.ends_with("::")).then_some("--exact"));
        command.env("SHARDKEEPER_PG", major.to_string()).env("CARGO_MANIFEST_DIR", workspace().join("pg_test"));
        command.env("SHARDKEEPER_ROTATION", commits().to_string()).env("RUST_BACKTRACE", "0");
        if let Some(guest) = guest {
            command.env("SHARDKEEPER_NODE_PG", guest.to_string());
        }
        if options.full {
            command.env("SHARDKEEPER_FULL", "1");
        }
        let start = Instant::now();
        let output = command
            .stdin(Stdio::null())
            .current_dir(workspace().join("pg_test"))
            .output()
            .context("cannot run a test")?;
        let seconds = start.elapsed().as_secs_f64();
        if !output.status.success() {
            let text =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            println!("---- {name} on {major}, nodes on {}, {}\n{text}----", guest.unwrap_or(major), output.status);
        }
        let verdict = if output.status.success() { Verdict::Passed } else { Verdict::Failed };
        Ok(Ended { name: name.to_owned(), major, guest, verdict, seconds })
    }
}

/// Of each family (a file of tests), one unit has nodes of another version than the coordinator: another one with each commit.
fn guests(units: &[String], major: u16) -> BTreeMap<String, u16> {
    let mut families: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for unit in units {
        families.entry(unit.split("::").next().unwrap_or(unit)).or_default().push(unit);
    }
    let others: Vec<u16> = MAJORS.into_iter().filter(|other| *other != major).collect();
    let turn = commits();
    let pick =
        |(at, units): (usize, &Vec<&String>)| (units[turn % units.len()].clone(), others[(turn + at) % others.len()]);
    families.values().enumerate().map(pick).collect()
}

/// Half of the names on one version, the other half on the next one; with the next commit the other way round.
fn is_turn(name: &str, major: u16) -> bool {
    let number = name.bytes().map(usize::from).sum::<usize>() + commits() + usize::from(major);
    number.is_multiple_of(2)
}

impl Report {
    /// The slowest, those that failed, and the counts.
    pub fn end(mut self) -> Result<()> {
        self.ended.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        println!("\n== the slowest");
        for one in self.ended.iter().take(SLOWEST) {
            println!("{:>6.1} s  {} on {}", one.seconds, one.name, one.major);
        }
        self.save()?;
        let all = |verdict| self.ended.iter().filter(move |one| one.verdict == verdict);
        for (title, verdict) in [("only passed alone", Verdict::PassedAlone), ("failed", Verdict::Failed)] {
            if all(verdict).next().is_some() {
                println!("\n== {title}");
                all(verdict).for_each(|one| println!("{} on {}", one.name, one.major));
            }
        }
        let total: f64 = self.ended.iter().map(|one| one.seconds).sum();
        let failed = all(Verdict::Failed).count();
        println!("\n{total:.0} s of tests; seconds of each in {}", kept().display());
        println!("{} passed, {failed} failed", self.ended.len() - failed);
        ensure!(failed == 0, "{failed} tests failed");
        Ok(())
    }

    fn save(&self) -> Result<()> {
        let mut all = seconds();
        for one in &self.ended {
            all.insert(one.name.clone(), (one.seconds * 10.0).round() / 10.0);
        }
        std::fs::write(kept(), serde_json::to_string_pretty(&all)? + "\n")
            .context("cannot keep the seconds of the tests")
    }
}

/// What tests took when they last ran here; before that, what came with the source.
fn seconds() -> BTreeMap<String, f64> {
    [kept(), workspace().join("pg_test/tests/seconds.json")]
        .iter()
        .find_map(|path| serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok())
        .unwrap_or_default()
}

fn kept() -> PathBuf {
    target_dir().join("test-seconds.json")
}

//! One real Postgres server: started, stopped, killed and frozen.
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use postgres::types::FromSql;
use postgres::{Client, Config, NoTls, Row};
use rustix::process::{Pid, Signal};

use crate::install::Install;
use crate::process;
use crate::template::{self, SUPERUSER};
use crate::user;
use crate::wait::eventually;

/// Every server has it, owned by the ordinary role of the same name.
pub const DATABASE: &str = "app";
/// The ordinary role: may log in (password the same) and replicate, and owns the database. Not a superuser.
pub const ROLE: &str = "app";

const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

pub struct Server {
    pub name: String,
    pub install: Install,
    dir: PathBuf,
    port: AtomicU16,
    postmaster: Mutex<Option<Child>>,
    /// A superuser's session for single questions: a new one for each would take longer than most answers.
    asking: Mutex<Option<Client>>,
}

impl Server {
    /// A new server in `<home>/<name>`, not started. `place` is its number in the cluster.
    pub(crate) fn create(home: &Path, name: &str, place: usize, install: &Install) -> Result<Server> {
        let dir = home.join(name);
        fs::create_dir(&dir)?;
        user::give(&dir)?;
        template::copy(install, place, &dir.join("data"))?;
        let server = Server {
            name: name.to_owned(),
            install: install.clone(),
            dir,
            port: AtomicU16::new(free_port()?),
            postmaster: Mutex::new(None),
            asking: Mutex::new(None),
        };
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// All that the server has logged since it was created.
    pub fn log(&self) -> String {
        fs::read(self.dir.join("log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// A superuser's session in the database `app`.
    pub fn client(&self) -> Result<Client> {
        self.client_in(DATABASE)
    }

    /// The same, one that would rather fail than wait for ever.
    pub fn patient(&self) -> Result<Client> {
        let mut client = self.client()?;
        client.batch_execute("SET lock_timeout = '5s'; SET statement_timeout = '20s'")?;
        Ok(client)
    }

    /// A superuser's session in any database.
    pub fn client_in(&self, database: &str) -> Result<Client> {
        let mut config = Config::new();
        config.host_path(&self.dir).port(self.port()).user(SUPERUSER).dbname(database);
        config.connect(NoTls).with_context(|| format!("cannot connect to {}", self.name))
    }

    /// A session as an application has it: by TCP, with a password.
    pub fn client_as(&self, user: &str, password: &str, database: &str) -> Result<Client> {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port())
            .user(user)
            .password(password)
            .dbname(database)
            .connect_timeout(Duration::from_secs(10));
        config.connect(NoTls).with_context(|| format!("cannot connect to {} as {user}", self.name))
    }

    /// Runs statements in a superuser's session of their own.
    pub fn run(&self, sql: &str) -> Result<()> {
        self.client()?.batch_execute(sql).with_context(|| format!("on {}: {sql}", self.name))
    }

    /// The one value that a query gives, as a superuser.
    pub fn value<T: for<'a> FromSql<'a>>(&self, sql: &str) -> Result<T> {
        let row = self.ask(sql).with_context(|| format!("on {}: {sql}", self.name))?;
        row.try_get(0).with_context(|| format!("on {}: {sql}", self.name))
    }

    /// In the session that is kept for it; in a new one where that has ended with its server, or is at another thread's question.
    fn ask(&self, sql: &str) -> Result<Row> {
        let kept = self.asking.try_lock().ok().and_then(|mut asking| asking.take());
        if let Some(mut client) = kept {
            match client.query_one(sql, &[]) {
                Err(_) if client.is_closed() => {}
                answer => {
                    self.keep(client);
                    return Ok(answer?);
                }
            }
        }
        let mut client = self.client()?;
        let answer = client.query_one(sql, &[]);
        self.keep(client);
        Ok(answer?)
    }

    /// Ends the session that is kept for questions: nothing of ours is in the database then.
    pub fn hang_up(&self) {
        if let Ok(mut asking) = self.asking.try_lock() {
            *asking = None;
        }
    }

    fn keep(&self, client: Client) {
        if let Ok(mut asking) = self.asking.try_lock() {
            *asking = Some(client);
        }
    }

    /// Whether there is a relation of that name.
    pub fn has(&self, table: &str) -> Result<bool> {
        self.value(&format!("SELECT to_regclass('{table}') IS NOT NULL"))
    }

    /// How many rows a superuser sees in `table`.
    pub fn count(&self, table: &str) -> Result<i64> {
        self.value(&format!("SELECT count(*) FROM {table}"))
    }

    /// What psql shows for `sql`, errors included, as in a documentation example.
    pub fn psql(&self, sql: &str) -> Result<String> {
        let output = Command::new(self.install.program("psql"))
            .args(["-X", "-q", "-U", SUPERUSER, "-d", DATABASE, "-h"])
            .arg(&self.dir)
            .args(["-p", &self.port().to_string(), "-c", sql])
            .env("PGCONNECT_TIMEOUT", "10")
            .output()
            .context("cannot run psql")?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// The statements that make the database anew, those about `but` (a pattern for tables) and about the extension left out.
    pub fn definitions(&self, but: &str) -> Result<Vec<String>> {
        let output = Command::new(self.install.program("pg_dump"))
            .args(["--schema-only", "-U", SUPERUSER, "-d", DATABASE, "--exclude-schema", "shardkeeper*"])
            .args(["--exclude-table", but, "-h"])
            .arg(&self.dir)
            .args(["-p", &self.port().to_string()])
            .output()?;
        ensure!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("--") && !line.starts_with('\\')).collect();
        let statements = lines.join("\n");
        let statements = statements.split(";\n").map(str::trim);
        Ok(statements.filter(|s| !s.is_empty() && !s.starts_with("SET ")).map(str::to_owned).collect())
    }

    /// The command line with which a person connects.
    pub fn psql_command(&self) -> String {
        format!(
            "{} -h {} -p {} -U {SUPERUSER} {DATABASE}",
            self.install.program("psql").display(),
            self.dir.display(),
            self.port()
        )
    }

    /// Adds settings; they count from the next `start`, or `reload` where that is enough.
    pub fn configure<K: AsRef<str>, V: AsRef<str>>(&self, settings: &[(K, V)]) -> Result<()> {
        let mut text = String::new();
        for (name, value) in settings {
            let value = value.as_ref().replace('\'', "''");
            text.push_str(&format!("{} = '{value}'\n", name.as_ref()));
        }
        append(&self.data_dir().join("postgresql.conf"), &text)
    }

    /// Reads the settings again. Returns when processes that begin from now on have them.
    pub fn reload(&self) -> Result<()> {
        let loaded = || -> Result<SystemTime> {
            Ok(self.client_in("postgres")?.query_one("SELECT pg_conf_load_time()", &[])?.get(0))
        };
        let before = loaded()?;
        process::signal(self.pid()?, Signal::HUP)?;
        eventually("the settings are loaded", STOP_LIMIT, || Ok(loaded()? > before))
    }

    pub fn is_running(&self) -> bool {
        let mut postmaster = self.postmaster.lock().unwrap_or_else(|e| e.into_inner());
        postmaster.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts it and waits until it accepts sessions. The port stays what it was when it was started first.
    pub fn start(&self) -> Result<()> {
        ensure!(!self.is_running(), "{} is running already", self.name);
        let first = !self.dir.join("log").exists();
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let seen = self.log().len();
            self.spawn()?;
            let Err(error) = self.wait_until_ready(deadline) else {
                return Ok(());
            };
            let said = self.log().split_off(seen);
            if !said.contains("Address already in use") || Instant::now() > deadline {
                return Err(error.context(format!("{} did not start:\n{said}", self.name)));
            }
            // Somebody was faster with this port.
            if first {
                self.port.store(free_port()?, Ordering::Relaxed);
            }
        }
    }

    fn spawn(&self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join("log"))?;
        let child = user::command(self.install.program("postgres"))?
            .arg("-D")
            .arg(self.data_dir())
            .args(["-p", &self.port().to_string(), "-k"])
            .arg(&self.dir)
            // From its first moment it stands where the watchdog looks.
            .current_dir(&self.dir)
            // Of the user that runs us it may not even look for certificates.
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for us; a server is ended by the watchdog.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        *self.postmaster.lock().unwrap_or_else(|e| e.into_inner()) = Some(child);
        Ok(())
    }

    fn wait_until_ready(&self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        eventually("the server accepts sessions", left, || {
            ensure!(self.is_running(), "the server ended");
            Ok(self.client_in("postgres").is_ok())
        })
    }

    /// A fast shutdown: sessions are ended, a checkpoint is written.
    pub fn stop(&self) -> Result<()> {
        process::signal(self.pid()?, Signal::INT)?;
        self.wait_until_ended(STOP_LIMIT)
    }

    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// A crash: nothing is shut down. Returns when no process is left, so that `start` can be called at once.
    pub fn kill9(&self) -> Result<()> {
        process::signal(self.pid()?, Signal::KILL)?;
        process::kill_all(&self.data_dir())?;
        self.wait_until_ended(STOP_LIMIT)
    }

    /// The whole server stops answering, without a connection being closed, as a hanging machine does.
    pub fn freeze(&self) -> Result<()> {
        // The postmaster first: then no new processes appear while the others are stopped.
        process::signal(self.pid()?, Signal::STOP)?;
        for pid in process::standing_in(&self.data_dir()) {
            process::signal(pid, Signal::STOP)?;
        }
        Ok(())
    }

    /// Stops one of its processes, as a machine does that is out of memory or time. `thaw` lets it go on.
    pub fn freeze_process(&self, pid: i32) -> Result<()> {
        process::signal(Pid::from_raw(pid).context("not a process")?, Signal::STOP)
    }

    /// SIGKILL to one of its processes, as a machine does that is out of memory.
    pub fn kill_process(&self, pid: i32) -> Result<()> {
        process::signal(Pid::from_raw(pid).context("not a process")?, Signal::KILL)
    }

    /// The same to one whose death ends all sessions. Returns when Postgres has begun anew; `meanwhile` lets go what would keep
    /// sessions from ending.
    pub fn crash_by(&self, pid: i32, meanwhile: impl FnOnce()) -> Result<()> {
        let mut witness = self.client()?;
        self.kill_process(pid)?;
        meanwhile();
        eventually("all sessions have ended", STOP_LIMIT, || Ok(witness.batch_execute("").is_err()))?;
        // A session of before may still be about to end, and answer: only a new one tells.
        eventually("the server is there again", STOP_LIMIT, || Ok(self.client().is_ok()))
    }

    pub fn thaw(&self) -> Result<()> {
        for pid in process::standing_in(&self.data_dir()) {
            process::signal(pid, Signal::CONT)?;
        }
        Ok(())
    }

    /// How many processes it has now.
    pub fn process_count(&self) -> usize {
        process::standing_in(&self.data_dir()).len()
    }

    fn pid(&self) -> Result<Pid> {
        let postmaster = self.postmaster.lock().unwrap_or_else(|e| e.into_inner());
        postmaster
            .as_ref()
            .and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?))
            .with_context(|| format!("{} is not running", self.name))
    }

    fn wait_until_ended(&self, limit: Duration) -> Result<()> {
        let name = &self.name;
        eventually(&format!("{name} ends"), limit, || Ok(!self.is_running()))?;
        *self.postmaster.lock().unwrap_or_else(|e| e.into_inner()) = None;
        Ok(())
    }

    /// After the watchdog did its work: takes the exit code, so that no zombie stays.
    pub(crate) fn reap(&self) {
        let child = self.postmaster.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(mut child) = child {
            let _ = child.wait();
        }
    }

    pub(crate) fn replace_hba(&self, text: &str) -> Result<()> {
        let path = self.data_dir().join("pg_hba.conf");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn append(path: &Path, text: &str) -> Result<()> {
    OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    let port = listener.local_addr()?.port();
    if port == 0 {
        bail!("no free port");
    }
    Ok(port)
}

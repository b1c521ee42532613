//! Settings, each with the reason for its default.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// Two seconds: a node of the same data centre answers in milliseconds, libpq takes no less, and a migration should
/// learn quickly that a node is down.
static CONNECT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(2);
/// A week: long enough that a partition dropped on a Friday evening is still there on the next working day.
static TRASH_KEEP: GucSetting<i32> = GucSetting::<i32>::new(7 * 24 * 60);
/// Two seconds: nodes agree within ten seconds of being up, and the question costs each node one index look-up.
static HEAL_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(2000);
/// On: the worker is what makes the promise of healing true.
static WORKER: GucSetting<bool> = GucSetting::<bool>::new(true);
/// 50 ms: writers that queue behind a switch which does not get its lock hardly notice, and the next try comes soon.
static SWITCH_LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(50);
/// No limit: whoever moves data wants it moved, and knows when its readers and writers matter more.
static COPY_RATE_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(0);
/// Off: what reaches this server alone makes servers disagree, and is seldom meant so.
static ALLOW_MANUAL_DDL: GucSetting<bool> = GucSetting::<bool>::new(false);

pub fn register() {
    GucRegistry::define_int_guc(
        c"shardkeeper.connect_timeout",
        c"How long connecting to a node may take.",
        c"Becomes the option connect_timeout of servers added from now on; the database worker uses it as it stands.",
        &CONNECT_TIMEOUT,
        2,
        600,
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"shardkeeper.trash_keep",
        c"How long dropped tables are kept in the schema shardkeeper_trash before they are destroyed.",
        c"The time is fixed for a table when it is dropped. Zero destroys at the worker's next round.",
        &TRASH_KEEP,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_MIN,
    );
    GucRegistry::define_int_guc(
        c"shardkeeper.heal_interval",
        c"How often the database worker looks for transactions that ended differently on coordinator and node.",
        c"",
        &HEAL_INTERVAL,
        100,
        600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"shardkeeper.switch_lock_timeout",
        c"How long the switch of an operation waits for its lock before it lets others go first.",
        c"Writers queue behind the switch for no longer than this, and it is tried again.",
        &SWITCH_LOCK_TIMEOUT,
        1,
        60_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"shardkeeper.copy_rate_limit",
        c"How much the copy of an operation reads from its sources in a second.",
        c"Each operation by itself. Zero is no limit.",
        &COPY_RATE_LIMIT,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_bool_guc(
        c"shardkeeper.allow_manual_ddl",
        c"Whether commands on managed tables are run that reach the coordinator only.",
        c"For those who bring the nodes in step themselves.",
        &ALLOW_MANUAL_DDL,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"shardkeeper.worker",
        c"Whether background workers of shardkeeper do their work.",
        c"The kill switch: when off, they idle, and nothing heals or is cleaned up.",
        &WORKER,
        GucContext::Sighup,
        GucFlags::default(),
    );
}

pub fn connect_timeout_seconds() -> i32 {
    CONNECT_TIMEOUT.get()
}

pub fn trash_keep_minutes() -> i32 {
    TRASH_KEEP.get()
}

pub fn allow_manual_ddl() -> bool {
    ALLOW_MANUAL_DDL.get()
}

pub fn heal_interval() -> std::time::Duration {
    std::time::Duration::from_millis(HEAL_INTERVAL.get().max(100) as u64)
}

pub fn worker_enabled() -> bool {
    WORKER.get()
}

pub fn switch_lock_timeout_milliseconds() -> i32 {
    SWITCH_LOCK_TIMEOUT.get()
}

/// Bytes a second; 0 for no limit.
pub fn copy_rate_limit() -> u64 {
    u64::from(COPY_RATE_LIMIT.get().unsigned_abs()) * 1024
}

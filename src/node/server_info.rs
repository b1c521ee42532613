//! What a server says about itself, and whether it can be a node of ours.

use super::finding::{Finding, Severity};
use super::options::{self, NO_END, Setting, WRITES};
use super::session::Session;
use crate::error::{Report, Result};
use crate::name::literal;
use crate::pg::sql;
use pgrx::PgSqlErrorCode as Code;
use serde::Deserialize;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub const OLDEST: i32 = 150_000;

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ServerInfo {
    pub version_num: i32,
    pub version: String,
    system: Option<String>,
    database: i64,
    encoding: String,
    collate: String,
    ctype: String,
    provider: String,
    locale: Option<String>,
    collation_version: Option<String>,
    hashes: String,
    pub in_recovery: bool,
    pub read_only: bool,
    /// The role or the database has it so, as a default that sessions of ours override.
    read_only_by_default: bool,
    wal_level: String,
    free_slots: i64,
    wal_senders: i32,
    may_replicate: bool,
    plpgsql: bool,
    /// Publications that take whatever table comes: all, or those of a schema.
    greedy: Vec<String>,
    clock: f64,
}

const FACTS: &str = "SELECT pg_catalog.json_build_object(
    'version_num', pg_catalog.current_setting('server_version_num')::int,
    'version', pg_catalog.split_part(pg_catalog.current_setting('server_version'), ' ', 1),
    'system', CASE WHEN pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
                   THEN (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) END,
    'database', d.oid::bigint,
    'encoding', pg_catalog.pg_encoding_to_char(d.encoding),
    'collate', d.datcollate, 'ctype', d.datctype, 'provider', d.datlocprovider,
    'locale', coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale'),
    'collation_version', pg_catalog.pg_database_collation_actual_version(d.oid),
    'hashes', pg_catalog.concat_ws(' ', pg_catalog.hashtextextended('shardkeeper' COLLATE \"C\", 0), pg_catalog.hashint8extended(1234567890123, 0),
                        pg_catalog.hash_numeric_extended(1.5, 0)),
    'in_recovery', pg_catalog.pg_is_in_recovery(),
    'read_only', pg_catalog.current_setting('transaction_read_only')::boolean,
    'read_only_by_default', EXISTS (
        SELECT FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.rolname = session_user, unnest(s.setconfig) AS config
        WHERE s.setdatabase IN (0, d.oid) AND s.setrole IN (0, r.oid)
          AND config ~* '^default_transaction_read_only=(on|true|yes|1)$'),
    'wal_level', pg_catalog.current_setting('wal_level'),
    'free_slots', pg_catalog.current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_catalog.pg_replication_slots),
    'wal_senders', pg_catalog.current_setting('max_wal_senders')::int,
    'may_replicate', (SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
    'plpgsql', EXISTS (SELECT FROM pg_catalog.pg_language WHERE lanname = 'plpgsql'),
    'greedy', (SELECT coalesce(pg_catalog.json_agg(p.pubname ORDER BY p.pubname), '[]') FROM pg_catalog.pg_publication p
               WHERE p.puballtables OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n WHERE n.pnpubid = p.oid)),
    'clock', extract(epoch FROM pg_catalog.clock_timestamp())::float8)::text
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";

impl ServerInfo {
    /// Those of the coordinator.
    pub fn local() -> Result<Self> {
        match sql::document(FACTS, &[])? {
            Some(facts) => Ok(facts),
            None => Report::new(Code::ERRCODE_INTERNAL_ERROR, "the current database is not in pg_database").into(),
        }
    }

    /// Those of a node, and by how many seconds its clock is ahead of ours.
    /// Errors: 0A000 too old to even be asked.
    pub async fn of(session: &mut Session) -> Result<(Self, f64)> {
        let version: Option<i32> = session.one("SELECT current_setting('server_version_num')::int", &[]).await?;
        let version = version.unwrap_or_default();
        if version < OLDEST {
            return too_old(session.node(), version).into();
        }
        let sent = Instant::now();
        let Some(facts) = session.document::<ServerInfo>(FACTS, &[]).await? else {
            return Report::new(
                Code::ERRCODE_FDW_ERROR,
                format!("node \"{}\" says nothing about itself", session.node()),
            )
            .into();
        };
        // The node looked at its clock somewhere in the middle.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let ahead = facts.clock - (now - sent.elapsed().as_secs_f64() / 2.0);
        Ok((facts, ahead))
    }

    /// What sessions of postgres_fdw need there besides what all have.
    pub fn settings(&self) -> Vec<Setting> {
        let writes = Some(WRITES).filter(|_| self.read_only_by_default);
        writes.into_iter().chain(Some(NO_END).filter(|_| self.version_num >= 170_000)).collect()
    }

    /// The role or the database became read-only by default after the node was added: sessions with these options do not write.
    pub fn lacks_pin(&self, options: &str) -> bool {
        self.read_only_by_default && !options.contains(&options::written(WRITES))
    }

    /// The database, as long as it is not restored or initialised anew.
    pub fn identity(&self) -> Option<String> {
        self.system.as_ref().map(|system| format!("{system}/{}", self.database))
    }

    fn locale_name(&self) -> String {
        // C.UTF-8 and C.utf8 are the same to the C library.
        let plain = |text: &str| text.to_lowercase().replace('-', "");
        format!(
            "{} {} {} {}",
            self.provider,
            plain(&self.collate),
            plain(&self.ctype),
            plain(self.locale.as_deref().unwrap_or_default())
        )
    }

    /// Compares a node with the coordinator.
    pub fn judge(&self, local: &ServerInfo, node: &str, clock_ahead: f64) -> Vec<Finding> {
        let mut found = self.unusable(local, node);
        found.extend(self.differences(local, clock_ahead));
        found.extend(self.missing_for_moves());
        found.extend(self.greedy_publications());
        found
    }

    /// Publications that partitions, and the extension's own tables, get into by themselves.
    pub fn greedy_publications(&self) -> Option<Finding> {
        if self.greedy.is_empty() {
            return None;
        }
        let text = format!(
            "publication {} takes in every table that comes, those of shardkeeper and of its operations too, which no subscriber has",
            crate::name::idents(&self.greedy)
        );
        let hint = "There, CREATE PUBLICATION … FOR TABLE … with the tables by name, change the subscription to it, and drop this one.";
        Some(Finding::new(Severity::Warning, text, Some(hint)))
    }

    fn unusable(&self, local: &ServerInfo, node: &str) -> Vec<Finding> {
        let mut found: Vec<Finding> = Vec::new();
        if self.in_recovery || self.read_only {
            let why = if self.in_recovery { "The server is a standby." } else { "Its transactions are read-only." };
            let report = Report::new(Code::ERRCODE_READ_ONLY_SQL_TRANSACTION, format!("node \"{node}\" cannot be written"))
                .detail(why)
                .hint("Use the primary; with several hosts, options => '{\"target_session_attrs\": \"read-write\"}' finds it.");
            found.push(report.into());
        }
        if self.identity().is_some() && self.identity() == local.identity() {
            let report = Report::new(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("node \"{node}\" is the coordinator's own database"),
            )
            .hint(
                "Partitions on the coordinator use the node \"local\"; another database of this server can be a node.",
            );
            found.push(report.into());
        }
        if self.encoding != local.encoding {
            let report = Report::new(
                Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("node \"{node}\" has another encoding than the coordinator"),
            )
            .detail(format!(
                "It has {}, the coordinator {}: texts would hash to other partitions.",
                self.encoding, local.encoding
            ))
            .hint(format!("Create its database with ENCODING {} TEMPLATE template0.", literal(&local.encoding)));
            found.push(report.into());
        }
        if self.hashes != local.hashes {
            let report = Report::new(
                Code::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("node \"{node}\" hashes differently from the coordinator"),
            )
            .detail("Rows would belong to other hash partitions there: the machines differ in byte order.");
            found.push(report.into());
        }
        if !self.plpgsql {
            let report = Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("node \"{node}\" has no PL/pgSQL"))
                .hint("There, run CREATE EXTENSION plpgsql.");
            found.push(report.into());
        }
        found
    }

    fn differences(&self, local: &ServerInfo, clock_ahead: f64) -> Vec<Finding> {
        let mut found = Vec::new();
        let warning = |text: String, hint: &str| Finding::new(Severity::Warning, text, Some(hint));
        if self.locale_name() != local.locale_name() {
            found.push(warning(
                format!(
                    "collation differs: {} {} there, {} {} on the coordinator; ranges of text would be cut differently",
                    self.collate,
                    self.locale.as_deref().unwrap_or_default(),
                    local.collate,
                    local.locale.as_deref().unwrap_or_default()
                ),
                "Use COLLATE \"C\" for text in range keys, or create the node's database with the coordinator's locale.",
            ));
        } else if self.collation_version != local.collation_version {
            found.push(warning(
                format!(
                    "versions of the collation differ: {} there, {} on the coordinator; ranges of text may be cut differently",
                    self.collation_version.as_deref().unwrap_or("none"),
                    local.collation_version.as_deref().unwrap_or("none")
                ),
                "Use COLLATE \"C\" for text in range keys, or the same operating system on all servers.",
            ));
        }
        if clock_ahead.abs() > 1.0 {
            found.push(warning(
                format!(
                    "clock is {:.1} s {} of the coordinator's",
                    clock_ahead.abs(),
                    if clock_ahead > 0.0 { "ahead" } else { "behind" }
                ),
                "Synchronise the clocks; defaults like now() are computed on the coordinator.",
            ));
        }
        found
    }

    fn missing_for_moves(&self) -> Vec<Finding> {
        const LATER: &str = "moving data online";
        let mut found = Vec::new();
        let mut warn = |text: String, hint: &str| found.push(Finding::new(Severity::Warning, text, Some(hint)));
        if self.wal_level != "logical" {
            warn(
                format!("wal_level is {}; {LATER} needs logical", self.wal_level),
                "There, set wal_level = logical and restart; until then data moves with writes blocked.",
            );
        }
        if self.free_slots <= 0 || self.wal_senders <= 0 {
            warn(
                format!(
                    "{} free replication slots, max_wal_senders {}; {LATER} needs some",
                    self.free_slots.max(0),
                    self.wal_senders
                ),
                "There, raise max_replication_slots and max_wal_senders and restart.",
            );
        }
        if !self.may_replicate {
            warn(format!("the role may not replicate; {LATER} needs it"), "There, run ALTER ROLE … REPLICATION.");
        }
        found
    }
}

fn too_old(node: &str, version: i32) -> Report {
    Report::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, format!("node \"{node}\" is too old"))
        .detail(format!(
            "It is PostgreSQL {}.{}; 15 is the oldest that can be a node.",
            version / 10_000,
            version % 100
        ))
        .hint("Upgrade the server.")
}

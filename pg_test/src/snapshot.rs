//! All objects of all servers of a cluster, to see that a refused call left none behind and took none away.
use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::sql::column;

/// One line per object and server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    pub fn take(cluster: &Cluster) -> Result<Snapshot> {
        let mut lines = BTreeSet::new();
        for server in cluster.servers() {
            let mut client = server.client()?;
            let seen = column(&mut client, OBJECTS).with_context(|| format!("the objects of {}", server.name))?;
            lines.extend(seen.into_iter().map(|line| format!("{}: {line}", server.name)));
            for table in CATALOG {
                let table = format!("shardkeeper.{table}");
                if server.value::<bool>(&format!("SELECT to_regclass('{table}') IS NOT NULL"))? {
                    let seen = column(&mut client, &format!("SELECT t FROM {table} t"))?;
                    lines.extend(seen.into_iter().map(|line| format!("{}: {table} {line}", server.name)));
                }
            }
        }
        Ok(Snapshot(lines))
    }

    /// What is gone, with a minus, and what is new, with a plus.
    pub fn changes(&self, later: &Snapshot) -> Vec<String> {
        let gone = self.0.difference(&later.0).map(|line| format!("- {line}"));
        let new = later.0.difference(&self.0).map(|line| format!("+ {line}"));
        gone.chain(new).collect()
    }

    /// Fails, saying what is different, unless all is as it was.
    pub fn is_unchanged(&self, cluster: &Cluster) -> Result<()> {
        let changes = self.changes(&Snapshot::take(cluster)?);
        ensure!(changes.is_empty(), "{} objects are different:\n{}", changes.len(), changes.join("\n"));
        Ok(())
    }
}

/// With object identifiers, so that what was made anew is not taken for the old one. What the servers do by themselves,
/// such as vacuum and statistics, does not show.
const OBJECTS: &str = "
    WITH ours AS (
        SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid >= 16384 AND n.nspname NOT LIKE 'pg\\_%'
    )
    SELECT format('relation %s %s %s', relkind, oid, oid::regclass)
        || format(' %s', (relowner::regrole, relacl, relispartition, relpartbound IS NULL, reloptions, relrowsecurity))
    FROM ours
    UNION ALL SELECT format('column %s.%s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), (attnotnull, attidentity, attacl))
    FROM pg_attribute WHERE attrelid IN (SELECT oid FROM ours) AND attnum > 0
    UNION ALL SELECT format('constraint %s %s %s', oid, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE conrelid IN (SELECT oid FROM ours)
    UNION ALL SELECT format('trigger %s %s %s', oid, tgname, tgenabled) FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM ours)
    UNION ALL SELECT format('rule %s %s', oid, rulename) FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM ours)
    UNION ALL SELECT format('policy %s %s', oid, polname) FROM pg_policy
    UNION ALL SELECT format('statistics %s %s', oid, stxname) FROM pg_statistic_ext
    UNION ALL SELECT format('member of publication %s %s', oid, prrelid::regclass) FROM pg_publication_rel
    UNION ALL SELECT format('publication %s %s', oid, pubname) FROM pg_publication
    UNION ALL SELECT format('schema %s %s %s', oid, nspname, nspacl) FROM pg_namespace WHERE oid >= 16384 AND nspname NOT LIKE 'pg\\_%'
    UNION ALL SELECT format('type %s %s', oid, typname) FROM pg_type WHERE oid >= 16384 AND typtype IN ('d', 'e')
    UNION ALL SELECT format('function %s %s', oid, oid::regprocedure) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT format('server %s %s %s', oid, srvname, srvoptions) FROM pg_foreign_server
    UNION ALL SELECT format('role %s %s', oid, rolname) FROM pg_roles WHERE oid >= 16384
    UNION ALL SELECT format('database %s %s', oid, datname) FROM pg_database WHERE oid >= 16384
    UNION ALL SELECT format('replication slot %s', slot_name) FROM pg_replication_slots";

/// What the extension knows; transactions and journals come and go by themselves.
const CATALOG: [&str; 5] = ["nodes", "parents", "partitions", "mirrors", "trash"];

//! Everything that exists on the servers of a cluster, for comparing before with after.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::server::Server;
use crate::sql::{column, rows};
use crate::wait::eventually;

/// Each object as one line of text that says all about it, and each row of the extension's own tables. What was made
/// anew and looks as before is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objects(BTreeSet<String>);

impl Objects {
    pub fn of(server: &Server) -> Result<Objects> {
        let mut found: BTreeSet<String> = existing(server)?.into_iter().map(|[_, line]| line).collect();
        found.extend(own_rows(server)?.into_iter().map(|[table, row]| format!("row of {table} {row}")));
        Ok(Objects(found.into_iter().map(|line| format!("{}: {line}", server.name)).collect()))
    }

    /// On all servers.
    pub fn of_all(cluster: &Cluster) -> Result<Objects> {
        let mut all = BTreeSet::new();
        for server in cluster.servers() {
            all.extend(Objects::of(server)?.0);
        }
        Ok(Objects(all))
    }

    /// What is there now and was not then (`+`), and the other way round (`-`).
    pub fn changes_since(&self, then: &Objects) -> Vec<String> {
        let new = self.0.difference(&then.0).map(|line| format!("+ {line}"));
        let gone = then.0.difference(&self.0).map(|line| format!("- {line}"));
        new.chain(gone).collect()
    }

    /// Those whose line has all the words in it.
    pub fn with(&self, words: &[&str]) -> Vec<String> {
        self.0.iter().filter(|line| words.iter().all(|word| line.contains(word))).cloned().collect()
    }
}

/// The very same objects, for a call that must not have touched anything: one made anew is another. Transactions and
/// journals, which come and go by themselves, are left out.
#[derive(Debug)]
pub struct Snapshot(Objects);

impl Snapshot {
    pub fn take(cluster: &Cluster) -> Result<Snapshot> {
        let mut lines = BTreeSet::new();
        for server in cluster.servers() {
            let name = &server.name;
            let found = existing(server)?;
            lines.extend(found.into_iter().map(|[oid, line]| format!("{name}: {oid} {line}")));
            let rows = own_rows(server)?.into_iter().filter(|[table, _]| !COME_AND_GO.contains(&table.as_str()));
            lines.extend(rows.map(|[table, row]| format!("{name}: row of {table} {row}")));
        }
        Ok(Snapshot(Objects(lines)))
    }

    /// Fails, saying what is different, unless all is as it was.
    pub fn is_unchanged(&self, cluster: &Cluster) -> Result<()> {
        let changes = Snapshot::take(cluster)?.0.changes_since(&self.0);
        ensure!(changes.is_empty(), "{} objects are different:\n{}", changes.len(), changes.join("\n"));
        Ok(())
    }
}

const COME_AND_GO: [&str; 2] = ["shardkeeper.transactions", "shardkeeper.journal"];

/// OID and description of every object.
fn existing(server: &Server) -> Result<Vec<[String; 2]>> {
    let found = rows(&mut server.client()?, OBJECTS).with_context(|| format!("the objects of {}", server.name))?;
    found.into_iter().map(|row| row.try_into().ok().context("an OID and a line")).collect()
}

/// Table and row of all that the extension knows.
fn own_rows(server: &Server) -> Result<Vec<[String; 2]>> {
    let mut client = server.client()?;
    let mut found = Vec::new();
    let own =
        "SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace('shardkeeper')";
    for table in column(&mut client, own)? {
        // What is noted of a mirror goes some moments after it.
        let there = match table.as_str() {
            // The worker forgets them minutes later.
            "shardkeeper.moved" => continue,
            "shardkeeper.roots" => "WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = t.root)",
            _ => "",
        };
        let rows = column(&mut client, &format!("SELECT t::text FROM {table} AS t {there}"))?;
        found.extend(rows.into_iter().map(|row| [table.clone(), row]));
    }
    Ok(found)
}

/// Commands that are not settled yet: rows in the journals of the nodes and in the coordinator's list of transactions.
pub fn unsettled(cluster: &Cluster) -> Result<i64> {
    let mut count: i64 = cluster.coordinator.count("shardkeeper.transactions")?;
    for node in cluster.nodes() {
        count += node.count("shardkeeper.journal")?;
    }
    Ok(count)
}

/// Waits until the worker has nothing to settle any more.
pub fn settled(cluster: &Cluster, limit: Duration) -> Result<()> {
    eventually("all transactions are settled", limit, || Ok(unsettled(cluster)? == 0))
}

/// What belongs to an extension is told by the extension's own line, and TOAST by its table.
const OBJECTS: &str = r"
WITH mine AS (
    SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
)
SELECT c.oid, concat_ws(' ', 'relation', c.oid::regclass, 'kind', relkind, 'owner', relowner::regrole, 'acl', relacl, 'options', reloptions,
                 'key', pg_get_partkeydef(c.oid), 'bound', pg_get_expr(relpartbound, c.oid), 'identity', relreplident,
                 'security', relrowsecurity, relforcerowsecurity, 'comment', obj_description(c.oid, 'pg_class'),
                 'above', (SELECT string_agg(inhparent::regclass::text, ',') FROM pg_inherits WHERE inhrelid = c.oid),
                 'foreign', (SELECT ftserver || ' ' || ftoptions::text FROM pg_foreign_table WHERE ftrelid = c.oid),
                 'index', (SELECT pg_get_indexdef(c.oid) || ' ' || indisvalid FROM pg_index WHERE indexrelid = c.oid))
FROM mine c
UNION ALL
SELECT c.oid, concat_ws(' ', 'column', c.oid::regclass || '.' || attname, format_type(atttypid, atttypmod), attnum, attnotnull, attidentity, attgenerated,
                 attstorage, attcompression, attcollation::regcollation, attstattarget,
                 -- Since its minor releases of 2026 a server stamps columns with options of its own.
                 ARRAY(SELECT o FROM unnest(attoptions) AS o WHERE o NOT LIKE 'pg\_%'), attacl, pg_get_expr(adbin, c.oid),
                 col_description(c.oid, attnum))
FROM mine c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef d ON adrelid = c.oid AND adnum = attnum
WHERE relkind IN ('r', 'p', 'f', 'v')
UNION ALL
SELECT o.oid, concat_ws(' ', 'constraint', conname, 'on', conrelid::regclass, pg_get_constraintdef(o.oid), convalidated, coninhcount, conislocal)
FROM pg_constraint o JOIN mine c ON c.oid = conrelid
UNION ALL
SELECT t.oid, concat_ws(' ', 'trigger', pg_get_triggerdef(t.oid), tgenabled) FROM pg_trigger t JOIN mine c ON c.oid = tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT r.oid, concat_ws(' ', 'rule', pg_get_ruledef(r.oid)) FROM pg_rewrite r JOIN mine c ON c.oid = ev_class
UNION ALL
SELECT pol.oid, concat_ws(' ', 'policy', polname, 'on', polrelid::regclass, polcmd, polroles::regrole[], pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
FROM pg_policy pol
UNION ALL
SELECT oid, concat_ws(' ', 'statistics', pg_get_statisticsobjdef(oid)) FROM pg_statistic_ext
UNION ALL
SELECT p.oid, concat_ws(' ', 'publication', p.pubname, schemaname, tablename, rowfilter) FROM pg_publication p LEFT JOIN pg_publication_tables USING (pubname)
UNION ALL
SELECT oid, concat_ws(' ', 'schema', nspname, 'owner', nspowner::regrole, 'acl', nspacl) FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
UNION ALL
SELECT p.oid, concat_ws(' ', 'function', p.oid::regprocedure, md5(pg_get_functiondef(p.oid)), 'acl', proacl)
FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND prokind = 'f'
UNION ALL
SELECT t.oid, concat_ws(' ', 'type', t.oid::regtype, 'acl', typacl) FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND typrelid = 0
UNION ALL
SELECT oid, concat_ws(' ', 'server', srvname, 'owner', srvowner::regrole, srvoptions, 'acl', srvacl) FROM pg_foreign_server
UNION ALL
SELECT umid, concat_ws(' ', 'mapping', srvname, usename, umoptions) FROM pg_user_mappings
UNION ALL
SELECT oid, concat_ws(' ', 'event trigger', evtname) FROM pg_event_trigger
UNION ALL
SELECT oid, concat_ws(' ', 'extension', extname, extversion) FROM pg_extension
UNION ALL
SELECT oid, concat_ws(' ', 'role', rolname) FROM pg_roles WHERE rolname !~ '^pg_'
UNION ALL
SELECT oid, concat_ws(' ', 'database', datname) FROM pg_database
UNION ALL
SELECT 0, concat_ws(' ', 'replication slot', slot_name) FROM pg_replication_slots";

//! One parent, table by table: what is here, what is there, and the command that makes both the same.

use super::{Check, Column, Index, Parent, Table};
use crate::error::Result;
use crate::hierarchy::tree_tables::TreeTable;
use crate::name::{QualifiedName, ident, literal};
use crate::node::finding::Row;
use crate::node::finding::{Finding, Severity};
use std::collections::HashMap;

pub struct Comparison<'a> {
    pub node: &'a str,
    /// Both servers are of one major version, and write expressions alike.
    pub exact: bool,
    pub there: &'a HashMap<&'a QualifiedName, &'a Table>,
}

/// The findings about one table.
struct Findings<'a> {
    node: &'a str,
    table: &'a QualifiedName,
    rows: Vec<Row>,
}

impl Findings<'_> {
    fn say(&mut self, severity: Severity, text: String, hint: String) {
        let finding = Finding::new(severity, text, Some(&hint));
        self.rows.push(Row::new("hierarchy", Some(&self.table.to_string()), Some(self.node), finding));
    }

    /// Reads or writes go wrong there, or what the coordinator believes does not hold.
    fn error(&mut self, text: String, hint: String) {
        self.say(Severity::Error, text, format!("On the node, run {hint}"));
    }

    /// The node refuses more than the coordinator.
    fn warning(&mut self, text: String, hint: String) {
        self.say(Severity::Warning, text, format!("On the node, run {hint}"));
    }
}

impl Comparison<'_> {
    pub fn parent(&self, parent: &Parent) -> Result<Vec<Row>> {
        let root = parent.managed.name();
        let wanted = parent.managed.tables_on(self.node)?;
        if !self.there.contains_key(root) {
            // An operation that has brought the first leaf there, or taken the last one, makes and drops it on its way.
            if !parent.managed.members.iter().any(|member| member.server.as_deref() == Some(self.node)) {
                return Ok(Vec::new());
            }
            return Ok(self.missing(root).rows);
        }
        let mut rows = Vec::new();
        for name in &wanted {
            let Some(there) = self.there.get(name) else {
                rows.extend(self.missing(name).rows);
                continue;
            };
            let member = parent.managed.members.iter().find(|member| member.name == *name);
            if let (Some(here), Some(member)) = (parent.tables.get(name), member) {
                rows.extend(self.table(parent, member, here, there));
            }
        }
        Ok(rows)
    }

    fn findings<'b>(&'b self, table: &'b QualifiedName) -> Findings<'b> {
        Findings { node: self.node, table, rows: Vec::new() }
    }

    fn missing<'b>(&'b self, table: &'b QualifiedName) -> Findings<'b> {
        let mut found = self.findings(table);
        found.say(
            Severity::Error,
            "the table is missing on the node".to_string(),
            format!(
                "Look whether it was renamed, or is in the trash there: SELECT * FROM shard_run_on_nodes({}, {}); else restore a backup of that node.",
                literal("SELECT * FROM shardkeeper.trash"),
                literal(&format!("{{{}}}", ident(self.node)))
            ),
        );
        found
    }

    fn table(&self, parent: &Parent, member: &TreeTable, here: &Table, there: &Table) -> Vec<Row> {
        let name = &here.name;
        let mut found = self.findings(name);
        let kind = if member.is_leaf() { 'r' } else { 'p' };
        if there.kind != kind {
            let what = if member.is_leaf() { "an ordinary table" } else { "a partitioned table" };
            found.say(
                Severity::Error,
                format!("it is not {what} on the node"),
                format!("Rename there what has taken its name, and give it back to {what} of the parent."),
            );
            return found.rows;
        }
        if let (Some(above), Some(bound)) = (member.parent().and(here.above.as_ref()), &here.bound) {
            let attach = format!("ALTER TABLE {above} ATTACH PARTITION {name} {bound};");
            match &there.above {
                Some(is) if is == above => {}
                is => {
                    let is = is.as_ref().map_or("of no table".to_string(), ToString::to_string);
                    found.error(format!("on the node it is a partition {is}, here of {above}"), attach);
                    return found.rows;
                }
            }
            if there.bound.as_ref() != Some(bound) {
                let is = there.bound.as_deref().unwrap_or("none");
                let detach = format!("ALTER TABLE {above} DETACH PARTITION {name}; {attach}");
                found.error(format!("its bounds are {is} on the node, {bound} here"), detach);
            }
        }
        if !self.same(&here.key, &there.key) {
            let told = |key: &Option<String>| key.clone().unwrap_or_default();
            found.say(
                Severity::Error,
                format!("its partition key is {} on the node, {} here", told(&there.key), told(&here.key)),
                "Make it anew there with the key that it has here.".to_string(),
            );
        }
        if there.row_security {
            let hint = format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY;");
            let text =
                "row security is enabled on the node, where it hides and refuses rows that the policies here allow";
            found.error(text.to_string(), hint);
        }
        if let (Some(here), Some(there)) = (&here.columns, &there.columns) {
            self.columns(&mut found, here, there);
        }
        self.not_null(&mut found, parent, here, there);
        self.checks(&mut found, here, there);
        if let Some(there) = &there.keys {
            self.keys(&mut found, parent, member, here, there);
        }
        found.rows
    }

    fn columns(&self, found: &mut Findings<'_>, here: &[Column], there: &[Column]) {
        let table = found.table;
        for column in here {
            let name = ident(&column.name);
            let collate = column.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
            let whole = format!("{}{collate}", column.data_type);
            let Some(other) = there.iter().find(|other| other.name == column.name) else {
                let computed = column.generated.as_ref().map(|text| format!(" GENERATED ALWAYS AS ({text}) STORED"));
                let hint = format!("ALTER TABLE {table} ADD COLUMN {name} {whole}{};", computed.unwrap_or_default());
                found.error(format!("column {name} is missing on the node"), hint);
                continue;
            };
            let alter = format!("ALTER TABLE {table} ALTER COLUMN {name} TYPE {whole};");
            if other.data_type != column.data_type {
                let text = format!("column {name} is {} on the node, {} here", other.data_type, column.data_type);
                found.error(text, alter);
            } else if other.collation != column.collation {
                let told = |name: &Option<String>| name.clone().unwrap_or_else(|| "that of its type".into());
                let (is, wanted) = (told(&other.collation), told(&column.collation));
                found.error(format!("the collation of column {name} is {is} on the node, {wanted} here"), alter);
            }
            if !self.same(&other.generated, &column.generated) {
                let told = |text: &Option<String>| {
                    text.as_ref().map_or("is not computed".into(), |text| format!("is computed as {text}"))
                };
                let text = format!(
                    "column {name} {} on the node, and {} here",
                    told(&other.generated),
                    told(&column.generated)
                );
                let hint = format!("ALTER TABLE {table} DROP COLUMN {name}, and add it there as it is here.");
                found.error(text, hint);
            }
        }
        for column in there.iter().filter(|column| !here.iter().any(|other| other.name == column.name)) {
            let name = ident(&column.name);
            let hint = format!("ALTER TABLE {table} DROP COLUMN {name};");
            found.warning(format!("column {name} is on the node only"), hint);
        }
    }

    fn not_null(&self, found: &mut Findings<'_>, parent: &Parent, here: &Table, there: &Table) {
        let table = found.table;
        // The coordinator's column need not say what the primary key there says.
        let primary: Vec<&String> =
            parent.managed.table.keys.iter().filter(|key| key.primary).flat_map(|key| &key.columns).collect();
        let known = |name: &String| parent.managed.table.columns.iter().any(|column| column.name == *name);
        for name in here.not_null.iter().filter(|name| !there.not_null.contains(name) && self.has(there, name)) {
            let name = ident(name);
            let hint = format!("ALTER TABLE {table} ALTER COLUMN {name} SET NOT NULL;");
            found.error(format!("column {name} takes NULL on the node, not here"), hint);
        }
        for name in there.not_null.iter().filter(|name| !here.not_null.contains(name)) {
            if known(name) && !primary.contains(&name) && self.is_own(there, name) {
                let name = ident(name);
                let hint = format!("ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL;");
                found.warning(format!("column {name} takes no NULL on the node"), hint);
            }
        }
    }

    /// A missing column is told of as such.
    fn has(&self, there: &Table, column: &str) -> bool {
        there.columns.as_ref().is_none_or(|columns| columns.iter().any(|other| other.name == column))
    }

    /// What the table above says is told of there.
    fn is_own(&self, there: &Table, column: &String) -> bool {
        let above = there.above.as_ref().and_then(|above| self.there.get(above));
        above.is_none_or(|above| !above.not_null.contains(column))
    }

    fn checks(&self, found: &mut Findings<'_>, here: &Table, there: &Table) {
        let table = found.table;
        let ours = |check: &&Check| !check.name.starts_with("shardkeeper_");
        for check in here.checks.iter().filter(ours) {
            let (name, definition) = (ident(&check.name), &check.definition);
            let add = format!("ADD CONSTRAINT {name} {definition};");
            match there.checks.iter().find(|other| other.name == check.name) {
                // No row is ever asked for it: it stays where somebody wrote it.
                None if definition.ends_with(" NOT ENFORCED") => {}
                None => {
                    found.error(format!("check {name} is missing on the node"), format!("ALTER TABLE {table} {add}"))
                }
                Some(other) if !self.same(&Some(definition.clone()), &Some(other.definition.clone())) => found.error(
                    format!("check {name} is {} on the node, {definition} here", other.definition),
                    format!("ALTER TABLE {table} DROP CONSTRAINT {name}, {add}"),
                ),
                Some(_) => {}
            }
        }
        for check in there.checks.iter().filter(ours) {
            if !here.checks.iter().any(|other| other.name == check.name) {
                let name = ident(&check.name);
                let hint = format!("ALTER TABLE {table} DROP CONSTRAINT {name};");
                found.warning(format!("check {name} is on the node only: {}", check.definition), hint);
            }
        }
    }

    fn keys(&self, found: &mut Findings<'_>, parent: &Parent, member: &TreeTable, here: &Table, there: &[Index]) {
        let table = found.table;
        let is_root = member.parent().is_none();
        // Unique keys are on the leaves alone as soon as some are elsewhere: the catalog knows them.
        let kept = parent.managed.table.keys.iter().filter(|key| key.unique && is_root).map(|key| Index {
            name: key.name.clone(),
            unique: true,
            primary: key.primary,
            valid: true,
            own: true,
            definition: key.definition.clone(),
        });
        let own = here.keys.iter().flatten().filter(|key| key.own).cloned();
        let wanted: Vec<Index> = kept.chain(own).collect();
        let alike = |a: &Index, b: &Index| {
            a.unique == b.unique
                && a.primary == b.primary
                && self.same(&Some(a.definition.clone()), &Some(b.definition.clone()))
        };
        let first = |at: usize, key: &Index| !wanted[..at].iter().any(|other| alike(key, other));
        for (_, key) in wanted.iter().enumerate().filter(|(at, key)| first(*at, key)) {
            let (what, name) = (key.word(), ident(&key.name));
            match there.iter().find(|other| alike(key, other)) {
                None => {
                    found.error(format!("{what} {name} is missing on the node: {}", key.definition), key.command(table))
                }
                Some(other) if !other.valid => {
                    let hint = format!(
                        "REINDEX INDEX {}; it holds for all partitions there once each of them has its part of it.",
                        table.sibling(&other.name)
                    );
                    found.error(format!("{what} {name} is not valid on the node"), hint);
                }
                Some(_) => {}
            }
        }
        // What is no more than an index makes some queries there faster.
        for key in there.iter().filter(|key| key.own && key.unique && !wanted.iter().any(|other| alike(key, other))) {
            let (what, name) = (key.word(), ident(&key.name));
            found.say(
                Severity::Warning,
                format!("{what} {name} is on the node only: {}", key.definition),
                "Rows that the coordinator takes may be refused there. Drop it there if that is not meant.".to_string(),
            );
        }
    }

    /// What another version prints may have other parentheses and spaces.
    fn same(&self, here: &Option<String>, there: &Option<String>) -> bool {
        let plain = |text: &Option<String>| {
            text.as_ref().map(|text| text.chars().filter(|c| !matches!(c, '(' | ')' | ' ' | '\n')).collect::<String>())
        };
        here == there || !self.exact && plain(here) == plain(there)
    }
}

impl Index {
    fn word(&self) -> &'static str {
        match (self.primary, self.unique) {
            (true, _) => "primary key",
            (false, true) => "unique key",
            (false, false) => "index",
        }
    }

    fn command(&self, table: &QualifiedName) -> String {
        let (name, definition) = (ident(&self.name), &self.definition);
        let columns = definition.split_once(' ').map_or(definition.as_str(), |(_, columns)| columns);
        match (self.primary, self.unique) {
            (true, _) => format!("ALTER TABLE {table} ADD CONSTRAINT {name} PRIMARY KEY {columns};"),
            (false, true) => format!("CREATE UNIQUE INDEX {name} ON {table} USING {definition};"),
            (false, false) => format!("CREATE INDEX {name} ON {table} USING {definition};"),
        }
    }
}

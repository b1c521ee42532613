//! The comparison of mirrors with their parents: every node is asked once for all its tables, and what is not there as
//! it should be becomes a finding.

mod compare;
mod strays;

use crate::catalog::mirror;
use crate::error::Result;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::tree_tables::{self, TreeTable};
use crate::name::{QualifiedName, literal};
use crate::node::finding::Row;
use crate::node::finding::{Finding, Severity};
use crate::node::session;
use crate::pg::{role, sql};
use crate::table::required_types::{self, Object};
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

const TABLES: &str = include_str!("drift/tables.sql");

/// Settings that decide how bounds and expressions are written: the node is to write them as they are written here.
const STYLE: [&str; 5] = ["TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits", "bytea_output"];

/// A table as one server has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Table {
    #[serde(flatten)]
    name: QualifiedName,
    kind: char,
    above: Option<QualifiedName>,
    key: Option<String>,
    bound: Option<String>,
    row_security: bool,
    not_null: Vec<String>,
    checks: Vec<Check>,
    /// Of a root only.
    columns: Option<Vec<Column>>,
    /// Of a partitioned table.
    keys: Option<Vec<Index>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Check {
    name: String,
    definition: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
    collation: Option<String>,
    generated: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Index {
    name: String,
    unique: bool,
    primary: bool,
    valid: bool,
    /// Not a part of an index of the table above.
    own: bool,
    definition: String,
}

#[derive(Deserialize)]
struct Answer {
    version: i32,
    tables: Vec<Table>,
    objects: Vec<Object>,
    strays: Vec<strays::Stray>,
}

/// What is here of the parents that have mirrors, and what the nodes are asked about them.
pub struct Drift {
    parents: Vec<Parent>,
    version: i32,
    questions: BTreeMap<String, String>,
}

struct Parent {
    managed: ManagedParent,
    /// Its tables as they are here.
    tables: HashMap<QualifiedName, Table>,
    objects: Vec<Object>,
    nodes: Vec<String>,
}

impl Drift {
    /// Of one parent, or of all. What the transaction itself has changed on a node, its own sessions do not see there yet.
    pub fn of(parent: Option<Oid>) -> Result<Self> {
        role::as_extension_owner(|| {
            let parents = mirror::visible(parent)?.into_iter().map(|(root, nodes)| Parent::read(root, nodes));
            let parents = parents.collect::<Result<Vec<_>>>()?;
            let style = style()?;
            let mut questions = BTreeMap::new();
            for node in parents.iter().flat_map(|parent| &parent.nodes) {
                if !questions.contains_key(node) {
                    questions.insert(node.clone(), format!("{style}{}", question(&parents, node)?));
                }
            }
            Ok(Self { parents, version: major()?, questions })
        })
    }

    /// For each node, what its session is to run: statements in one transaction, of which one returns a document.
    pub fn questions(&self) -> &BTreeMap<String, String> {
        &self.questions
    }

    /// What the answers say. A parent that was changed while the nodes were asked is left for the next time.
    pub fn judge(&self, answers: &[(String, String)]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (node, text) in answers {
            let answer: Answer = match session::document(node, text) {
                Ok(answer) => answer,
                Err(error) => {
                    let finding = Finding::from(crate::error::Report::from(error));
                    rows.push(Row::new("hierarchy", None, Some(node), finding));
                    continue;
                }
            };
            let there: HashMap<&QualifiedName, &Table> =
                answer.tables.iter().map(|table| (&table.name, table)).collect();
            let exact = answer.version / 10_000 == self.version;
            for parent in self.parents.iter().filter(|parent| parent.nodes.contains(node)) {
                let mut found = compare::Comparison { node, exact, there: &there }.parent(parent)?;
                found.extend(parent.objects.iter().filter_map(|object| object_row(object, &answer.objects, node)));
                found.extend(strays::rows(parent, &answer.strays, node)?);
                if !found.is_empty() && parent.is_unchanged()? {
                    rows.extend(found);
                }
            }
        }
        // A type of several parents is told of once.
        rows.dedup_by(|a, b| a.object == b.object && a.node == b.node && a.finding.finding == b.finding.finding);
        Ok(rows)
    }
}

impl Parent {
    fn read(root: Oid, nodes: Vec<String>) -> Result<Self> {
        let managed = ManagedParent::read(root)?;
        let names: Vec<&QualifiedName> = managed.members.iter().map(|member| &member.name).collect();
        let tables: Option<Vec<Table>> = sql::document(&tables(names.iter().copied(), &managed.table.name), &[])?;
        let tables = tables.unwrap_or_default().into_iter().map(|table| (table.name.clone(), table)).collect();
        Ok(Self { objects: required_types::of(&[root])?, managed, tables, nodes })
    }

    fn is_unchanged(&self) -> Result<bool> {
        let same = |a: &TreeTable, b: &TreeTable| {
            a.oid() == b.oid()
                && a.name == b.name
                && a.parent() == b.parent()
                && a.values == b.values
                && a.server == b.server
        };
        let now = role::as_extension_owner(|| tree_tables::load(self.managed.root))?;
        let before = &self.managed.members;
        Ok(now.len() == before.len() && now.iter().zip(before).all(|(now, before)| same(now, before)))
    }
}

fn major() -> Result<i32> {
    let version = sql::one::<i32>("SELECT pg_catalog.current_setting('server_version_num')::int / 10000", &[])?;
    Ok(version.unwrap_or_default())
}

fn style() -> Result<String> {
    let mut text = String::new();
    for name in STYLE {
        let value = sql::one::<String>("SELECT pg_catalog.current_setting($1)", &[name.into()])?.unwrap_or_default();
        text += &format!("SET LOCAL {name} = {};\n", literal(&value));
    }
    Ok(text)
}

fn tables<'a>(names: impl Iterator<Item = &'a QualifiedName>, root: &QualifiedName) -> String {
    let names: Vec<String> = names.map(|name| format!("({}, {})", literal(&name.to_string()), name == root)).collect();
    with(&names)
}

fn with(names: &[String]) -> String {
    format!("WITH wanted (name, is_root) AS (VALUES {}) {TABLES}", names.join(", "))
}

fn question(parents: &[Parent], node: &str) -> Result<String> {
    let (mut names, mut objects) = (Vec::new(), Vec::<Object>::new());
    for parent in parents.iter().filter(|parent| parent.nodes.iter().any(|known| known == node)) {
        let root = parent.managed.name();
        let here = parent.managed.tables_on(node)?;
        names.extend(here.iter().map(|name| format!("({}, {})", literal(&name.to_string()), name == root)));
        objects.extend(parent.objects.iter().cloned());
    }
    let objects = if objects.is_empty() { literal("[]") } else { format!("({})", required_types::question(&objects)) };
    Ok(format!(
        "SELECT json_build_object('version', current_setting('server_version_num')::int, 'tables', ({})::json, 'strays', ({})::json, 'objects', {objects}::json)::text",
        with(&names),
        strays::question(&names.join(", "))
    ))
}

fn object_row(here: &Object, there: &[Object], node: &str) -> Option<Row> {
    let (word, name) = (here.kind.word(), here.name.to_string());
    let finding = match there.iter().find(|other| other.is_namesake_of(here)) {
        Some(found) if found.is_like(here) => return None,
        Some(found) => Finding::new(
            Severity::Error,
            format!("the {word} is another one on the node. {}", here.difference(found)),
            Some("Make it there what it is here: what one of the servers does not know, it refuses."),
        ),
        None => Finding::new(
            Severity::Error,
            format!("the {word} is missing on the node"),
            Some("Make it there as it is here."),
        ),
    };
    Some(Row::new("hierarchy", Some(&name), Some(node), finding))
}

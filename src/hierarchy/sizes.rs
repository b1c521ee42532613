//! How large leaves are, asked of the servers that store them.

use super::tree_tables::{self, TreeTable};
use crate::catalog::parent;
use crate::error::Result;
use crate::name::literal;
use crate::node::channel::Channel;
use crate::node::session::{self, ConnectionParams, Session, Timeouts};
use crate::pg::{role, sql, subtransaction};
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use shardkeeper_core::plan::LOCAL;
use std::collections::BTreeMap;

#[derive(Debug)]
pub struct LeafSize {
    oid: Oid,
    /// The server's estimate; `None` until it has one, or when it does not answer.
    pub rows: Option<i64>,
    /// With indexes and TOAST.
    pub bytes: Option<i64>,
}

impl LeafSize {
    pub fn oid(&self) -> Oid {
        self.oid
    }
}

#[derive(Deserialize)]
struct Answer {
    schema: String,
    name: String,
    rows: i64,
    bytes: i64,
}

/// The leaves of one parent, or of all managed ones.
pub fn of_leaves(parent: Option<Oid>) -> Result<Vec<LeafSize>> {
    let parents = match parent {
        Some(parent) => vec![parent],
        None => parent::all()?,
    };
    let mut leaves = Vec::new();
    for parent in parents {
        leaves.extend(tree_tables::load(parent)?.into_iter().filter(TreeTable::is_leaf));
    }
    sizes(&leaves)
}

/// One question for each server. A node that does not answer costs a warning, not the picture.
pub fn sizes(leaves: &[TreeTable]) -> Result<Vec<LeafSize>> {
    let mut by_node: BTreeMap<&str, Vec<&TreeTable>> = BTreeMap::new();
    for leaf in leaves {
        by_node.entry(leaf.node()).or_default().push(leaf);
    }
    let mut known = BTreeMap::new();
    for (node, leaves) in &by_node {
        for answer in ask(node, leaves)? {
            known.insert((*node, answer.schema, answer.name), (answer.rows, answer.bytes));
        }
    }
    Ok(leaves
        .iter()
        .map(|leaf| {
            let found = known.get(&(leaf.node(), leaf.name.schema.clone(), leaf.name.name.clone()));
            LeafSize {
                oid: leaf.oid(),
                rows: found.map(|found| found.0).filter(|rows| *rows >= 0),
                bytes: found.map(|found| found.1),
            }
        })
        .collect())
}

fn ask(node: &str, leaves: &[&TreeTable]) -> Result<Vec<Answer>> {
    let names = leaves.iter().map(|leaf| literal(&leaf.name.to_string())).collect::<Vec<_>>().join(", ");
    let question = format!(
        "SELECT coalesce(json_agg(json_build_object('schema', n.nspname, 'name', c.relname,
             'rows', greatest(c.reltuples, pg_stat_get_live_tuples(c.oid))::bigint, 'bytes', pg_total_relation_size(c.oid))), '[]')::text
         FROM unnest(ARRAY[{names}]) AS wanted JOIN pg_class c ON c.oid = to_regclass(wanted) JOIN pg_namespace n ON n.oid = c.relnamespace"
    );
    if node == LOCAL {
        return Ok(sql::document(&question, &[])?.unwrap_or_default());
    }
    match subtransaction::attempt(|| remote::<Vec<Answer>>(node, &question)) {
        Ok(answers) => Ok(answers.unwrap_or_default()),
        Err(report) => {
            pgrx::warning!(
                "node {} does not tell the sizes of its leaves: {}",
                crate::name::ident(node),
                report.message
            );
            Ok(Vec::new())
        }
    }
}

/// Through the channel, which sees what this transaction did; where nothing may be written, not even through it, with a
/// session of its own.
pub fn remote<T: DeserializeOwned>(node: &str, question: &str) -> Result<Option<T>> {
    let read_only = sql::one::<bool>("SELECT pg_catalog.current_setting('transaction_read_only')::bool", &[])?;
    if read_only != Some(true) {
        return Channel::open(node)?.document(question);
    }
    let target = ConnectionParams::of(node, role::current())?;
    session::wait(async {
        let limits = Timeouts::SHORT.named("shardkeeper sizes");
        Session::open(&target, limits).await?.document(question, &[]).await
    })
}

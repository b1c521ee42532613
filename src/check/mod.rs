//! `shard_check`: what is wrong, one file for each area. Each asks what stands below it.

mod gaps;
mod hierarchies;
mod nodes;

use crate::catalog::parent;
use crate::error::{Report, Result};
use crate::node::finding::{Finding, Row};
use crate::pg::subtransaction::look;
use crate::reshard::check as operations;
use crate::schema::drift::Drift;
use pgrx::pg_sys::Oid;

/// What is wrong with all hierarchies, or with one and its nodes.
///
/// Errors: those of `parent::not_managed`.
pub fn all(parent: Option<Oid>) -> Result<Vec<Row>> {
    if let Some(parent) = parent {
        // A plain table that an operation is about to make one can be asked about too.
        parent::require_or_coming(parent)?;
    }
    let mut found = Found { about_all: parent.is_none(), rows: Vec::new() };
    let drift = found.of("hierarchy", look(|| Drift::of(parent)))?;
    let questions = drift.as_ref().map(|drift| drift.questions().clone()).unwrap_or_default();
    let nodes = found.of("node", look(|| nodes::check(parent, &questions)))?.unwrap_or_default();
    found.rows.extend(nodes.rows);
    found.add("operation", look(|| operations::check(parent, &nodes.traces)))?;
    found.add("hierarchy", look(|| hierarchies::check(parent)))?;
    if let Some(drift) = drift {
        found.add("hierarchy", look(|| drift.judge(&nodes.answers)))?;
    }
    found.add("hierarchy", look(|| gaps::check(parent)))?;
    Ok(found.rows)
}

struct Found {
    about_all: bool,
    rows: Vec<Row>,
}

impl Found {
    /// Where all is asked about, what keeps one area from being looked at hides nothing that the others have to tell.
    fn of<T>(&mut self, area: &'static str, looked: Result<T>) -> Result<Option<T>> {
        match looked {
            Err(error) if self.about_all => {
                self.rows.push(Row::new(area, None, None, Finding::from(Report::from(error))));
                Ok(None)
            }
            looked => looked.map(Some),
        }
    }

    fn add(&mut self, area: &'static str, looked: Result<Vec<Row>>) -> Result<()> {
        let rows = self.of(area, looked)?;
        self.rows.extend(rows.unwrap_or_default());
        Ok(())
    }
}

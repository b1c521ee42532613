//! What has to happen to a hierarchy as time goes on: partitions are made before rows for them come (`premake`).

mod premake;

use crate::catalog::parent;
use crate::error::Result;
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::validate;
use crate::pg::sql;
use jiff::Timestamp;
use pgrx::pg_sys::Oid;

/// One step that is due.
pub struct Step {
    pub parent: Oid,
    pub action: &'static str,
    pub partition: String,
    pub nodes: Vec<String>,
    pub detail: String,
    /// The call that does it by hand.
    pub command: String,
}

/// What is due at that time: of one parent, or of all that the caller owns. Nothing is changed.
pub fn plan(of: Option<Oid>, at: Timestamp) -> Result<Vec<Step>> {
    let parents = match of {
        Some(parent) => vec![parent],
        None => mine()?,
    };
    let mut steps = Vec::new();
    for parent in parents {
        let managed = ManagedParent::read(parent)?;
        validate::owned(parent, &managed.table)?;
        for due in premake::due(&managed, at)? {
            steps.push(Step {
                parent,
                action: "create",
                partition: due.name.to_string(),
                detail: due.values(),
                command: due.call(&managed)?,
                nodes: due.nodes,
            });
        }
    }
    Ok(steps)
}

/// Does what is due at that time for one parent, in the caller's transaction. Returns the partitions that were made.
pub fn run(root: Oid, at: Timestamp) -> Result<Vec<String>> {
    parent::require(root)?;
    let (managed, _) = ManagedParent::open_to_change(root)?;
    premake::run(managed, at)
}

/// Managed parents that the caller may change.
fn mine() -> Result<Vec<Oid>> {
    sql::column(
        "SELECT c.oid FROM pg_catalog.unnest($1::oid[]) AS c (oid) JOIN pg_catalog.pg_class r ON r.oid = c.oid
         WHERE pg_catalog.pg_has_role(r.relowner, 'USAGE') ORDER BY r.relname, 1",
        &[parent::all()?.into()],
    )
}

//! Forgetting an operation of the database that this one is a copy of: what came here with the copy goes. Nothing is done on
//! nodes, where all that bears the operation's name is the original's.

use crate::catalog::copied;
use crate::catalog::operation::Operation;
use crate::error::Result;
use crate::name::ident;
use crate::pg::{role, sql};
use crate::reshard::prepare::staging::ATTACH_CHECK;

/// In the caller's transaction. What the coordinator has of an operation is of one state with its row: either the sources
/// serve or the targets do, and whatever serves is in neither of the two schemas.
pub fn forget(operation: &Operation) -> Result<()> {
    let left = copied::forget(operation.id, ATTACH_CHECK)?;
    for check in &left.checks {
        let remove = format!("ALTER TABLE {} DROP CONSTRAINT {}", check.table, ident(&check.name));
        role::acting_as(check.owner(), || sql::run_quietly(&remove))?;
    }
    let publications = left.publications.iter().map(|name| format!("DROP PUBLICATION {}", ident(name)));
    let schemas = left.schemas.iter().map(|name| format!("DROP SCHEMA {} CASCADE", ident(name)));
    // The worker made them, with more rights than the parent's owner has.
    role::as_extension_owner(|| publications.chain(schemas).try_for_each(|command| sql::run_quietly(&command)))?;
    pgrx::notice!("operation {} is forgotten here; the database that it belongs to goes on with it", operation.id);
    Ok(())
}

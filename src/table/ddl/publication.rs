//! Membership in publications.

use crate::catalog::carried::Publication;
use crate::name::{QualifiedName, ident, idents};
use crate::table::definition::TableDefinition;

/// Membership of the table's publications. Rows of foreign leaves are never published from here, so with some of them only
/// the local leaves become members: a parent would promise more than it keeps. So they do where the publication filters
/// rows or columns without publishing through the root, which Postgres refuses for a partitioned table. `root` is `None`
/// when it is a member already.
pub fn publish(
    table: &TableDefinition,
    root: Option<&QualifiedName>,
    leaves: &[QualifiedName],
    mixed: bool,
) -> Vec<String> {
    let mut commands = Vec::new();
    for publication in &table.publications {
        let Publication { name, via_root, filter, columns } = publication;
        let by_leaf = mixed || !via_root && (filter.is_some() || columns.is_some());
        let columns = columns.as_ref().map(|names| format!(" ({})", idents(names))).unwrap_or_default();
        let filter = filter.as_ref().map(|text| format!(" WHERE ({text})")).unwrap_or_default();
        let members = if by_leaf { leaves } else { root.map(std::slice::from_ref).unwrap_or_default() };
        let add = |member| format!("ALTER PUBLICATION {} ADD TABLE {member}{columns}{filter}", ident(name));
        commands.extend(members.iter().map(add));
    }
    commands
}

//! Row security.

use crate::name::{QualifiedName, ident};
use crate::table::definition::Policy;

pub(super) fn create_policy(policy: &Policy, table: &QualifiedName) -> String {
    let roles = policy.roles.iter().map(role).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "CREATE POLICY {} ON {table} AS {} FOR {} TO {roles}",
        ident(&policy.name),
        if policy.permissive { "PERMISSIVE" } else { "RESTRICTIVE" },
        policy.command
    );
    if let Some(using) = &policy.using {
        text += &format!(" USING ({using})");
    }
    if let Some(check) = &policy.check {
        text += &format!(" WITH CHECK ({check})");
    }
    text
}

pub(super) fn role(role: &Option<String>) -> String {
    role.as_deref().map_or_else(|| "PUBLIC".to_string(), ident)
}

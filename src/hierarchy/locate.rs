//! Where a key lives: for routing in the application.

use crate::catalog::parent;
use crate::error::{Report, Result};
use crate::name::ident;
use crate::pg::{foreign_server, key_router, parent_cache};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde_json::{Map, Value};
use shardkeeper_core::plan::LOCAL;

/// A leaf and the server that stores it.
pub struct Located {
    pub partition: Oid,
    pub node: String,
    /// `None` for the coordinator itself, whose address the caller used to ask.
    pub host: Option<String>,
    pub port: Option<i32>,
    pub dbname: String,
}

/// A key as JSON: one member per column.
struct Key {
    texts: Vec<(String, Option<String>)>,
}

impl key_router::Row for Key {
    fn value(&self, column: &str) -> Option<Option<&str>> {
        self.texts.iter().find(|(name, _)| name == column).map(|(_, text)| text.as_deref())
    }
}

pub fn locate(root: Oid, key: Value) -> Result<Located> {
    if !parent_cache::is_known(root) {
        parent::require(root)?;
        parent_cache::remember(root);
    }
    let Value::Object(members) = key else {
        return Report::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "the key is not a JSON object")
            .hint("Give one member per partition key column, such as {\"customer_id\": 42}.")
            .into();
    };
    let key = read(root, members)?;
    let leaf = key_router::leaf(root, &key)?;
    Ok(match foreign_server::server_of(leaf) {
        Some(server) => Located {
            partition: leaf,
            host: server.options.get("host").or(server.options.get("hostaddr")).cloned(),
            port: server.options.get("port").map_or(Some(5432), |port| port.parse().ok()),
            dbname: server.options.get("dbname").cloned().unwrap_or_default(),
            node: server.name,
        },
        None => Located {
            partition: leaf,
            node: LOCAL.to_string(),
            host: None,
            port: Some(foreign_server::own_port()),
            dbname: foreign_server::own_database(),
        },
    })
}

fn read(root: Oid, members: Map<String, Value>) -> Result<Key> {
    let mut texts = Vec::with_capacity(members.len());
    for (name, value) in members {
        if !key_router::has_column(root, &name) {
            return Report::new(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("the key has an unknown column {}", ident(&name)),
            )
            .hint("Give the partition key columns, by their names in the parent.")
            .into();
        }
        let text = match value {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        };
        texts.push((name, text));
    }
    Ok(Key { texts })
}

//! Making on a node what it lacks, in the caller's transaction there.

use super::{Kind, Object};
use crate::error::{Report, Result};
use crate::name::{body, ident, literal};
use crate::node::channel::Channel;
use crate::pg::sql;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use serde::Deserialize;
use std::collections::BTreeSet;

/// What comes before the tables on a node, and what takes it away again.
#[derive(Debug, Default)]
pub struct Preparation {
    pub commands: Vec<String>,
    /// In the order in which they are run, after the tables have gone.
    pub inverse: Vec<String>,
    /// Schemas that are made.
    pub schemas: Vec<String>,
    /// All that is made, in order, each as a person calls it: `domain kinds.good`.
    pub made: Vec<String>,
}

impl Preparation {
    /// The inverse of the tables, with that of what is below them.
    pub fn undo(&self, tables: String) -> String {
        std::iter::once(tables).chain(self.inverse.iter().cloned()).collect::<Vec<_>>().join(";\n")
    }
}

#[derive(Deserialize)]
struct There {
    objects: Vec<Object>,
    schemas: Vec<String>,
}

/// Compares what `table` needs with what the node has. `schema` is where its tables will be.
///
/// Errors: 42710 something of that name is there and differs; 42704 what is missing cannot be made from here.
pub fn prepare(node: &str, table: Oid, schema: &str, has_schema: bool) -> Result<Preparation> {
    let mut made = Preparation::default();
    if !has_schema {
        made.schema(schema);
    }
    let needed = super::of(&[table])?;
    if needed.is_empty() {
        return Ok(made);
    }
    let schemas: BTreeSet<&str> = needed.iter().map(|object| object.name.schema.as_str()).collect();
    let names = schemas.iter().map(|schema| literal(schema)).collect::<Vec<_>>().join(", ");
    let question = format!(
        "SELECT json_build_object('objects', ({})::json, 'schemas', ARRAY(SELECT nspname FROM pg_namespace WHERE nspname = ANY (ARRAY[{names}])))::text",
        super::question(&needed)
    );
    let Some(there) = Channel::open(node)?.document::<There>(&question)? else { return Ok(made) };
    let mut inverse = Vec::new();
    for object in &needed {
        match there.objects.iter().find(|other| other.is_namesake_of(object)) {
            Some(found) if found.is_like(object) => {}
            Some(found) => return differs(node, object, found),
            None => {
                let command = command(node, object, &there.schemas)?;
                let schema = &object.name.schema;
                if !there.schemas.contains(schema) && !made.schemas.contains(schema) {
                    made.schema(schema);
                }
                if inverse.is_empty() {
                    made.commands.push(lock("types"));
                }
                made.commands.push(command);
                made.made.push(format!("{} {}", object.kind.word(), object.name));
                inverse.push(drop(object));
            }
        }
    }
    inverse.reverse();
    made.inverse = inverse;
    Ok(made)
}

impl Preparation {
    fn schema(&mut self, schema: &str) {
        self.commands.extend(create_schema(schema));
        self.schemas.push(schema.to_string());
        self.made.push(format!("schema {}", ident(schema)));
    }
}

/// Two sessions may find the schema missing at the same time: the second waits for the first, and sees what it made.
pub fn create_schema(schema: &str) -> [String; 2] {
    [lock(&format!("schema {schema}")), format!("CREATE SCHEMA IF NOT EXISTS {}", ident(schema))]
}

/// Until the end of the transaction nobody else makes such things there.
fn lock(what: &str) -> String {
    let key = literal(&format!("shardkeeper {what}"));
    format!("SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended({key}, 0))")
}

/// Who made the same while this session waited for the lock has done it already.
fn command(node: &str, object: &Object, schemas: &[String]) -> Result<String> {
    let Some(definition) = object.definition.as_ref().filter(|_| object.can_be_made()) else {
        return lacks(node, object, schemas);
    };
    let name = &object.name;
    let default = object.default.as_ref().map(|text| format!(" DEFAULT {text}")).unwrap_or_default();
    let (look, what) = match object.kind {
        Kind::Collation => ("to_regcollation", "COLLATION"),
        Kind::Domain => ("to_regtype", "DOMAIN"),
        _ => ("to_regtype", "TYPE"),
    };
    Ok(format!(
        "DO {}",
        body(&format!(
            "BEGIN IF pg_catalog.{look}({}) IS NULL THEN CREATE {what} {name} {definition}{default}; END IF; END",
            literal(&name.to_string())
        ))
    ))
}

/// What something else uses by now stays, a table in the trash for example.
fn drop(object: &Object) -> String {
    let what = if object.kind == Kind::Collation { "COLLATION" } else { "TYPE" };
    format!(
        "DO {}",
        body(&format!(
            "BEGIN DROP {what} IF EXISTS {}; EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END",
            object.name
        ))
    )
}

impl Object {
    fn can_be_made(&self) -> bool {
        let system = matches!(self.name.schema.as_str(), "pg_catalog" | "information_schema");
        self.extension.is_none() && !system
    }
}

/// `schemas` are there.
fn lacks<T>(node: &str, object: &Object, schemas: &[String]) -> Result<T> {
    let (word, name) = (object.kind.word(), &object.name);
    let report = Report::new(Code::ERRCODE_UNDEFINED_OBJECT, format!("node {} lacks {word} {name}", ident(node)));
    let report = match (&object.extension, object.kind) {
        (Some(extension), _) => {
            report.detail(format!("It is part of the extension {}.", ident(extension))).hint(format!(
                "Run SELECT * FROM shard_run_on_nodes({}, {});",
                literal(&create_extension(extension, schemas)?),
                literal(&format!("{{{}}}", ident(node)))
            ))
        }
        (None, Kind::Row) => report
            .detail("It is the type of the rows of a table.")
            .hint("Make a table or a composite type of that name there, or give the column a type of its own."),
        (None, Kind::Collation) => {
            report.detail("Collations of the system come from the server's operating system or its libraries.").hint(
                "Install the locale on that server, and run SELECT pg_import_system_collations('pg_catalog'); there.",
            )
        }
        _ => report.detail("It is made of functions of its own.").hint(
            "Make it there as it was made here, for example with SELECT * FROM shard_run_on_nodes('CREATE TYPE …');",
        ),
    };
    report.into()
}

/// In the schema where it is here: sessions for single statements have none of their own to put it in.
fn create_extension(extension: &str, schemas: &[String]) -> Result<String> {
    let query =
        "SELECT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
                 WHERE e.extname = $1";
    let extension_name = ident(extension);
    let Some(schema) = sql::one::<String>(query, &[extension.into()])? else {
        return Ok(format!("CREATE EXTENSION {extension_name}"));
    };
    let name = ident(&schema);
    let is_there = schemas.contains(&schema) || schema == "pg_catalog";
    let first = if is_there { String::new() } else { format!("CREATE SCHEMA IF NOT EXISTS {name}; ") };
    Ok(format!("{first}CREATE EXTENSION {extension_name} SCHEMA {name}"))
}

fn differs<T>(node: &str, here: &Object, there: &Object) -> Result<T> {
    let (word, name) = (here.kind.word(), &here.name);
    Report::new(
        Code::ERRCODE_DUPLICATE_OBJECT,
        format!("{word} {name} on node {} is another one than here", ident(node)),
    )
    .detail(here.difference(there))
    .hint("Make it there what it is here, or rename it there.")
    .into()
}

impl Object {
    /// How another one of the same name is different.
    pub fn difference(&self, there: &Object) -> String {
        let told = |object: &Object| match (&object.definition, object.kind) {
            (Some(definition), _) => definition.trim_start_matches("AS ").to_string(),
            (None, Kind::Row) => "the type of the rows of a table".to_string(),
            (None, _) => "made of functions of its own".to_string(),
        };
        format!("Here it is {}, there {}.", told(self), told(there))
    }
}

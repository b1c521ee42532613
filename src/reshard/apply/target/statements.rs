//! The statements by which changes reach the tables of one server: rows are deleted, updated, looked up and brought.

use super::{Column, Table, Target};
use crate::error::{Error, Report, Result};
use crate::name::{QualifiedName, ident, idents};
use crate::node::session;
use crate::pg::copy_from::{self, Format};
use crate::pg::{role, sql};
use crate::reshard::outcome::{Step, halt};
use pgrx::PgSqlErrorCode as Code;
use postgres_types::ToSql;
use shardkeeper_core::copy::text_row;
use shardkeeper_core::pgoutput::Value;
use std::pin::pin;

impl Target {
    /// Deletes the rows that a condition holds for: what TRUNCATE of a source took.
    pub fn delete_where(&mut self, condition: &str) -> Step {
        self.flush()?;
        self.begin()?;
        self.everywhere(|table| format!("DELETE FROM {table} WHERE {condition}"), &[], false)?;
        Ok(())
    }

    /// The text of these columns of the row with this key, for values that a change does not tell.
    pub fn fetch(&mut self, key: &[Value], columns: &[usize]) -> Step<Vec<Value>> {
        self.flush()?;
        self.look(key, columns)
    }

    /// The same of a row that no change waits for.
    pub(super) fn look(&mut self, key: &[Value], columns: &[usize]) -> Step<Vec<Value>> {
        self.begin()?;
        let params = texts(key)?;
        for table in self.places.clone() {
            let query = lookup(&table, &self.table, &self.key, columns);
            let found = match &mut self.session {
                None => {
                    let args: Vec<_> = params.iter().map(|text| text.as_deref().into()).collect();
                    role::acting_as(self.table.role, || sql::document(&query, &args))?
                }
                Some(session) => {
                    let args: Vec<&(dyn ToSql + Sync)> = params.iter().map(|text| text as _).collect();
                    session::wait(session.document(&query, &args))?
                }
            };
            if let Some(found) = found {
                return Ok(values(found));
            }
        }
        self.unexpected("a row that moves is not there").map(|()| Vec::new())
    }

    pub(super) fn deletes(&mut self, keys: &[Vec<Value>]) -> Step {
        let columns: Vec<&Column> = self.key.iter().map(|at| &self.table.columns[*at]).collect();
        let list = |part: &dyn Fn(usize, &Column) -> String, separator: &str| {
            columns.iter().enumerate().map(|(at, column)| part(at, column)).collect::<Vec<_>>().join(separator)
        };
        // Several arrays at once are a form of the grammar, not a function: a schema would hide it.
        let rest = format!(
            "AS t USING (SELECT {} FROM ROWS FROM ({}) AS u ({})) AS d WHERE {}",
            list(&|at, column| format!("k{at}::{} AS k{at}", column.data_type), ", "),
            list(&|at, _| format!("pg_catalog.unnest(${}::text[])", at + 1), ", "),
            list(&|at, _| format!("k{at}"), ", "),
            list(&|at, column| format!("t.{} = d.k{at}", ident(&column.name)), " AND "),
        );
        let mut arrays: Vec<Vec<Option<String>>> = vec![Vec::with_capacity(keys.len()); columns.len()];
        for key in keys {
            for (array, text) in arrays.iter_mut().zip(texts(key)?) {
                array.push(text);
            }
        }
        let mut deleted = 0;
        for table in &self.places {
            let command = format!("DELETE FROM {table} {rest}");
            deleted += match &mut self.session {
                None => {
                    let args: Vec<_> = arrays.iter().map(|array| array.clone().into()).collect();
                    role::acting_as(self.table.role, || sql::change(&command, &args))?
                }
                Some(session) => {
                    let args: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|array| array as _).collect();
                    session::wait(session.with(async |client| client.execute(&command, &args).await))?
                }
            };
        }
        self.met(deleted, keys.len() as u64)
    }

    /// Sets columns of one row, none of its key.
    pub(super) fn patch(&mut self, key: &[Value], set: Vec<(usize, Value)>) -> Step {
        self.begin()?;
        let assignments = set.iter().zip(key.len() + 1..).map(|((column, _), number)| {
            let Column { name, data_type } = &self.table.columns[*column];
            format!("{} = ${number}::text::{data_type}", ident(name))
        });
        let rest = format!(
            "SET {} WHERE {}",
            assignments.collect::<Vec<_>>().join(", "),
            key_condition(&self.table, &self.key)
        );
        let mut params = texts(key)?;
        params.extend(texts(set.iter().map(|(_, value)| value))?);
        let changed = self.everywhere(|table| format!("UPDATE {table} {rest}"), &params, true)?;
        self.met(changed, 1)
    }

    /// Deletes one of the rows that equal `row` in every column.
    pub(super) fn delete_whole(&mut self, row: &[Value]) -> Step {
        self.begin()?;
        let conditions = self.table.columns.iter().enumerate().map(|(at, column)| {
            // As the stream writes it, not as a cast to text does: not every type has an equality. A row of NULLs is a value.
            let name = ident(&column.name);
            format!(
                "CASE WHEN {name} IS DISTINCT FROM NULL THEN pg_catalog.concat({name}) END IS NOT DISTINCT FROM ${}::text",
                at + 1
            )
        });
        let conditions = conditions.collect::<Vec<_>>().join(" AND ");
        let one = |table: &QualifiedName| {
            format!(
                "WITH d AS MATERIALIZED (SELECT tableoid AS t, ctid AS c FROM {table} WHERE {conditions} LIMIT 1)
                 DELETE FROM {table} AS t USING d WHERE t.ctid = d.c AND t.tableoid = d.t"
            )
        };
        let deleted = self.everywhere(one, &texts(row)?, true)?;
        self.met(deleted, 1)
    }

    /// Runs a command on each place, or, for a single row, until it was found; the number of rows changed.
    fn everywhere(
        &mut self,
        command: impl Fn(&QualifiedName) -> String,
        params: &[Option<String>],
        single: bool,
    ) -> Result<u64> {
        let mut changed = 0;
        for table in &self.places {
            let command = command(table);
            changed += match &mut self.session {
                None => {
                    let args: Vec<_> = params.iter().map(|text| text.as_deref().into()).collect();
                    role::acting_as(self.table.role, || sql::change(&command, &args))?
                }
                Some(session) => {
                    let args: Vec<&(dyn ToSql + Sync)> = params.iter().map(|text| text as _).collect();
                    session::wait(session.with(async |client| client.execute(&command, &args).await))?
                }
            };
            if single && changed > 0 {
                break;
            }
        }
        Ok(changed)
    }

    pub(super) fn rows(&mut self, rows: Vec<Vec<Value>>) -> Step {
        self.begin()?;
        let mut text = Vec::new();
        for row in &rows {
            text_row(&mut text, row.iter().map(bytes));
        }
        let names: Vec<String> = self.table.columns.iter().map(|column| column.name.clone()).collect();
        let copied = match &mut self.session {
            None => {
                let mut left = Some(text);
                role::acting_as(self.table.role, || {
                    copy_from::copy_into(self.table.oid, &names, Format::Text, &mut |out| {
                        Ok(left.take().map(|text| out.extend_from_slice(&text)).is_some())
                    })
                })?
            }
            Some(session) => {
                let command = format!("COPY {} ({}) FROM STDIN", self.table.name, idents(&names));
                session::wait(session.with(async |client| {
                    let sink = client.copy_in::<_, bytes::Bytes>(&command).await?;
                    let mut sink = pin!(sink);
                    futures_util::SinkExt::send(&mut sink, text.into()).await?;
                    sink.finish().await
                }))?
            }
        };
        self.met(copied, rows.len() as u64)
    }

    /// Every change meets exactly the rows that it met on its source; anything else means that the target is not what it
    /// should be, and nobody may be switched to it.
    fn met(&self, found: u64, expected: u64) -> Step {
        if found == expected {
            return Ok(());
        }
        halt(
            Report::new(
                Code::ERRCODE_DATA_CORRUPTED,
                format!("the copy on node {} is not what it should be", ident(&self.node)),
            )
            .detail(format!("Changes of {expected} rows found {found}."))
            .hint("Somebody else wrote to it. Cancel the operation; nothing was switched."),
        )
    }

    pub fn unexpected(&self, what: &str) -> Step {
        halt(
            Report::new(
                Code::ERRCODE_DATA_CORRUPTED,
                format!("a change cannot be applied on node {}", ident(&self.node)),
            )
            .detail(format!("The reason: {what}."))
            .hint("Cancel the operation; nothing was switched."),
        )
    }
}

/// The query for columns of the row with a key, an array of texts. Its arguments are the texts of the key.
fn lookup(from: &QualifiedName, table: &Table, key: &[usize], columns: &[usize]) -> String {
    let list = columns.iter().map(|at| format!("{}::text", ident(&table.columns[*at].name)));
    let list = list.collect::<Vec<_>>().join(", ");
    format!("SELECT pg_catalog.json_build_array({list})::text FROM {from} WHERE {}", key_condition(table, key))
}

/// What such a query has found.
pub(super) fn values(found: Vec<Option<String>>) -> Vec<Value> {
    found.into_iter().map(|text| text.map_or(Value::Null, |text| Value::Text(text.into_bytes()))).collect()
}

fn key_condition(table: &Table, key: &[usize]) -> String {
    let conditions = key.iter().enumerate().map(|(at, column)| {
        let Column { name, data_type } = &table.columns[*column];
        format!("{} = ${}::text::{data_type}", ident(name), at + 1)
    });
    conditions.collect::<Vec<_>>().join(" AND ")
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Text(bytes) | Value::Binary(bytes) => Some(bytes),
        Value::Null | Value::Unchanged => None,
    }
}

pub(super) fn texts<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<Vec<Option<String>>> {
    let text = |value: &Value| match bytes(value) {
        None => Ok(None),
        Some(bytes) => String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| {
            Error::from(Report::new(Code::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE, "a value of the stream is not UTF-8"))
        }),
    };
    values.into_iter().map(text).collect()
}

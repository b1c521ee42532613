//! The tables that a ledger writes to: their columns, their keys, and their first rows.
//!
//! A row has a number, and its key says which one. So the ledger remembers numbers, and a key that nobody made is seen.
use std::io::Write;

use anyhow::{Context, Result};
use postgres::Client;
use postgres::types::private::BytesMut;
use postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use super::row::State;

/// The key that is primary key and partition key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// `id bigint`
    Bigint,
    /// `id text`, with characters that some formats have to escape.
    Text,
    /// `id uuid`
    Uuid,
    /// `region text, id bigint`: one of `REGIONS` for a list level, and a number for a hash level.
    TwoColumns,
}

pub const REGIONS: [&str; 4] = ["us", "eu", "cn", "jp"];

/// The row that all clients update.
pub(super) const HOT: i64 = -1;

/// What comes behind the key, in the order of `State::values`.
pub(super) const VALUES: [&str; 5] = ["version", "client", "payload", "amount", "doc"];

/// No text key is complete without them.
const STRANGE: &str = "ü'\"\\\t$1";

impl Keys {
    pub const ALL: [Keys; 4] = [Keys::Bigint, Keys::Text, Keys::Uuid, Keys::TwoColumns];

    /// Name and type of each key column.
    pub fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Keys::Bigint => &[("id", "bigint")],
            Keys::Text => &[("id", "text")],
            Keys::Uuid => &[("id", "uuid")],
            Keys::TwoColumns => &[("region", "text"), ("id", "bigint")],
        }
    }

    /// An ordinary table with a primary key; `table` stands in the statement as it is.
    pub fn create_sql(self, table: &str) -> String {
        let key: Vec<_> = self.columns().iter().map(|(name, kind)| format!("{name} {kind}")).collect();
        format!(
            "CREATE TABLE {table} ({}, version bigint NOT NULL, client int NOT NULL, payload text, amount numeric, doc jsonb,
                 PRIMARY KEY ({}))",
            key.join(", "),
            self.names("")
        )
    }

    /// Puts the rows 0 to `rows` - 1 and the hot row into an empty table: many at once also where leaves are on nodes.
    pub fn load(self, client: &mut Client, table: &str, rows: i64) -> Result<()> {
        client.batch_execute(&format!("CREATE TEMPORARY TABLE ledger_load AS SELECT * FROM {table} LIMIT 0"))?;
        let mut copy = client.copy_in(&format!("COPY ledger_load ({}) FROM STDIN", self.all_columns()))?;
        for number in HOT..rows {
            copy.write_all(self.copy_line(number, &State::loaded(number)).as_bytes())?;
        }
        copy.finish()?;
        client
            .batch_execute(&format!("INSERT INTO {table} SELECT * FROM ledger_load; DROP TABLE ledger_load"))
            .with_context(|| format!("loading {rows} rows into {table}"))
    }

    /// One value for each column, as text.
    pub(super) fn key(self, number: i64) -> Vec<String> {
        match self {
            Keys::Bigint => vec![number.to_string()],
            Keys::Text => vec![format!("{:04x}:{number}:{STRANGE}", mixed(number) >> 48)],
            Keys::Uuid => {
                let (high, low) = (mixed(number), number as u64);
                let text = format!("{high:016x}{low:016x}");
                vec![[&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")]
            }
            Keys::TwoColumns => {
                vec![REGIONS[number.rem_euclid(REGIONS.len() as i64) as usize].to_owned(), number.to_string()]
            }
        }
    }

    /// The number of the row with this key. `None`: no row of the ledger has it.
    pub(super) fn number(self, key: &[String]) -> Option<i64> {
        let last = key.last()?;
        let number = match self {
            Keys::Bigint | Keys::TwoColumns => last.parse().ok()?,
            Keys::Text => last.split(':').nth(1)?.parse().ok()?,
            Keys::Uuid => u64::from_str_radix(last.replace('-', "").get(16..)?, 16).ok()? as i64,
        };
        (self.key(number) == key).then_some(number)
    }

    /// As a person finds the row.
    pub(super) fn shown(self, key: &[String]) -> String {
        let parts: Vec<_> =
            self.columns().iter().zip(key).map(|((name, _), value)| format!("{name} = {value}")).collect();
        parts.join(", ")
    }

    /// The key columns' names, each behind `prefix`.
    pub(super) fn names(self, prefix: &str) -> String {
        let names: Vec<_> = self.columns().iter().map(|(name, _)| format!("{prefix}{name}")).collect();
        names.join(", ")
    }

    pub(super) fn all_columns(self) -> String {
        format!("{}, {}", self.names(""), VALUES.join(", "))
    }

    /// `id = $3`, with parameters from `first` on.
    pub(super) fn equal(self, first: usize) -> String {
        let parts: Vec<_> =
            self.columns().iter().enumerate().map(|(at, (name, _))| format!("{name} = ${}", first + at)).collect();
        parts.join(" AND ")
    }

    pub(super) fn copy_line(self, number: i64, state: &State) -> String {
        let escape = |value: &str| value.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n");
        let key = self.key(number).into_iter().map(Some);
        let fields: Vec<_> = key
            .chain(state.values())
            .map(|value| value.map_or_else(|| "\\N".to_owned(), |value| escape(&value)))
            .collect();
        fields.join("\t") + "\n"
    }
}

/// Spreads numbers evenly over 64 bits (the finalizer of SplitMix64).
pub(super) fn mixed(number: i64) -> u64 {
    let mut z = (number as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A parameter of any type, sent as psql would show it.
#[derive(Clone, Debug)]
pub(super) struct Text(pub Option<String>);

impl ToSql for Text {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match &self.0 {
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                IsNull::No
            }
            None => IsNull::Yes,
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

pub(super) fn texts(values: impl IntoIterator<Item = String>) -> Vec<Text> {
    values.into_iter().map(|value| Text(Some(value))).collect()
}

/// As the client library wants them.
pub(super) fn params(values: &[Text]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

//! The flights data set of `pg_test/data`: its tables, how it gets into a server, and how two copies are compared.
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lzma_rust2::XzReader;
use postgres::GenericClient;

use crate::install::workspace;

pub struct Table {
    pub name: &'static str,
    /// As in the file, in its order.
    columns: &'static str,
    pub rows: i64,
}

/// The one that is partitioned.
pub const FLIGHTS: Table = Table {
    name: "flights",
    columns: "year smallint NOT NULL,
    month smallint NOT NULL,
    day smallint NOT NULL,
    dep_time smallint,
    sched_dep_time smallint NOT NULL,
    dep_delay smallint,
    arr_time smallint,
    sched_arr_time smallint NOT NULL,
    arr_delay smallint,
    carrier text NOT NULL,
    flight integer NOT NULL,
    tailnum text,
    origin text NOT NULL,
    dest text NOT NULL,
    air_time smallint,
    distance integer NOT NULL,
    hour smallint NOT NULL,
    minute smallint NOT NULL,
    time_hour timestamptz NOT NULL,
    PRIMARY KEY (time_hour, origin, carrier, flight)",
    rows: 336_776,
};

/// Those that it is joined to.
pub const OTHERS: [Table; 4] = [
    Table { name: "airlines", columns: "carrier text PRIMARY KEY, name text NOT NULL", rows: 16 },
    Table {
        name: "airports",
        columns: "faa text PRIMARY KEY,
    name text NOT NULL,
    lat double precision NOT NULL,
    lon double precision NOT NULL,
    alt integer NOT NULL,
    tz smallint NOT NULL,
    dst text NOT NULL,
    tzone text",
        rows: 1_458,
    },
    Table {
        name: "planes",
        columns: "tailnum text PRIMARY KEY,
    year smallint,
    type text NOT NULL,
    manufacturer text NOT NULL,
    model text NOT NULL,
    engines smallint NOT NULL,
    seats smallint NOT NULL,
    speed smallint,
    engine text NOT NULL",
        rows: 3_322,
    },
    Table {
        name: "weather",
        columns: "origin text NOT NULL,
    year smallint NOT NULL,
    month smallint NOT NULL,
    day smallint NOT NULL,
    hour smallint NOT NULL,
    temp double precision,
    dewp double precision,
    humid double precision,
    wind_dir smallint,
    wind_speed double precision,
    wind_gust double precision,
    precip double precision NOT NULL,
    pressure double precision,
    visib double precision NOT NULL,
    time_hour timestamptz NOT NULL,
    PRIMARY KEY (origin, time_hour)",
        rows: 26_115,
    },
];

/// Month, airport, then airlines by hash: 72 leaves, dealt over the coordinator and four nodes. The data count months as
/// New York does.
pub const SPEC: &str = r#"{
  "method": "range", "key": "time_hour", "interval": "1 month",
  "start": "2013-01-01", "end": "2014-01-01", "timezone": "America/New_York",
  "nodes": ["local", "n1", "n2", "n3", "n4"],
  "partitions": {
    "method": "list", "key": "origin", "values": {"ewr": ["EWR"], "jfk": ["JFK"], "lga": ["LGA"]},
    "partitions": {"method": "hash", "key": "carrier", "modulus": 2}
  }
}"#;

pub const LEAVES: i64 = 12 * 3 * 2;

impl Table {
    /// The same table under any name.
    pub fn create(&self, name: &str) -> String {
        format!("CREATE TABLE {name} (\n    {}\n)", self.columns)
    }

    /// Sends the file from here: the server could not read it.
    pub fn copy_into(&self, client: &mut impl GenericClient, name: &str) -> Result<()> {
        let sql = format!("COPY {name} FROM STDIN (FORMAT csv, HEADER, NULL 'NA')");
        let mut copy = client.copy_in(&sql).with_context(|| sql.clone())?;
        copy.write_all(&self.csv()?)?;
        let rows = copy.finish().with_context(|| sql.clone())?;
        ensure!(i64::try_from(rows)? == self.rows, "{rows} rows of {} instead of {}", self.name, self.rows);
        Ok(())
    }

    /// The file of the package, unpacked.
    pub fn csv(&self) -> Result<Vec<u8>> {
        let path = directory().join(format!("{}.csv.xz", self.name));
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut csv = Vec::new();
        let mut reader = XzReader::new(BufReader::new(file), false);
        reader.read_to_end(&mut csv).with_context(|| format!("cannot unpack {}", path.display()))?;
        Ok(csv)
    }
}

/// What two tables with the same rows have in common, in whatever order and in how many parts the rows lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub rows: i64,
    checksum: i128,
}

/// `from` is what stands behind FROM: a table, or a subquery in parentheses.
pub fn content(client: &mut impl GenericClient, from: &str) -> Result<Content> {
    let sql =
        format!("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {from} AS t");
    let row = client.query_one(&sql, &[]).with_context(|| sql.clone())?;
    Ok(Content { rows: row.get(0), checksum: row.get::<_, &str>(1).parse()? })
}

/// The parts of a table make the whole.
impl std::iter::Sum for Content {
    fn sum<I: Iterator<Item = Content>>(parts: I) -> Content {
        parts.fold(Content::default(), |a, b| Content { rows: a.rows + b.rows, checksum: a.checksum + b.checksum })
    }
}

fn directory() -> PathBuf {
    workspace().join("pg_test/data")
}

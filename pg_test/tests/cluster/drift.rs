//! `shard_check` compares what is on nodes with what is here, and its hints mend what somebody broke there by hand.
use anyhow::{Context, Result, ensure};
use pg_test::sql::rows;
use pg_test::{Cluster, Install, Options};
use postgres::Client;

/// What is wrong with hierarchies: severity, object, node, finding, hint.
fn findings(client: &mut Client) -> Result<Vec<Vec<String>>> {
    rows(client, "SELECT severity, object, node, finding, hint FROM shard_check() WHERE area = 'hierarchy'")
}

const TREE: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE TABLE t (id bigint NOT NULL, region text NOT NULL, note text, m mood, amount int NOT NULL,
        doubled bigint GENERATED ALWAYS AS (id * 2) STORED, CONSTRAINT positive CHECK (amount > 0), PRIMARY KEY (id, region));
    CREATE INDEX t_note ON t (note);
    SELECT shard_create_parent('t', '{"method": "list", "key": "region", "nodes": ["n1"], "default": true,
        "values": {"us": ["US"], "eu": {"in": ["EU"], "nodes": ["local", "n1"],
                   "partitions": {"method": "hash", "key": "id", "modulus": 2}}}}');
    CREATE TABLE h (id bigint PRIMARY KEY);
    SELECT shard_create_parent('h', 'hash', 'id', modulus => 64, nodes => '{n1, n2}')"#;

/// What somebody does on n1, the object that is told of, and words of the finding there is.
const BREAKS: [(&str, &str, &str); 19] = [
    ("ALTER TABLE t DROP COLUMN note", "public.t", "column note is missing on the node"),
    ("ALTER TABLE t DROP COLUMN doubled", "public.t", "column doubled is missing on the node"),
    ("ALTER TABLE t ADD COLUMN more int", "public.t", "column more is on the node only"),
    ("ALTER TABLE t ALTER COLUMN amount TYPE bigint", "public.t", "column amount is bigint on the node, integer here"),
    (r#"ALTER TABLE t ALTER COLUMN note TYPE text COLLATE "C""#, "public.t", r#"is pg_catalog."C" on the node"#),
    ("ALTER TABLE t ALTER COLUMN amount DROP NOT NULL", "public.t", "column amount takes NULL on the node, not here"),
    ("ALTER TABLE t_us ALTER COLUMN note SET NOT NULL", "public.t_us", "column note takes no NULL on the node"),
    ("ALTER TABLE t DROP CONSTRAINT positive", "public.t", "check positive is missing on the node"),
    (
        "ALTER TABLE t DROP CONSTRAINT positive, ADD CONSTRAINT positive CHECK (amount > 5)",
        "public.t",
        "check positive is CHECK ((amount > 5)) on the node, CHECK ((amount > 0)) here",
    ),
    ("ALTER TABLE t_us ADD CONSTRAINT odd CHECK (amount < 9)", "public.t_us", "check odd is on the node only"),
    ("DROP INDEX t_note", "public.t", "index t_note is missing on the node: btree (note)"),
    ("ALTER TABLE t DROP CONSTRAINT t_pkey", "public.t", "primary key t_pkey is missing on the node"),
    ("ALTER TABLE t_us ENABLE ROW LEVEL SECURITY", "public.t_us", "row security is enabled on the node"),
    ("ALTER TABLE t DETACH PARTITION t_us", "public.t_us", "it is a partition of no table, here of public.t"),
    ("ALTER TABLE h DETACH PARTITION h_0", "public.h_0", "it is a partition of no table, here of public.h"),
    (
        "ALTER TABLE t DETACH PARTITION t_us; ALTER TABLE t ATTACH PARTITION t_us FOR VALUES IN ('USA')",
        "public.t_us",
        "its bounds are FOR VALUES IN ('USA') on the node, FOR VALUES IN ('US') here",
    ),
    (
        "ALTER TABLE t_eu DETACH PARTITION t_eu_1; ALTER TABLE t_eu ATTACH PARTITION t_eu_1 FOR VALUES WITH (MODULUS 4, REMAINDER 1)",
        "public.t_eu_1",
        "on the node, FOR VALUES WITH (modulus 2, remainder 1) here",
    ),
    ("CREATE INDEX ON ONLY t (m)", "", ""),
    ("CREATE UNIQUE INDEX t_twice ON t (region, id)", "public.t", "unique key t_twice is on the node only"),
];

#[test]
fn what_somebody_changed_on_a_node_is_found_and_the_hint_mends_it() -> Result<()> {
    let (cluster, mut client) = Cluster::joined(2)?;
    // Also where it is made and not yet committed.
    client.batch_execute(&format!("BEGIN; {TREE}"))?;
    for end in ["COMMIT", "SELECT 1"] {
        let found = findings(&mut client)?;
        ensure!(found.is_empty(), "before {end}: {found:?}");
        client.batch_execute(end)?;
    }
    let node = cluster.node(1);
    for (sql, object, words) in BREAKS {
        node.run(sql)?;
        let mut found = findings(&mut client)?;
        let is_told = |row: &Vec<String>| row[1] == object && row[2] == "n1" && row[3].contains(words);
        ensure!(words.is_empty() == found.is_empty(), "{sql}: {found:?}");
        ensure!(words.is_empty() || found.iter().any(is_told), "{sql}: {found:?}");
        // What one hint mends can be in the way of the next: a column first, then its index.
        for _ in 0..3 {
            for command in found.iter().filter_map(|row| row[4].strip_prefix("On the node, run ")) {
                node.run(command).with_context(|| format!("{sql}, hint {command}"))?;
            }
            found = findings(&mut client)?;
        }
        if object.is_empty() || found.iter().any(|row| row[3].contains("t_twice")) {
            node.run("DROP INDEX IF EXISTS t_m_idx, t_twice")?;
            found = findings(&mut client)?;
        }
        ensure!(found.is_empty(), "after the hints of {sql}: {found:?}");
    }
    // What no single command mends.
    node.run("ALTER TABLE t_us RENAME TO t_gone")?;
    let found = findings(&mut client)?;
    ensure!(
        found.len() == 1 && found[0][1] == "public.t_us" && found[0][3] == "the table is missing on the node",
        "{found:?}"
    );
    node.run("ALTER TYPE mood ADD VALUE 'angry' BEFORE 'sad'")?;
    let only = "SELECT object, finding FROM shard_check('h') WHERE area = 'hierarchy'";
    ensure!(rows(&mut client, only)?.is_empty(), "of another parent: {:?}", rows(&mut client, only)?);
    let labels = findings(&mut client)?;
    ensure!(
        labels.iter().any(|row| row[1] == "public.mood"
            && row[3].ends_with("Here it is ENUM ('sad', 'happy'), there ENUM ('angry', 'sad', 'happy').")),
        "{labels:?}"
    );
    // A node that is down is a finding of its own; the others are compared all the same.
    cluster.node(2).stop()?;
    let down = rows(&mut client, "SELECT node FROM shard_check() WHERE area = 'node' AND severity = 'error'")?;
    ensure!(down == [["n2"]], "{down:?}");
    ensure!(findings(&mut client)? == labels, "{:?}", findings(&mut client)?);
    node.run("DROP TABLE t")?;
    let found = findings(&mut client)?;
    ensure!(
        found.iter().filter(|row| row[1] == "public.t" && row[3] == "the table is missing on the node").count() == 1
    );
    ensure!(found.iter().all(|row| row[1] != "public.t_default"), "{found:?}");
    Ok(())
}

/// Servers of other versions, and sessions with other settings, write the same expressions and bounds differently.
#[test]
fn what_is_only_written_differently_is_no_finding() -> Result<()> {
    let chosen = Install::chosen()?.major;
    let other = if chosen < 18 { 18 } else { 15 };
    let cluster = Cluster::with(Options { nodes: 2, node_version: Some(other), ..Options::default() })?;
    cluster.add_nodes()?;
    cluster.node(1).run("ALTER ROLE app SET timezone = 'Asia/Kolkata'; ALTER ROLE app SET datestyle = 'SQL, DMY'")?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        r#"SET timezone = 'America/New_York'; SET datestyle = 'German'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = 0;
        CREATE DOMAIN price AS numeric(10, 2) CHECK (VALUE > 0 AND VALUE < ALL (ARRAY[1e6, 2e6])) CHECK (VALUE IS DISTINCT FROM 7);
        CREATE TYPE span AS RANGE (SUBTYPE = price);
        CREATE TABLE odd (at timestamptz NOT NULL, code varchar(3) COLLATE "C" NOT NULL, p price, s span, ratio float8, tags text[], day date,
            upper text GENERATED ALWAYS AS (upper(coalesce(code, 'x')) || '!') STORED, PRIMARY KEY (at, code),
            CHECK (code IN ('a', 'b', 'c') AND ratio BETWEEN -1.1 AND 2.2), CHECK (NOT (day = ANY (ARRAY['2024-02-29'::date, '2028-02-29']))),
            CHECK (CASE WHEN extract(year FROM day) > 2000 THEN ratio + 1 * 2 > (ratio - 1) * 3 ELSE true END),
            CHECK (at > '2020-01-01 00:00+00' OR p IS NULL), CHECK (tags @> '{}' AND cardinality(tags) < 10));
        CREATE INDEX ON odd (lower(code::text), (ratio * 2 + 1) DESC NULLS LAST) INCLUDE (day) WHERE (ratio > 0.5 AND code ~ '^[a-c]$');
        CREATE UNIQUE INDEX ON odd (at, code, day) NULLS NOT DISTINCT;
        SELECT shard_create_parent('odd', '{"method": "range", "key": "at", "interval": "1 month", "start": "2026-01-01", "end": "2026-04-01",
            "timezone": "Europe/Berlin", "nodes": ["n1", "local", "n2"], "default": true,
            "partitions": {"method": "list", "key": "code", "values": {"ab": ["a", "b"]}, "default": true}}');
        CREATE TABLE f (x float8 PRIMARY KEY);
        SELECT shard_create_parent('f', 'range', 'x', bounds => '["0", "1234567.1234567891", "5000000"]', nodes => '{n1, n2}')"#,
    )?;
    let found = findings(&mut client)?;
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

/// What a hand, or half of a restored dump, did to our own tables: one thing that cannot be read hides nothing else.
#[test]
fn a_broken_catalog_hides_nothing_that_is_wrong_elsewhere() -> Result<()> {
    let (_cluster, mut client) = Cluster::joined(2)?;
    client.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}');
         CREATE TABLE u (id int PRIMARY KEY); SELECT shard_create_parent('u', 'hash', 'id', modulus => 2, nodes => '{n2, local}');
         SET shardkeeper.allow_manual_ddl = on; ALTER TABLE u DETACH PARTITION u_1",
    )?;
    for broken in [
        "DELETE FROM shardkeeper.parents WHERE parent = 't'::regclass",
        "UPDATE shardkeeper.parents SET spec = '{}' WHERE parent = 't'::regclass",
    ] {
        client.batch_execute(&format!("BEGIN; {broken}"))?;
        let found = rows(&mut client, "SELECT area, severity, finding FROM shard_check()")?;
        client.batch_execute("ROLLBACK")?;
        let told = |area: &str, words: &str| found.iter().any(|row| row[0] == area && row[2].contains(words));
        ensure!(told("worker", "the worker is running"), "{broken}: {found:#?}");
        ensure!(told("node", "PostgreSQL 1"), "{broken}: {found:#?}");
        ensure!(told("hierarchy", "was detached by hand"), "{broken}: {found:#?}");
        ensure!(found.iter().filter(|row| row[1] == "error").count() > 1, "{broken}: {found:#?}");
    }
    Ok(())
}

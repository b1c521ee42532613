//! Odd tables move as others do: columns of all types, names that need quotes, what is computed, rows without end and none.
use anyhow::{Result, ensure};
use pg_test::Twin;
use pg_test::matrix;
use pg_test::movement::joined;
use pg_test::sql::rows;

#[test]
fn values_of_all_types_come_along() -> Result<()> {
    let types = "CREATE TYPE mood AS ENUM ('sad', 'it''s, \"ok\"', 'glad'); CREATE DOMAIN short AS varchar(9) CHECK (value <> 'never');
        CREATE TYPE pair AS (a int, b text, c mood); CREATE DOMAIN pairs AS pair[];
        GRANT USAGE ON TYPE mood, short, pair, pairs TO PUBLIC";
    let cluster = joined(2)?;
    cluster.servers().try_for_each(|server| server.run(types))?;
    let mut twin = Twin::new(
        cluster,
        "t",
        "CREATE TABLE @ (id int PRIMARY KEY, ints int[], texts text[], doc jsonb, raw json, bytes bytea, n numeric, n2 numeric(9, 3),
            f float8, r int4range, rs nummultirange, tr tstzrange, s short, p pair, ps pairs, m mood, ms mood[], at timestamptz,
            d date, i interval, t time with time zone, flag bool, padded char(8), bits bit(5), net inet, mac macaddr8, v tsvector,
            box box, u uuid, money money, c \"char\", x xid8)",
    )?;
    let values = "'{1,NULL,-3}', '{\"\",NULL,\"a,b\",\"{}\",\"NULL\",\"\\\\\"}', '{\"a\": [1.50, null, \"\\u00e9\\\\\"]}', '{\"a\":  1, \"a\": 2}',
        '\\x00ff5c', 'NaN', -0.500, '-Infinity', '[1,5)', '{[1.5,2],(7,)}', '[-infinity,2026-01-01 00:00+02)', '', '(7,\"a \"\"b\",glad)',
        '{\"(1,,sad)\",NULL,\"(,\\\"\\\",)\"}', 'it''s, \"ok\"', '{glad,NULL}', 'infinity', '-infinity', '-1 mon +2 days -00:00:01.5',
        '12:00+05:30', true, 'a', B'10101', '10.1.2.3/8', '08:00:2b:01:02:03:04:05', 'a:1A b', '(1,2),(0,0)',
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '-12.34', 'q', '18446744073709551615'";
    twin.run(&format!("INSERT INTO @ SELECT i, {values} FROM generate_series(1, 40) AS i; INSERT INTO @ (id) SELECT generate_series(41, 50)"))?;
    let changes = |twin: &mut Twin| {
        twin.run(&format!(
            "INSERT INTO @ SELECT # + i, {values} FROM generate_series(101, 120) AS i;
             UPDATE @ SET n = 'Infinity', f = 'NaN', at = NULL, s = NULL, texts = '{{}}', rs = '{{}}', r = 'empty', p = ROW(NULL, NULL, NULL) WHERE id % 4 = 0;
             UPDATE @ SET n = n * 10.0, f = 0.1::float8 + 0.2, s = '', ps = ps || ps, bytes = '', m = 'sad', doc = doc || '{{\"z\": \"\\t\"}}', d = 'infinity' WHERE id % 4 = 1;
             UPDATE @ SET texts[3] = E'tab\\t nl\\n bs\\\\ \\\\.', padded = '', raw = '\"\\\\.\"', s = E'\\\\N' WHERE id % 4 = 2; DELETE FROM @ WHERE id % 19 = 0"
        ))
    };
    twin.operate("shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')", changes)?;
    twin.operate("shard_move_partition('t_1', 'n2')", changes)?;
    twin.operate("shard_set_modulus('t', 3, nodes => '{n1, n2, local}')", changes)?;
    twin.operate("shard_move_partition('t_0', 'local')", changes)?;
    twin.nothing_is_left()
}

#[test]
fn values_without_meaning_elsewhere_are_refused() -> Result<()> {
    let cluster = joined(1)?;
    let mut twin = Twin::new(
        cluster,
        "t",
        "CREATE TABLE @ (id int PRIMARY KEY, relation regclass[]); INSERT INTO @ VALUES (1, '{pg_class}')",
    )?;
    let refusal =
        twin.refuses("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')")?;
    ensure!(
        refusal
            .starts_with("0A000 column relation of public.t on the coordinator cannot move to another server / Change"),
        "{refusal}"
    );
    twin.operate("shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local}')", |twin| {
        twin.run("UPDATE @ SET relation = relation || 'pg_type'::regclass")
    })?;
    twin.client.batch_execute("CREATE TABLE u (id int PRIMARY KEY, rights aclitem)")?;
    twin.client.batch_execute("INSERT INTO u VALUES (1)")?;
    let refusal = twin.refuses("SELECT shard_create_parent('u', 'hash', 'id', modulus => 2)")?;
    ensure!(
        refusal.starts_with("0A000 column rights of public.u on the coordinator cannot be copied / Change"),
        "{refusal}"
    );
    twin.nothing_is_left()
}

#[test]
fn names_that_need_quotes_do() -> Result<()> {
    let long = "Ünïcode $1 \"quoted\" 'and' more; -- of it, up to 63 bytes…";
    let columns = ["Select", "a b", "ctid$", "k0", "t", "d", long, "tag\\"];
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let list: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
    let (schema, table) = (quoted("The \"Schema\" $"), quoted("Order's \"Table\" \\ 50%s"));
    let name = format!("{schema}.{table}");
    let cluster = joined(2)?;
    cluster
        .servers()
        .try_for_each(|server| server.run(&format!("CREATE SCHEMA {schema}; GRANT ALL ON SCHEMA {schema} TO app")))?;
    let definitions: Vec<String> = list.iter().skip(1).map(|column| format!("{column} text")).collect();
    let mut twin = Twin::new(
        cluster,
        &name,
        &format!("CREATE TABLE @ ({} int PRIMARY KEY, {})", list[0], definitions.join(", ")),
    )?;
    let rows = |from: &str| {
        format!(
            "INSERT INTO @ SELECT i, '', NULL, 'x', 'y', 'z', 'long', repeat('t', i % 7) FROM generate_series({from}, {from} + 60) AS i"
        )
    };
    twin.run(&rows("1"))?;
    let changes = |twin: &mut Twin| {
        twin.run(&format!(
            "{}; UPDATE @ SET {} = NULL, {} = '' WHERE {key} % 3 = 0; DELETE FROM @ WHERE {key} % 11 = 0;
             UPDATE @ SET {} = repeat('x', 3000) WHERE {key} % 5 = 0",
            rows("# + 1"),
            list[6],
            list[2],
            list[1],
            key = list[0]
        ))
    };
    let literal = |text: &str| format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let call = format!(
        "shard_create_parent({}, 'hash', '{}', modulus => 2, nodes => '{{n1, local}}')",
        literal(&name),
        columns[0]
    );
    twin.operate(&call, changes)?;
    let leaf = |number: usize| literal(&format!("{schema}.{}", quoted(&format!("Order's \"Table\" \\ 50%s_{number}"))));
    twin.operate(&format!("shard_move_partition({}, 'n2')", leaf(0)), changes)?;
    twin.operate(&format!("shard_set_modulus({}, 3, nodes => '{{n1, n2, local}}')", literal(&name)), changes)?;
    twin.operate(&format!("shard_move_partition({}, 'local')", leaf(0)), changes)?;
    twin.nothing_is_left()
}

/// NULLs in a list key leave no room for a primary key; text of a language's own order is a key, and a value beside it.
#[test]
fn null_keys_and_collations_find_their_places() -> Result<()> {
    let cluster = joined(2)?;
    let has_icu = "SELECT count(*) > 0 FROM pg_collation WHERE collname = 'de-x-icu'";
    // Each server was built with it or without.
    let everywhere = cluster.servers().try_fold(true, |all, server| anyhow::Ok(all && server.value(has_icu)?))?;
    let collation = if everywhere { "\"de-x-icu\"" } else { "\"C\"" };
    println!("collation {collation}");
    let mut twin = Twin::new(
        cluster,
        "t",
        &format!(
            "CREATE TABLE @ (region text COLLATE {collation}, name text COLLATE {collation}, n int); ALTER TABLE @ REPLICA IDENTITY FULL"
        ),
    )?;
    twin.run("INSERT INTO @ SELECT (ARRAY['Öl', 'öl', 'Straße', '', NULL])[1 + i % 5], 'Ä' || i, i FROM generate_series(1, 100) AS i")?;
    let changes = |twin: &mut Twin| {
        twin.run(
            "INSERT INTO @ SELECT (ARRAY['Öl', 'öl', 'Straße', '', NULL])[1 + i % 5], 'new #', i FROM generate_series(201, 210) AS i;
             UPDATE @ SET name = NULL WHERE region IS NULL AND n < 50; UPDATE @ SET name = '' WHERE region = '' AND n % 2 = 0;
             DELETE FROM @ WHERE region = 'öl' AND n % 3 = 0; UPDATE @ SET n = n + 1 WHERE region = 'Straße'",
        )
    };
    let spec = r#"{"method": "list", "key": "region", "values": {"oil": {"in": ["Öl", "öl"], "nodes": ["n1"]},
        "none": {"in": [null], "nodes": ["n2"]}}, "default": {"nodes": ["local"]}}"#;
    twin.operate(&format!("shard_create_parent('t', '{spec}')"), changes)?;
    twin.operate("shard_move_partition('t_none', 'n1')", changes)?;
    twin.operate("shard_move_partition('t_oil', 'local')", changes)?;
    let mut round = 0;
    twin.operate("shard_move_partition('t_default', 'n2')", |twin| {
        round += 1;
        if round == 1 {
            changes(twin)
        } else {
            twin.run("UPDATE @ SET n = 0; TRUNCATE @; INSERT INTO @ VALUES (NULL, '#'), ('x', '')")
        }
    })?;
    twin.nothing_is_left()
}

#[test]
fn computed_and_dropped_columns_in_another_order() -> Result<()> {
    let cluster = joined(2)?;
    let mut twin = Twin::new(
        cluster,
        "t",
        "CREATE SEQUENCE IF NOT EXISTS counter;
         CREATE TABLE @ (gone1 int, number bigint GENERATED ALWAYS AS IDENTITY, id int PRIMARY KEY, gone2 text, large text,
            size int GENERATED ALWAYS AS (coalesce(length(large), -1) + id) STORED, counted bigint DEFAULT nextval('counter'), kept text DEFAULT 'k');
         ALTER TABLE @ DROP COLUMN gone1, ALTER large SET STORAGE EXTERNAL",
    )?;
    // Numbers that are drawn for the one are given to the other.
    let changes = |twin: &mut Twin| {
        twin.run(
            "INSERT INTO @ (number, id, large, counted) OVERRIDING SYSTEM VALUE SELECT # + i, # + i, repeat(md5(i::text), 100), i FROM generate_series(1, 40) AS i;
             UPDATE @ SET kept = 'set' WHERE id % 3 = 0; UPDATE @ SET large = NULL, counted = NULL WHERE id % 7 = 0;
             UPDATE @ SET kept = NULL WHERE id % 4 = 0; DELETE FROM @ WHERE id % 10 = 0",
        )
    };
    changes(&mut twin)?;
    twin.client.batch_execute("ALTER TABLE t DROP COLUMN gone2; ALTER TABLE plain_twin DROP COLUMN gone2")?;
    twin.operate("shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{n1, local}')", changes)?;
    // Columns come and go, in another order on each server.
    twin.cluster.node(1).run("ALTER TABLE t ADD COLUMN y text, ADD COLUMN x int DEFAULT 3, ADD COLUMN z int")?;
    twin.run(
        "SET shardkeeper.allow_manual_ddl = on; ALTER TABLE @ ADD COLUMN x int DEFAULT 3, ADD COLUMN z int, ADD COLUMN y text; ALTER TABLE @ DROP COLUMN z",
    )?;
    twin.cluster.node(1).run("ALTER TABLE t DROP COLUMN z")?;
    let with_new = |twin: &mut Twin| {
        changes(twin)?;
        twin.run("UPDATE @ SET x = id, y = 'why #' WHERE id % 6 = 1; UPDATE @ SET y = '' WHERE id % 6 = 2")
    };
    twin.operate("shard_move_partition('t_1', 'n1')", with_new)?;
    twin.operate("shard_set_modulus('t', 3, nodes => '{n1, n2, local}')", with_new)?;
    twin.operate("shard_move_partition('t_0', 'n2')", with_new)?;
    twin.operate("shard_move_partition('t_1', 'local')", with_new)?;
    // Defaults and identity are still the parent's.
    twin.client.batch_execute(
        "SELECT setval('counter', 70000); INSERT INTO t (id) SELECT i FROM generate_series(900001, 900020) AS i",
    )?;
    let drawn = rows(
        &mut twin.client,
        "SELECT count(DISTINCT number), min(counted), max(counted), bool_and(size = id - 1) FROM t WHERE id > 900000",
    )?;
    ensure!(drawn == [["20", "70001", "70020", "t"]], "{drawn:?}");
    twin.nothing_is_left()
}

/// From 18 on, Postgres refuses to update a row that is told whole without what is computed in it.
#[test]
fn computed_columns_of_rows_told_whole_do_not_stop_writers() -> Result<()> {
    let mut twin = Twin::joined(
        1,
        "t",
        "CREATE TABLE @ (a int, b text, large text, twice int GENERATED ALWAYS AS (a * 2) STORED); ALTER TABLE @ REPLICA IDENTITY FULL;
         ALTER TABLE @ ALTER large SET STORAGE EXTERNAL;
         INSERT INTO @ SELECT i, '', repeat(md5(i::text), 100) FROM generate_series(1, 30) AS i",
    )?;
    let changes = |twin: &mut Twin| {
        twin.run(
            "UPDATE @ SET b = 'n #' WHERE a % 3 = 0; DELETE FROM @ WHERE a % 7 = 0; INSERT INTO @ VALUES (# + 1, NULL)",
        )
    };
    twin.operate("shard_create_parent('t', 'hash', 'a', modulus => 2, nodes => '{n1, local}')", changes)?;
    twin.operate("shard_set_modulus('t', 3, nodes => '{n1, local}')", changes)?;
    // A key of ordinary columns spares the search for whole rows.
    twin.client.batch_execute("CREATE TABLE u (a int PRIMARY KEY, b text, large text, twice int GENERATED ALWAYS AS (a * 2) STORED); ALTER TABLE u REPLICA IDENTITY FULL; DROP TABLE plain_twin; CREATE TABLE plain_twin (LIKE u INCLUDING ALL)")?;
    twin.table = "u".into();
    twin.run("INSERT INTO @ SELECT i, '', repeat(md5(i::text), 100) FROM generate_series(1, 30) AS i")?;
    twin.operate("shard_create_parent('u', 'hash', 'a', modulus => 2, nodes => '{n1, local}')", changes)?;
    twin.operate("shard_set_modulus('u', 3, nodes => '{n1, local}')", changes)?;
    if twin.cluster.coordinator.install.major >= 18 {
        twin.client.batch_execute(
            "CREATE TABLE w (a int PRIMARY KEY, b text, next int GENERATED ALWAYS AS (a + 1) VIRTUAL);
             DROP TABLE plain_twin; CREATE TABLE plain_twin (LIKE w INCLUDING ALL)",
        )?;
        twin.table = "w".into();
        twin.run("INSERT INTO @ SELECT i, '' FROM generate_series(1, 30) AS i")?;
        twin.client.batch_execute("ALTER TABLE w REPLICA IDENTITY FULL")?;
        // An older node has no such columns.
        let target = if twin.cluster.node(1).install.major >= 18 { "n1" } else { "local" };
        let made = format!("shard_create_parent('w', 'hash', 'a', modulus => 2, nodes => '{{{target}, local}}')");
        let whole = twin.refuses(&format!("SELECT {made}"))?;
        ensure!(
            whole.starts_with("55000 the replica identity of public.w on the coordinator has a generated"),
            "{whole}"
        );
        twin.client.batch_execute("ALTER TABLE w REPLICA IDENTITY DEFAULT")?;
        twin.operate(&made, changes)?;
        twin.operate(&format!("shard_set_modulus('w', 3, nodes => '{{{target}, local}}')"), changes)?;
    }
    let computed = "CREATE TABLE v (a int, twice int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (a, twice)); INSERT INTO v VALUES (1)";
    twin.client.batch_execute(computed)?;
    let refusal = twin.refuses("SELECT shard_create_parent('v', 'hash', 'a', modulus => 2, nodes => '{n1}')")?;
    ensure!(
        refusal.starts_with("55000 the replica identity of public.v on the coordinator has a generated column / "),
        "{refusal}"
    );
    twin.nothing_is_left()
}

#[test]
fn wide_and_huge_rows_and_none_at_all() -> Result<()> {
    let columns: Vec<String> =
        (2..=60).map(|at| format!("c{at} {}", ["int", "text", "numeric", "timestamptz"][at % 4])).collect();
    let mut twin = Twin::joined(2, "t", &format!("CREATE TABLE @ (c1 int PRIMARY KEY, {})", columns.join(", ")))?;
    twin.run("INSERT INTO @ (c1, c2, c5, c57, c60) SELECT i, i, 'a', NULL, i FROM generate_series(1, 50) AS i")?;
    let changes = |twin: &mut Twin| {
        twin.run("UPDATE @ SET c58 = 1.10, c59 = 'infinity', c5 = '' WHERE c1 % 2 = 0; INSERT INTO @ (c1, c60) VALUES (# + 1, 0)")
    };
    twin.operate("shard_create_parent('t', 'hash', 'c1', modulus => 2, nodes => '{n1, local}')", changes)?;
    twin.operate("shard_set_modulus('t', 3, nodes => '{n1, n2, local}')", changes)?;
    // Nothing at all.
    twin.run("DELETE FROM @")?;
    twin.operate("shard_set_modulus('t', 2, nodes => '{n1, local}')", |_| Ok(()))?;
    twin.operate("shard_move_partition('t_0', 'n2')", |twin| twin.run("INSERT INTO @ (c1) VALUES (#)"))?;
    // Rows of 30 MB, unchanged and changed; in a plain run of 8 MB.
    let length = if matrix::is_full() { 30_000_000 } else { 8_000_000 };
    twin.client.batch_execute("DROP TABLE plain_twin; CREATE TABLE u (id int PRIMARY KEY, tag text, large bytea); ALTER TABLE u ALTER large SET STORAGE EXTERNAL; CREATE TABLE plain_twin (LIKE u INCLUDING ALL)")?;
    twin.table = "u".into();
    let bytes = |byte: &str| format!("decode(repeat('{byte}', {length}), 'hex')");
    twin.run(&format!("INSERT INTO @ SELECT i, '', {} FROM generate_series(1, 3) AS i", bytes("a7")))?;
    let changes = |twin: &mut Twin| {
        twin.run(&format!("UPDATE @ SET tag = '#' WHERE id = 1; UPDATE @ SET large = {} WHERE id = 2", bytes("5c")))
    };
    twin.operate("shard_create_parent('u', 'hash', 'id', modulus => 2, nodes => '{n1, n1}')", changes)?;
    twin.operate("shard_set_modulus('u', 3, nodes => '{n2, local, n1}')", changes)?;
    twin.nothing_is_left()
}

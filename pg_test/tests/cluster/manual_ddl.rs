//! Commands that users give on managed tables themselves: those that would make servers disagree are refused and leave
//! nothing, the others work, and servers go on agreeing.
use anyhow::{Context, Result, ensure};
use pg_test::sql::{column, refused, rows};
use pg_test::{Cluster, PATIENCE, eventually, movement};
use postgres::Client;

/// On each server: types that tables use.
const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN code AS text; CREATE TYPE pair AS (m mood, n int);
    CREATE COLLATION plain (provider = libc, locale = 'C')";

/// Leaves on three servers, below one level and below two, and a hierarchy that is all here.
const TABLES: &str = "
    CREATE SCHEMA shop; SET search_path = shop, public;
    CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TABLE x (id bigint PRIMARY KEY, a int NOT NULL DEFAULT 1, b text, c text COLLATE plain, m mood DEFAULT 'sad', d code, p pair[], e int,
                    twice int GENERATED ALWAYS AS (a * 2) STORED, CONSTRAINT sane CHECK (a > -100));
    CREATE INDEX x_b ON x (b);
    SELECT shard_create_parent('x', 'hash', 'id', modulus => 3, nodes => '{local, n1, n2}');
    INSERT INTO x (id, b, d) SELECT i, 'b' || i, 'd' FROM generate_series(1, 90) AS i;
    CREATE TABLE deep (id bigint, day date, note text, PRIMARY KEY (id, day));
    SELECT shard_create_parent('deep', '{\"method\": \"range\", \"key\": \"day\", \"bounds\": [\"2026-01-01\", \"2026-02-01\"],
        \"partitions\": {\"method\": \"hash\", \"key\": \"id\", \"modulus\": 2, \"nodes\": [\"local\", \"n1\"]}}');
    INSERT INTO deep SELECT i, '2026-01-05', 'n' FROM generate_series(1, 20) AS i;
    CREATE TABLE flat (id bigint PRIMARY KEY, day date, a int, note text, m mood);
    SELECT shard_create_parent('flat', 'hash', 'id', modulus => 2);
    INSERT INTO flat SELECT i, '2026-01-05', i, 'n' FROM generate_series(1, 20) AS i;
    CREATE TABLE other (id bigint, a int)";

/// What a command is, and the words of its refusal's hint.
const NODES_FIRST: &str = "shard_run_on_nodes";
const LOCAL_FIRST: &str = "shard_rebalance('shop.x', nodes => '{local}')";

const REFUSED: &[(&str, &str)] = &[
    // Columns.
    ("ALTER TABLE x ADD COLUMN more int DEFAULT 7", NODES_FIRST),
    ("ALTER TABLE x DROP COLUMN b", NODES_FIRST),
    ("ALTER TABLE x RENAME COLUMN b TO bb", NODES_FIRST),
    ("ALTER TABLE x DROP COLUMN b, ADD COLUMN b int", NODES_FIRST),
    ("ALTER TABLE x ALTER e TYPE bigint", NODES_FIRST),
    ("ALTER TABLE x ALTER b TYPE varchar(5)", NODES_FIRST),
    ("ALTER TABLE x ALTER b TYPE text COLLATE plain", NODES_FIRST),
    ("ALTER TABLE x ALTER b SET NOT NULL", NODES_FIRST),
    ("ALTER TABLE x ALTER a DROP NOT NULL", NODES_FIRST),
    ("ALTER TABLE x ALTER twice DROP EXPRESSION", NODES_FIRST),
    ("ALTER TABLE x ALTER b SET STORAGE EXTERNAL", NODES_FIRST),
    ("ALTER TABLE x ALTER b SET COMPRESSION pglz", NODES_FIRST),
    // Constraints and indexes.
    ("ALTER TABLE x ADD CHECK (a > 0)", NODES_FIRST),
    ("ALTER TABLE x ADD CHECK (a > 0) NOT VALID", NODES_FIRST),
    ("ALTER TABLE x DROP CONSTRAINT sane", NODES_FIRST),
    ("ALTER TABLE x RENAME CONSTRAINT sane TO saner", NODES_FIRST),
    ("CREATE INDEX ON x (b)", NODES_FIRST),
    ("CREATE INDEX ON ONLY x (b)", NODES_FIRST),
    ("DROP INDEX x_b", NODES_FIRST),
    ("ALTER INDEX x_b RENAME TO x_bb", NODES_FIRST),
    ("ALTER TABLE x REPLICA IDENTITY FULL", NODES_FIRST),
    ("ALTER TABLE x OWNER TO app", NODES_FIRST),
    // Names and schemas.
    ("ALTER TABLE x RENAME TO y", LOCAL_FIRST),
    ("ALTER TABLE x_0 RENAME TO y_0", LOCAL_FIRST),
    ("ALTER FOREIGN TABLE x_1 RENAME TO y_1", LOCAL_FIRST),
    ("ALTER INDEX x_0 RENAME TO y_0", LOCAL_FIRST),
    ("ALTER VIEW x RENAME COLUMN b TO bb", NODES_FIRST),
    ("ALTER MATERIALIZED VIEW x RENAME COLUMN b TO bb", NODES_FIRST),
    // The way to a node.
    ("ALTER SERVER n1 RENAME TO n9", "shard_drop_node('n1')"),
    ("ALTER FOREIGN TABLE shardkeeper_nodes.n1 RENAME TO n9", "shard_drop_node('n1')"),
    ("ALTER FOREIGN TABLE shardkeeper_nodes.n1 SET SCHEMA public", "shard_drop_node('n1')"),
    ("ALTER SCHEMA shardkeeper_nodes RENAME TO others", "keeps its name"),
    ("ALTER TABLE x SET SCHEMA public", LOCAL_FIRST),
    ("ALTER TABLE x_0 SET SCHEMA public", LOCAL_FIRST),
    ("ALTER SCHEMA shop RENAME TO store", "nodes => '{local}'"),
    ("ALTER TABLE flat SET SCHEMA public", "shard_release_parent('shop.flat')"),
    ("ALTER TABLE flat_0 SET SCHEMA public", "shard_release_parent('shop.flat')"),
    ("ALTER TABLE flat RENAME COLUMN id TO key", "shard_adopt_parent('shop.flat')"),
    // Types of columns.
    ("ALTER TYPE mood ADD VALUE 'calm'", NODES_FIRST),
    ("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'", NODES_FIRST),
    ("ALTER TYPE mood RENAME TO feeling", NODES_FIRST),
    ("ALTER TYPE mood SET SCHEMA shop", NODES_FIRST),
    ("ALTER TYPE pair RENAME ATTRIBUTE n TO number", NODES_FIRST),
    ("ALTER DOMAIN code ADD CONSTRAINT short CHECK (length(VALUE) < 9)", NODES_FIRST),
    ("ALTER DOMAIN code SET NOT NULL", NODES_FIRST),
    ("ALTER DOMAIN code RENAME TO codes", NODES_FIRST),
    ("ALTER COLLATION plain RENAME TO simple", NODES_FIRST),
    ("DROP DOMAIN code CASCADE", NODES_FIRST),
    // Partitions, also below another.
    ("ALTER FOREIGN TABLE x_1 ADD CHECK (a > 0)", NODES_FIRST),
    ("ALTER FOREIGN TABLE x_1 ALTER b SET NOT NULL", NODES_FIRST),
    ("ALTER FOREIGN TABLE x_1 OPTIONS (SET table_name 'x_2')", NODES_FIRST),
    ("ALTER TABLE deep_2026_01_01 ADD CHECK (id > 0)", NODES_FIRST),
    ("ALTER TABLE deep_2026_01_01 ALTER note SET NOT NULL", NODES_FIRST),
    ("CREATE INDEX ON deep_2026_01_01 (note)", NODES_FIRST),
    ("ALTER TABLE deep ADD COLUMN more int", NODES_FIRST),
    (
        "CREATE TABLE deep_more PARTITION OF deep FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
        "shard_add_partition('shop.deep'",
    ),
    (
        "CREATE TABLE made (LIKE deep); ALTER TABLE deep ATTACH PARTITION made FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
        "shard_add_partition('shop.deep'",
    ),
    (
        "CREATE FOREIGN TABLE deep_more PARTITION OF deep FOR VALUES FROM ('2026-03-01') TO ('2026-04-01') SERVER n1",
        "shard_add_partition('shop.deep'",
    ),
    (
        "CREATE SCHEMA more CREATE TABLE deep_more PARTITION OF shop.deep FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
        "shard_add_partition('shop.deep'",
    ),
    // Triggers that Postgres would fail every insert for.
    (
        "CREATE TRIGGER t AFTER INSERT ON x REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION counted()",
        "FOR EACH ROW",
    ),
    (
        "CREATE TRIGGER t AFTER UPDATE ON deep REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION counted()",
        "FOR EACH ROW",
    ),
];

const ALLOWED: &[&str] = &[
    "ALTER TABLE x ALTER b SET DEFAULT 'none'",
    "ALTER TABLE x ALTER b DROP DEFAULT",
    "ALTER TABLE x ALTER a SET STATISTICS 200",
    "ALTER TABLE x ALTER a SET (n_distinct = 10)",
    "ALTER TABLE x ALTER id ADD GENERATED BY DEFAULT AS IDENTITY (START 1000)",
    "ALTER TABLE x ALTER id DROP IDENTITY",
    "ALTER DOMAIN code SET DEFAULT 'none'",
    "COMMENT ON TABLE x IS 'commented'",
    "COMMENT ON COLUMN x.b IS 'commented'",
    "GRANT SELECT ON x TO app",
    "REVOKE SELECT ON x FROM app",
    "CREATE STATISTICS x_ab ON a, b FROM x",
    "ALTER STATISTICS x_ab SET STATISTICS 50",
    "DROP STATISTICS x_ab",
    "CREATE VIEW seen AS SELECT id, b FROM x",
    "CREATE OR REPLACE VIEW seen AS SELECT id, b, a FROM x",
    "DROP VIEW seen",
    "CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM x",
    "DROP MATERIALIZED VIEW kept",
    "CREATE TRIGGER noted BEFORE INSERT ON x FOR EACH ROW EXECUTE FUNCTION noted()",
    "ALTER TABLE x DISABLE TRIGGER noted",
    "ALTER TRIGGER noted ON x RENAME TO written",
    "DROP TRIGGER written ON x",
    "CREATE TRIGGER counted AFTER INSERT ON x FOR EACH STATEMENT EXECUTE FUNCTION counted()",
    "ALTER TABLE x ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY mine ON x FOR SELECT USING (a > 0)",
    "DROP POLICY mine ON x",
    "ALTER TABLE x DISABLE ROW LEVEL SECURITY",
    "CREATE RULE nothing AS ON DELETE TO x WHERE OLD.id < 0 DO INSTEAD NOTHING",
    "DROP RULE nothing ON x",
    "CREATE TABLE copied (LIKE x INCLUDING ALL)",
    "DROP TABLE copied",
    "ALTER TABLE x_0 SET (fillfactor = 90)",
    "CREATE INDEX own ON x_0 (a)",
    "DROP INDEX own",
    "ALTER TABLE x_0 ADD CONSTRAINT own CHECK (a > -200)",
    "ALTER TABLE x_0 DROP CONSTRAINT own",
    "ANALYZE x",
    "REINDEX TABLE x_0",
    "TRUNCATE x",
    "ALTER TABLE other ADD COLUMN more int",
    "ALTER TABLE other RENAME TO another",
    "DROP TABLE another",
    "CREATE TYPE free AS ENUM ('a')",
    "ALTER TYPE free ADD VALUE 'b'",
    "DROP TYPE free",
    // Where no node has anything of it.
    "ALTER TABLE flat ADD COLUMN more int DEFAULT 7",
    "ALTER TABLE flat DROP COLUMN more",
    "ALTER TABLE flat RENAME COLUMN note TO notes",
    "ALTER TABLE flat ALTER a TYPE bigint",
    "ALTER TABLE flat ALTER notes SET NOT NULL",
    "ALTER TABLE flat ADD CONSTRAINT positive CHECK (a > 0)",
    "CREATE INDEX flat_a ON flat (a)",
    "CREATE INDEX flat_day ON flat (day)",
    "DROP INDEX flat_day",
    "CREATE TRIGGER counted AFTER INSERT ON flat REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION counted()",
    "DROP TRIGGER counted ON flat",
    "ALTER TABLE flat RENAME TO level",
    "ALTER TABLE level RENAME TO flat",
    "ALTER TABLE flat_1 SET (fillfactor = 80)",
];

/// Everything that users made on a server, as text.
const PICTURE: &str = "
    SELECT concat_ws(' ', n.nspname, c.relname, c.relkind, c.relreplident, c.relispartition, pg_get_userbyid(c.relowner),
        pg_get_expr(c.relpartbound, c.oid), (SELECT ftoptions::text FROM pg_foreign_table WHERE ftrelid = c.oid),
        (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attcollation::regcollation, attnotnull, attgenerated,
            attstorage, attcompression), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0),
        (SELECT string_agg(conname || ' ' || pg_get_constraintdef(k.oid), ', ' ORDER BY conname) FROM pg_constraint k WHERE conrelid = c.oid),
        (SELECT string_agg(tgname, ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal),
        CASE WHEN c.relkind IN ('i', 'I') THEN pg_get_indexdef(c.oid) END)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^(pg_|information_schema|shardkeeper)'
    UNION ALL
    SELECT concat_ws(' ', n.nspname, t.typname, t.typnotnull, (SELECT string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid),
        (SELECT string_agg(pg_get_constraintdef(k.oid), ',') FROM pg_constraint k WHERE contypid = t.oid))
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname !~ '^(pg_|information_schema|shardkeeper)'
    UNION ALL
    SELECT 'collation ' || collname FROM pg_collation WHERE collnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'server ' || srvname FROM pg_foreign_server
    ORDER BY 1";

/// What a parent's tables have in common on all servers.
const SHAPE: &str = "
    SELECT concat_ws(' ', attname, format_type(atttypid, atttypmod), attcollation::regcollation, attnotnull, attgenerated) FROM pg_attribute
    WHERE attrelid = 'shop.x'::regclass AND attnum > 0
    UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'shop.x'::regclass AND contype = 'c'
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'shop.x'::regclass AND NOT indisunique
    UNION ALL SELECT enumlabel FROM pg_enum WHERE enumtypid = 'mood'::regtype ORDER BY 1";

/// Runs an operation to its end; a group has dropped what it replaced by itself.
fn finish(client: &mut Client, call: &str) -> Result<()> {
    let id: i64 = client.query_one(&format!("SELECT {call}"), &[])?.get(0);
    client.query_one("SELECT shard_wait($1)", &[&id]).with_context(|| call.to_owned())?;
    if !call.starts_with("shard_rebalance") {
        client.query_one("SELECT shard_finish($1)", &[&id])?;
    }
    Ok(())
}

struct Scene {
    cluster: Cluster,
    client: Client,
    nodes: Vec<Client>,
}

fn scene() -> Result<Scene> {
    let cluster = movement::joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(TYPES)?;
    let mut nodes = Vec::new();
    for node in cluster.nodes() {
        node.run(TYPES)?;
        node.run("ALTER TYPE mood OWNER TO app; ALTER DOMAIN code OWNER TO app")?;
        nodes.push(node.client()?);
    }
    client.batch_execute(TABLES)?;
    Ok(Scene { cluster, client, nodes })
}

impl Scene {
    fn pictures(&mut self) -> Result<Vec<Vec<String>>> {
        let here = column(&mut self.client, PICTURE)?;
        let there = self.nodes.iter_mut().map(|node| column(node, PICTURE));
        std::iter::once(Ok(here)).chain(there).collect()
    }

    fn agree(&mut self) -> Result<()> {
        let here = column(&mut self.client, SHAPE)?;
        for node in &mut self.nodes {
            let there = column(node, SHAPE)?;
            ensure!(here == there, "{here:#?}\nbut there {there:#?}");
        }
        Ok(())
    }
}

#[test]
fn commands_that_would_make_servers_disagree_are_refused_and_leave_nothing() -> Result<()> {
    let mut scene = scene()?;
    let before = scene.pictures()?;
    let mut wrong = Vec::new();
    for (command, hint) in REFUSED {
        match scene.client.batch_execute(&format!("BEGIN; {command}; COMMIT")) {
            Ok(()) => wrong.push(format!("{command} was accepted")),
            Err(error) => {
                let told = error.as_db_error().with_context(|| (*command).to_owned())?;
                if told.code().code() != "0A000" || !told.hint().unwrap_or_default().contains(hint) {
                    wrong.push(format!("{command}: {told:?}"));
                }
                let joined = told.message().split_once(" cannot become a partition of managed table ");
                if joined.is_some_and(|(what, table)| table.starts_with(what)) {
                    wrong.push(format!("{command}: {}", told.message()));
                }
                scene.client.batch_execute("ROLLBACK")?;
            }
        }
    }
    ensure!(scene.pictures()? == before, "something is left of {wrong:#?}");
    for command in ALLOWED {
        if let Err(error) = scene.client.batch_execute(command) {
            wrong.push(format!("{command}: {:?}", error.as_db_error()));
        }
        scene.agree().with_context(|| (*command).to_owned())?;
        scene.client.batch_execute("INSERT INTO x (id, b) SELECT coalesce(max(id), 0) + 1, 'b' FROM x")?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Indexes that came and went are those of leaves to come, wherever these are.
    finish(&mut scene.client, "shard_move_partition('flat_0', 'n1')")?;
    let there = column(
        &mut scene.nodes[0],
        "SELECT a.attname FROM pg_index x JOIN pg_attribute a ON a.attrelid = x.indexrelid WHERE x.indrelid = 'shop.flat_0'::regclass ORDER BY 1",
    )?;
    assert_eq!(there, ["a", "id"]);
    Ok(())
}

#[test]
fn what_a_refusal_names_works() -> Result<()> {
    let mut scene = scene()?;
    // On the nodes first, then here.
    for command in [
        "ALTER TABLE shop.x ADD COLUMN more int DEFAULT 7",
        "CREATE INDEX x_more ON shop.x (more)",
        "ALTER TYPE public.mood ADD VALUE 'calm'",
        "ALTER TABLE shop.x ADD CONSTRAINT sane_too CHECK (more > 0)",
        "ALTER TABLE shop.x ALTER b SET NOT NULL",
        "DROP INDEX shop.x_b",
    ] {
        let error = refused(&mut scene.client, command)?;
        let hint = error.hint().unwrap_or_default();
        let call = hint.split("SELECT ").nth(1).and_then(|rest| rest.split("; ").next()).context(hint.to_owned())?;
        let answers = rows(&mut scene.client, &format!("SELECT {}", call.replace('…', command)))?;
        ensure!(answers.len() == 2 && answers.iter().all(|row| row[1] == "t"), "{command}: {answers:?}");
        scene.client.batch_execute(&format!(
            "SET shardkeeper.allow_manual_ddl = on; {command}; RESET shardkeeper.allow_manual_ddl"
        ))?;
        scene.agree().with_context(|| command.to_owned())?;
    }
    scene.client.batch_execute("INSERT INTO x (id, b, m) SELECT i, 'b', 'calm' FROM generate_series(101, 120) AS i")?;
    // The new index goes with a leaf, the dropped one does not.
    finish(&mut scene.client, "shard_move_partition('x_0', 'n2')")?;
    scene.agree()?;

    // All partitions here, a new name, and out again.
    let error = refused(&mut scene.client, "ALTER TABLE x RENAME TO y")?;
    ensure!(error.hint().unwrap_or_default().contains(LOCAL_FIRST), "{error:?}");
    finish(&mut scene.client, LOCAL_FIRST)?;
    let told = "SELECT count(*) = 0 FROM shardkeeper.mirrors WHERE parent = 'shop.x'::regclass";
    eventually("its mirrors are gone", PATIENCE, || scene.cluster.coordinator.value(told))?;
    scene.client.batch_execute("ALTER TABLE x RENAME TO y; ALTER TABLE y RENAME COLUMN b TO bb")?;
    finish(&mut scene.client, "shard_move_partition('x_1', 'n1')")?;
    assert_eq!(column(&mut scene.client, "SELECT count(*) FROM y")?, ["110"]);
    assert!(scene.cluster.node(1).has("shop.y")?);
    Ok(())
}

//! Ordinary roles: what they can do with parents, on nodes too, and what they cannot.
use anyhow::{Context, Result};
use pg_test::sql::{code, column, refused, rows};
use pg_test::{Cluster, Objects, Options, Snapshot};
use postgres::Client;

/// The owner is the role `app` here and there; `reader` and `writer` have user mappings of their own; `stranger` has nothing.
const PASSWORD: &str = "Correct-Horse-7";

struct Setting {
    cluster: Cluster,
    owner: Client,
}

fn setting() -> Result<Setting> {
    let cluster = Cluster::with(Options {
        nodes: 2,
        coordinator_settings: vec![("log_statement", "none"), ("log_error_verbosity", "verbose")],
        ..Options::default()
    })?;
    cluster.add_nodes()?;
    let roles = ["reader", "writer"];
    for server in cluster.servers() {
        for role in roles {
            server.run(&format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'"))?;
        }
    }
    let coordinator = &cluster.coordinator;
    coordinator.run(&format!("CREATE ROLE stranger LOGIN PASSWORD '{PASSWORD}'"))?;
    for node in ["n1", "n2"] {
        coordinator.run(&format!("SELECT shard_grant_node('{node}', 'app', 'app', 'app')"))?;
        for role in roles {
            coordinator.run(&format!("SELECT shard_grant_node('{node}', '{role}', '{role}', '{PASSWORD}')"))?;
        }
    }
    let owner = coordinator.client_as("app", "app", "app")?;
    Ok(Setting { cluster, owner })
}

impl Setting {
    fn client(&self, role: &str) -> Result<Client> {
        self.cluster.coordinator.client_as(role, PASSWORD, "app")
    }
}

const PEOPLE: &str = "
    CREATE TABLE people (id int PRIMARY KEY, name text, salary int);
    GRANT SELECT (id, name) ON people TO reader;
    GRANT SELECT, INSERT, UPDATE, DELETE ON people TO writer;
    SELECT shard_create_parent('people', 'hash', 'id', modulus => 3, nodes => '{n1, n2, local}');
    INSERT INTO people SELECT i, 'person ' || i, 1000 + i FROM generate_series(1, 90) i";

#[test]
fn an_owner_without_superuser_makes_and_changes_its_own_parent() -> Result<()> {
    let Setting { cluster, mut owner } = setting()?;
    owner.batch_execute(PEOPLE)?;
    let node = &cluster.node(1);
    assert_eq!(
        column(&mut node.client()?, "SELECT DISTINCT relowner::regrole FROM pg_class WHERE relname LIKE 'people%'")?,
        ["app"]
    );
    owner.batch_execute(
        r#"CREATE TABLE orders (id int, region text, PRIMARY KEY (id, region));
           SELECT shard_create_parent('orders', '{"method": "list", "key": "region", "nodes": ["n1", "n2", "local"],
               "values": {"us": ["US"], "eu": ["EU"], "cn": ["CN"]}}');
           INSERT INTO orders SELECT i, r FROM generate_series(1, 10) i, unnest('{US,EU,CN}'::text[]) r;
           SELECT shard_add_partition('orders', '{"in": ["JP"], "label": "jp"}', 'n2');
           INSERT INTO orders SELECT i, 'JP' FROM generate_series(1, 10) i;
           SELECT shard_detach_partition('orders_us');
           SELECT shard_drop_partition('orders_eu');
           SELECT shard_drop_partition('orders_cn')"#,
    )?;
    assert_eq!(rows(&mut owner, "SELECT region, count(*) FROM orders GROUP BY 1")?, [["JP", "10"]]);
    assert_eq!(
        rows(&mut owner, "SELECT partition, node FROM shard_locate('orders', '{\"region\": \"JP\"}')")?,
        [["orders_jp", "n2"]]
    );
    assert!(column(&mut owner, "SELECT shard_tree('orders')")?[0].contains("orders_jp"));
    assert_eq!(column(&mut owner, "SELECT parent FROM shard_parents ORDER BY parent::text")?, ["orders", "people"]);
    assert_eq!(
        column(&mut owner, "SELECT finding FROM shard_check() WHERE severity NOT IN ('ok', 'info', 'notice')")?,
        [""; 0]
    );
    owner.batch_execute("SELECT shard_release_parent('people'); SELECT shard_drop_parent('orders')")?;
    assert_eq!(column(&mut owner, "SELECT parent FROM shard_parents")?, [""; 0]);
    assert_eq!(column(&mut owner, "SELECT count(*) FROM people")?, ["90"]);
    Ok(())
}

#[test]
fn a_role_uses_a_parent_as_far_as_it_was_granted_before() -> Result<()> {
    let mut setting = setting()?;
    setting.owner.batch_execute(PEOPLE)?;
    let mut writer = setting.client("writer")?;
    writer.batch_execute(
        "INSERT INTO people SELECT i, 'new ' || i, 1 FROM generate_series(101, 190) i;
         UPDATE people SET salary = 2 WHERE id > 100;
         DELETE FROM people WHERE id > 150",
    )?;
    assert_eq!(
        rows(&mut writer, "SELECT count(*), sum(salary) FILTER (WHERE id > 100) FROM people")?,
        [["140", "100"]]
    );
    assert_eq!(code(&mut writer, "TRUNCATE people")?, "42501");
    assert_eq!(code(&mut writer, "SELECT shard_drop_parent('people')")?, "42501");
    let mut reader = setting.client("reader")?;
    assert_eq!(column(&mut reader, "SELECT count(name) FROM people")?, ["140"]);
    for refused in [
        "SELECT salary FROM people",
        "SELECT * FROM people",
        "INSERT INTO people VALUES (1, '', 1)",
        "DELETE FROM people",
    ] {
        assert_eq!(code(&mut reader, refused)?, "42501", "{refused}");
    }
    // On the nodes the same rights hold, for the mapped roles, directly.
    let node = setting.cluster.node(1);
    let mut there = node.client_as("writer", PASSWORD, "app")?;
    assert!(there.execute("UPDATE people SET salary = 3", &[])? > 0);
    let mut there = node.client_as("reader", PASSWORD, "app")?;
    assert!(!column(&mut there, "SELECT name FROM people")?.is_empty());
    assert_eq!(code(&mut there, "SELECT salary FROM people")?, "42501");
    // Partitions that are made later have them too.
    setting.owner.batch_execute(
        r#"CREATE TABLE orders (id int, region text);
           GRANT SELECT, INSERT ON orders TO writer;
           SELECT shard_create_parent('orders', '{"method": "list", "key": "region", "values": {"us": {"in": ["US"], "nodes": ["n1"]}}}');
           SELECT shard_add_partition('orders', '{"in": ["JP"]}', 'n1');
           SELECT shard_add_partition('orders', '{"in": ["CN"]}', 'n2');
           SELECT shard_add_partition('orders', '{"in": ["BR"]}', 'local')"#,
    )?;
    writer.batch_execute(
        "INSERT INTO orders SELECT i, r FROM generate_series(1, 5) i, unnest('{US,JP,CN,BR}'::text[]) r",
    )?;
    assert_eq!(column(&mut writer, "SELECT count(*) FROM orders")?, ["20"]);
    Ok(())
}

#[test]
fn what_is_granted_and_revoked_afterwards_counts_on_the_nodes_too() -> Result<()> {
    let mut setting = setting()?;
    setting.owner.batch_execute(&PEOPLE.replace("GRANT", "-- GRANT"))?;
    let mut writer = setting.client("writer")?;
    let mut reader = setting.client("reader")?;
    assert_eq!(code(&mut writer, "INSERT INTO people VALUES (200, 'x', 1)")?, "42501");
    setting.owner.batch_execute(
        "BEGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON people TO writer; GRANT SELECT (id, name) ON people TO reader; COMMIT",
    )?;
    writer.batch_execute(
        "INSERT INTO people SELECT i, 'new', 1 FROM generate_series(101, 190) i; UPDATE people SET salary = 2 WHERE id > 100;
         DELETE FROM people WHERE id > 150",
    )?;
    assert_eq!(column(&mut writer, "SELECT count(*) FROM people")?, ["140"]);
    assert_eq!(column(&mut reader, "SELECT count(name) FROM people")?, ["140"]);
    assert_eq!(code(&mut reader, "SELECT salary FROM people")?, "42501");
    setting.owner.batch_execute("REVOKE ALL ON people FROM writer")?;
    setting.owner.batch_execute("BEGIN; REVOKE ALL ON people FROM reader; ROLLBACK")?;
    assert_eq!(code(&mut writer, "SELECT count(*) FROM people")?, "42501");
    let mut there = setting.cluster.node(1).client_as("writer", PASSWORD, "app")?;
    assert_eq!(code(&mut there, "SELECT count(*) FROM people")?, "42501");
    assert_eq!(column(&mut reader, "SELECT count(name) FROM people")?, ["140"]);
    Ok(())
}

#[test]
fn a_role_can_do_no_more_on_a_node_than_its_mapped_role_may() -> Result<()> {
    let mut setting = setting()?;
    setting.owner.batch_execute(PEOPLE)?;
    setting.cluster.node(1).run("CREATE TABLE secrets AS SELECT 7 AS number")?;
    let before = Snapshot::take(&setting.cluster)?;
    let mut writer = setting.client("writer")?;
    for command in [
        "SELECT number FROM public.secrets",
        "DROP TABLE public.people",
        "ALTER TABLE public.people_0 ADD COLUMN mine int",
        "ALTER TABLE public.people DETACH PARTITION public.people_0",
        "SELECT shardkeeper.discard('public.people', '0')",
        "CREATE SCHEMA mine",
        "SET ROLE app",
        "SET SESSION AUTHORIZATION app",
        "ALTER FUNCTION shardkeeper.execute() RENAME TO execute_2",
        "CREATE OR REPLACE FUNCTION shardkeeper.version() RETURNS integer LANGUAGE sql AS 'SELECT 9'",
        "DROP SCHEMA shardkeeper CASCADE",
        "TRUNCATE shardkeeper.journal",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "GRANT SELECT ON public.people TO PUBLIC; SELECT 1/(SELECT count(*) FROM information_schema.role_table_grants WHERE grantee = 'PUBLIC' AND table_name = 'people')",
    ] {
        let sql = format!("INSERT INTO shardkeeper_nodes.n1 (command) VALUES ($c${command}$c$)");
        let found = code(&mut writer, &sql)?;
        assert!(["42501", "22012"].contains(&&*found), "{command}: {found}");
    }
    before.is_unchanged(&setting.cluster)?;
    Ok(())
}

/// A membership is no command on the table, so rights fall behind: that is a matter of the parent's owner.
#[test]
fn a_grant_on_some_other_table_is_no_business_of_parents() -> Result<()> {
    let mut setting = setting()?;
    setting.owner.batch_execute(PEOPLE)?;
    setting.cluster.coordinator.run("GRANT CREATE ON SCHEMA public TO stranger; GRANT writer TO reader")?;
    let mut stranger = setting.client("stranger")?;
    stranger.batch_execute("CREATE TABLE mine (id int); GRANT SELECT ON mine TO reader")?;
    setting.cluster.node(1).stop()?;
    stranger.batch_execute("REVOKE SELECT ON mine FROM reader")?;
    setting.owner.batch_execute("CREATE TABLE other (id int); GRANT SELECT ON other TO reader")?;
    Ok(())
}

/// Whoever grants something in between has not the rights to make it good, and must not make it look so.
#[test]
fn what_a_node_missed_while_it_was_down_is_made_good_by_the_owner() -> Result<()> {
    let mut setting = setting()?;
    setting.owner.batch_execute(&PEOPLE.replace("GRANT SELECT (id, name)", "-- GRANT"))?;
    setting.cluster.coordinator.run("GRANT CREATE ON SCHEMA public TO writer")?;
    setting.cluster.node(1).stop()?;
    setting.owner.batch_execute("GRANT SELECT ON people TO reader")?;
    setting.cluster.node(1).start()?;
    let mut reader = setting.client("reader")?;
    assert_eq!(code(&mut reader, "SELECT count(*) FROM people")?, "42501");
    let stale =
        "SELECT count(*) FROM shard_check() WHERE object = 'public.people' AND node = 'n1' AND severity = 'warning'";
    assert_eq!(column(&mut setting.owner, stale)?, ["1"]);
    setting.client("writer")?.batch_execute("CREATE TABLE mine (id int); GRANT SELECT ON mine TO reader")?;
    assert_eq!(column(&mut setting.owner, stale)?, ["1"]);
    setting.owner.batch_execute("SELECT shard_sync_grants('people')")?;
    assert_eq!(column(&mut reader, "SELECT count(*) FROM people")?, ["90"]);
    assert_eq!(column(&mut setting.owner, stale)?, ["0"]);
    Ok(())
}

#[test]
fn a_superuser_makes_a_parent_that_its_owner_goes_on_with() -> Result<()> {
    let Setting { cluster, mut owner } = setting()?;
    owner.batch_execute("CREATE TABLE orders (id int, region text, PRIMARY KEY (id, region))")?;
    cluster.coordinator.run(
        r#"SELECT shard_create_parent('orders', '{"method": "list", "key": "region", "nodes": ["n1", "n2", "local"],
               "values": {"us": ["US"], "eu": ["EU"], "cn": ["CN"]}}')"#,
    )?;
    owner.batch_execute(
        r#"INSERT INTO orders SELECT i, r FROM generate_series(1, 10) i, unnest('{US,EU,CN}'::text[]) r;
           SELECT shard_add_partition('orders', '{"in": ["JP"]}', 'n2');
           SELECT shard_detach_partition('orders_us');
           SELECT shard_drop_partition('orders_cn')"#,
    )?;
    cluster.coordinator.run("SELECT shard_drop_partition('orders_eu')")?;
    owner.batch_execute("SELECT shard_drop_parent('orders')")?;
    assert_eq!(column(&mut owner, "SELECT count(*) FROM orders_us")?, ["10"]);
    Ok(())
}

/// The worker undoes and destroys with the rights of the role that did something, not of the one that says so.
#[test]
fn a_role_cannot_make_the_worker_act_for_another() -> Result<()> {
    let mut setting = setting()?;
    setting.owner.batch_execute(PEOPLE)?;
    setting.owner.batch_execute(
        r#"CREATE TABLE orders (id int, region text);
           SELECT shard_create_parent('orders', '{"method": "list", "key": "region", "values": {"us": {"in": ["US"], "nodes": ["n1"]}}}');
           INSERT INTO orders VALUES (1, 'US');
           SELECT shard_drop_partition('orders_us')"#,
    )?;
    let node = setting.cluster.node(1);
    pg_test::objects::settled(&setting.cluster, pg_test::PATIENCE)?;
    let mut writer = node.client_as("writer", PASSWORD, "app")?;
    // A row in the journal that pretends to be the owner's.
    let forged =
        "INSERT INTO shardkeeper.journal (coordinator, timeline, lsn, transaction, xid, role, command, inverse)
                  VALUES ('1/1', 1, '0/1', gen_random_uuid(), '3', 'app', '', 'DROP TABLE public.people CASCADE')";
    assert_eq!(code(&mut writer, forged)?, "42501");
    // What the owner dropped is neither seen, destroyed earlier, nor hidden from him.
    let trash = node.count("shardkeeper.trash")?;
    assert!(trash > 0);
    for attempt in [
        "UPDATE shardkeeper.trash SET keep = '0'",
        "UPDATE shardkeeper.trash SET role = 'writer'",
        "DELETE FROM shardkeeper.trash",
    ] {
        let changed = writer.execute(attempt, &[]).map_or(0, |count| count);
        assert_eq!(changed, 0, "{attempt}");
    }
    // A table of his own under that name, put into the trash as if it were the owner's newest.
    let planted = writer.batch_execute(
        "CREATE TABLE shardkeeper_trash.planted (id int);
         INSERT INTO shardkeeper.trash (relation, root, schema, name, role, dropped_at, keep)
         VALUES ('planted', 'planted', 'public', 'orders_us', 'app', now() + interval '1 day', '1 day')",
    );
    node.client_as("app", "app", "app")?
        .batch_execute("SELECT shardkeeper.restore('public', 'orders_us')")
        .with_context(|| format!("after {planted:?}"))?;
    assert_eq!(node.value::<i64>("SELECT count(*) FROM public.orders_us")?, 1);
    Ok(())
}

#[test]
fn a_role_without_rights_gets_nowhere() -> Result<()> {
    let mut setting = setting()?;
    setting.owner.batch_execute(PEOPLE)?;
    setting.owner.batch_execute("CREATE TABLE plain (id int)")?;
    let before = Snapshot::take(&setting.cluster)?;
    for role in ["stranger", "reader"] {
        let mut client = setting.client(role)?;
        for call in [
            "SELECT shard_drop_parent('people')",
            "SELECT shard_release_parent('people')",
            "SELECT shard_add_partition('people', '{\"modulus\": 3, \"remainder\": 0}')",
            "SELECT shard_detach_partition('people_0')",
            "SELECT shard_drop_partition('people_0')",
            "SELECT shard_create_parent('plain', 'hash', 'id', modulus => 2, nodes => '{n1, n2}')",
            "SELECT shard_create_parent('plain', 'hash', 'id', modulus => 2)",
            "SELECT * FROM shard_plan_parent('plain', '{\"method\": \"hash\", \"key\": \"id\", \"modulus\": 2}')",
            "SELECT shard_drop_node('n1')",
            "SELECT shard_alter_node('n1', port => 1)",
            "SELECT shard_grant_node('n1', 'stranger', 'app', 'app')",
            "SELECT shard_add_node('n9', '127.0.0.1')",
            "SELECT salary FROM people",
            "SELECT * FROM people_0",
            "DELETE FROM people",
            "DELETE FROM shardkeeper.parents",
            "SELECT * FROM shardkeeper.transactions",
            "SELECT shardkeeper.restore('public', 'people')",
        ] {
            assert_eq!(code(&mut client, call)?, "42501", "{role}: {call}");
        }
    }
    let mut stranger = setting.client("stranger")?;
    for call in [
        "INSERT INTO shardkeeper_nodes.n1 (command) VALUES ('SELECT 1')",
        "SELECT * FROM shardkeeper_nodes.n1",
        "SELECT * FROM people",
    ] {
        assert_eq!(code(&mut stranger, call)?, "42501", "{call}");
    }
    let answers = rows(&mut stranger, "SELECT node, ok FROM shard_run_on_nodes('SELECT 1')");
    assert!(answers.map_or(true, |rows| rows.iter().all(|row| row[1] == "f")));
    before.is_unchanged(&setting.cluster)
}

#[test]
fn a_role_without_a_way_to_a_node_is_told_so() -> Result<()> {
    let setting = setting()?;
    setting.cluster.coordinator.run("GRANT CREATE ON SCHEMA public TO stranger")?;
    let mut stranger = setting.client("stranger")?;
    stranger.batch_execute("CREATE TABLE mine (id int)")?;
    let error =
        refused(&mut stranger, "SELECT shard_create_parent('mine', 'hash', 'id', modulus => 2, nodes => '{n1, n2}')")?;
    println!("{error:?}");
    assert_eq!(error.code().code(), "42501");
    assert!(error.hint().is_some_and(|hint| hint.contains("shard_grant_node('n1', 'stranger'")), "{error:?}");
    stranger.batch_execute(
        "SELECT shard_create_parent('mine', 'hash', 'id', modulus => 2); INSERT INTO mine SELECT generate_series(1, 9)",
    )?;
    assert_eq!(column(&mut stranger, "SELECT count(*) FROM mine")?, ["9"]);
    Ok(())
}

#[test]
fn passwords_are_in_user_mappings_and_nowhere_else() -> Result<()> {
    let mut setting = setting()?;
    setting.owner.batch_execute(PEOPLE)?;
    let mut writer = setting.client("writer")?;
    let mut told = vec![];
    for (role, sql) in [
        ("writer", "SELECT * FROM people, shard_nodes"),
        ("writer", "SELECT shard_drop_parent('people')"),
        // Postgres shows everybody his own mapping there.
        ("stranger", "SELECT * FROM pg_user_mappings"),
        ("stranger", "SELECT * FROM shard_nodes"),
    ] {
        told.push(format!("{:?}", rows(&mut setting.client(role)?, sql).map_err(|error| format!("{error:?}"))));
    }
    setting.cluster.node(1).stop()?;
    told.push(format!("{:?}", refused(&mut writer, "SELECT * FROM people")?));
    told.push(format!("{:?}", rows(&mut setting.owner, "SELECT * FROM shard_check()")?));
    setting.cluster.node(1).start()?;
    setting
        .cluster
        .node(1)
        .run(&format!("SET log_statement = none; ALTER ROLE writer PASSWORD '{PASSWORD}-changed'"))?;
    let mut writer = setting.client("writer")?;
    told.push(format!("{:?}", refused(&mut writer, "SELECT * FROM people")?));
    told.push(format!("{:?}", rows(&mut setting.owner, "SELECT * FROM shard_check()")?));
    told.push(setting.cluster.coordinator.log());
    let activity = "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
    told.extend(column(&mut setting.cluster.coordinator.client()?, activity)?);
    let objects = Objects::of_all(&setting.cluster)?;
    let kept = objects.with(&[PASSWORD]);
    assert!(kept.iter().all(|line| line.contains(": mapping ")), "{kept:?}");
    for text in told {
        let line = text.lines().find(|line| line.contains(PASSWORD) && !line.contains("CREATE ROLE"));
        assert_eq!(line, None);
    }
    Ok(())
}

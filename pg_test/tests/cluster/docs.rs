//! The documentation is true: its examples run, and it leaves nothing out.
use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pg_test::docs::{Page, pages};
use pg_test::install::workspace;
use pg_test::sql::{column, rows};
use pg_test::{Cluster, Options};

/// With `SHARDKEEPER_WRITE_DOCS` in the environment, the page is corrected instead.
fn check(path: &Path) -> Result<()> {
    let page = Page::read(path)?;
    match std::env::var_os("SHARDKEEPER_WRITE_DOCS") {
        Some(_) => page.correct(),
        None => page.check(),
    }
}

#[test]
fn the_examples_of_the_readme() -> Result<()> {
    check(&workspace().join("README.md"))
}

#[test]
fn the_examples_of_the_tutorial() -> Result<()> {
    check(&workspace().join("docs/tutorial.md"))
}

#[test]
fn the_examples_of_the_reference() -> Result<()> {
    check(&workspace().join("docs/reference.md"))
}

#[test]
fn the_examples_of_all_other_pages() -> Result<()> {
    let own = ["README.md", "tutorial.md", "reference.md"];
    for path in pages()? {
        let is_own = own.iter().any(|name| path.ends_with(name));
        if !is_own && Page::read(&path)?.has_examples() {
            check(&path)?;
        }
    }
    Ok(())
}

/// The table of what is retried, what fails and what is refused names a test in each row, and it is there.
#[test]
fn each_row_about_errors_has_its_test() -> Result<()> {
    let page = std::fs::read_to_string(workspace().join("docs/operations.md"))?;
    let section = page.split_once("## What is retried, what fails, what is refused\n").context("the section")?.1;
    let rows =
        section.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    let mut count = 0;
    for row in rows {
        let test = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default().trim();
        let place = test.trim_matches('`').split_once("::").with_context(|| format!("no test in {row}"))?;
        let file = match place.0 {
            "core" => workspace().join("core/tests/operation.rs"),
            name => workspace().join(format!("pg_test/tests/cluster/{name}.rs")),
        };
        let source = std::fs::read_to_string(&file).with_context(|| row.to_string())?;
        ensure!(source.contains(&format!("#[test]\nfn {}()", place.1)), "{row}: there is no such test");
        count += 1;
    }
    ensure!(count > 20, "{count} rows");
    Ok(())
}

#[test]
fn an_example_that_is_not_true_is_found() -> Result<()> {
    let page = |text: &str| -> Result<()> {
        let path = std::env::temp_dir().join(format!("shardkeeper-docs-{}.md", std::process::id()));
        std::fs::write(&path, text)?;
        let page = Page::read(&path);
        std::fs::remove_file(&path)?;
        page?.check()
    };
    page("```sql\nSELECT 1 AS a, 'x' AS b;\n```\n```text\n a | b\n---+-\n 1 | …\n(1 row)\n```\n")?;
    for wrong in [
        "```sql\nSELECT 1 AS a;\n```\n```text\n a\n---\n 2\n(1 row)\n```\n",
        "```sql\nSELECT 1 AS a;\nSELECT 1/0;\n```\n```text\n a\n---\n 1\n(1 row)\n```\n",
        "```sql\nSELECT 1/0;\n```\n",
        "```sequel\nSELECT 1;\n```\n",
    ] {
        assert!(page(wrong).is_err(), "{wrong}");
    }
    Ok(())
}

/// A heading or a row of a table in the reference that is about `name`.
fn has_entry(reference: &str, name: &str) -> bool {
    let (heading, row) = (format!("### `{name}`"), format!("| `{name}`"));
    reference.lines().any(|line| line == heading || line.starts_with(&row))
}

const OURS: &str =
    "FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
                    AND e.extname = 'shardkeeper' AND d.deptype = 'e'";

#[test]
fn everything_is_in_the_reference_and_has_a_comment() -> Result<()> {
    let cluster = Cluster::with(Options { nodes: 1, ..Options::default() })?;
    let mut client = cluster.coordinator.client()?;
    cluster.add_nodes()?;
    let reference = std::fs::read_to_string(workspace().join("docs/reference.md"))?;

    let functions = format!(
        "SELECT p.proname, coalesce(array_to_string(p.proargnames, ','), ''), p.oid::regprocedure,
                obj_description(p.oid, 'pg_proc') IS NOT NULL
         {OURS} JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
         WHERE p.prokind IN ('f', 'p') AND p.prorettype NOT IN ('trigger'::regtype, 'language_handler'::regtype) ORDER BY 1"
    );
    let functions = rows(&mut client, &functions)?;
    ensure!(functions.len() > 15, "{functions:?}");
    for function in &functions {
        let [name, arguments, signature, commented] = &function[..] else { continue };
        assert_eq!(commented, "t", "{signature} has no comment");
        if !name.starts_with("shard_") {
            continue;
        }
        let entry = reference.split_once(&format!("### `{name}`\n"));
        let (_, entry) = entry.with_context(|| format!("{name} has no entry in docs/reference.md"))?;
        let entry = entry.split("\n### ").next().unwrap_or_default();
        for argument in arguments.split(',').filter(|argument| !argument.is_empty()) {
            assert!(entry.contains(argument), "the entry of {name} does not know {argument}");
        }
        assert!(entry.contains("*Locks:*"), "the entry of {name} does not say which locks it takes");
        assert!(entry.contains("data"), "the entry of {name} does not say whether data moves");
    }
    let relations = format!(
        "SELECT c.relname, c.oid::regclass, obj_description(c.oid, 'pg_class') IS NOT NULL
         {OURS} JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
         WHERE c.relkind IN ('r', 'v', 'p', 'm', 'f') ORDER BY 1"
    );
    let relations = rows(&mut client, &relations)?;
    ensure!(relations.len() > 7, "{relations:?}");
    for relation in &relations {
        let [name, qualified, commented] = &relation[..] else { continue };
        assert_eq!(commented, "t", "{qualified} has no comment");
        assert!(
            has_entry(&reference, name) || has_entry(&reference, qualified),
            "{qualified} has no entry in docs/reference.md"
        );
    }
    let settings = column(&mut client, "SELECT name FROM pg_settings WHERE name LIKE 'shardkeeper.%'")?;
    ensure!(!settings.is_empty(), "no settings");
    for setting in settings {
        assert!(has_entry(&reference, &setting), "the setting {setting} has no entry in docs/reference.md");
    }
    // What is made on a node is told there too.
    let mut node = cluster.node(1).client()?;
    let silent = "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'shardkeeper'::regnamespace
                  AND c.relkind IN ('r', 'v') AND obj_description(c.oid, 'pg_class') IS NULL
                  UNION ALL
                  SELECT p.oid::regproc::text FROM pg_proc p WHERE p.pronamespace = 'shardkeeper'::regnamespace
                  AND obj_description(p.oid, 'pg_proc') IS NULL";
    assert_eq!(column(&mut node, silent)?, Vec::<String>::new(), "these have no comment on a node");
    Ok(())
}

#[test]
fn every_field_of_a_spec_is_in_the_reference() -> Result<()> {
    let cluster = Cluster::with(Options { nodes: 0, ..Options::default() })?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute("CREATE TABLE t (id int)")?;
    let reference = std::fs::read_to_string(workspace().join("docs/reference.md"))?;
    let mut fields = BTreeSet::new();
    // An unknown field is told which there are.
    let specs = [
        r#"{"method": "range", "?": 1}"#,
        r#"{"method": "list", "?": 1}"#,
        r#"{"method": "hash", "?": 1}"#,
        r#"{"method": "list", "key": "id", "values": {"a": {"?": 1}}}"#,
        r#"{"method": "range", "key": "id", "bounds": {"a": {"?": 1}}}"#,
        r#"{"method": "list", "key": "id", "values": {"a": [1]}, "default": {"?": 1}}"#,
    ];
    for spec in specs {
        let error = pg_test::sql::refused(&mut client, &format!("SELECT shard_create_parent('t', '{spec}')"))?;
        let detail = error.detail().with_context(|| error.message().to_owned())?;
        let list = detail.rsplit(" are ").next().unwrap_or_default().trim_end_matches('.');
        fields.extend(list.replace(" and ", ", ").split(", ").map(str::to_owned));
    }
    ensure!(fields.len() > 15, "{fields:?}");
    for field in fields {
        assert!(has_entry(&reference, &field), "the field {field} has no entry in docs/reference.md");
    }
    Ok(())
}

/// Strong locks on tables of the hierarchies that the session holds, besides those on what it made.
const LOCKS: &str = "SELECT c.relname || ' ' || l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
    WHERE l.pid = pg_backend_pid() AND l.mode <> 'AccessShareLock' AND l.relation::text = ANY (string_to_array(current_setting('our.tables'), ' '))
    GROUP BY c.relname, l.mode ORDER BY 1";

#[test]
fn calls_take_the_locks_that_the_reference_names() -> Result<()> {
    let cluster = Cluster::with(Options { nodes: 2, ..Options::default() })?;
    cluster.add_nodes()?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(
        r#"CREATE TABLE o (at date, region text);
           SELECT shard_create_parent('o', '{
               "method": "range", "key": "at", "interval": "1 year", "start": "2025-01-01", "end": "2026-01-01", "default": {"partitions": false},
               "partitions": {"method": "list", "key": "region", "nodes": ["n1", "n2"],
                              "values": {"us": ["US"], "eu": ["EU"]}, "default": {"nodes": ["local"]}}}');
           CREATE TABLE p (id int);
           CREATE TABLE l (id int PRIMARY KEY);
           SELECT shard_create_parent('l', 'range', 'id', step => '10', premake => 1);
           SELECT set_config('our.tables', string_agg(oid::text, ' '), false) FROM pg_class WHERE relname ~ '^[olp](_|$)' AND relkind <> 'i'"#,
    )?;
    let exclusive = |table: &str| format!("{table} AccessExclusiveLock");
    let changes = |table: &str| format!("{table} ShareUpdateExclusiveLock");
    let cases: &[(&str, Vec<String>)] = &[
        ("shard_create_parent('p', 'hash', 'id', modulus => 2, nodes => '{n1}')", vec![]),
        (
            r#"shard_add_partition('o', '{"from": "2026-01-01", "to": "2027-01-01"}')"#,
            vec![exclusive("o_default"), changes("o")],
        ),
        (
            r#"shard_add_partition('o_2025', '{"in": ["JP"]}')"#,
            vec![exclusive("o_2025_default"), changes("o"), changes("o_2025")],
        ),
        (
            r#"shard_add_partition('l', '{"from": 100, "to": 200}', 'n1')"#,
            vec![exclusive("l"), exclusive("l_0"), exclusive("l_10")],
        ),
        (
            "shard_detach_partition('o_2025_us')",
            vec![exclusive("o_2025"), exclusive("o_2025_default"), exclusive("o_2025_us"), changes("o")],
        ),
        ("shard_release_parent('o')", vec![changes("o")]),
        ("shard_sync_grants('o')", vec![]),
        ("shard_check()", vec![]),
        ("shard_tree('o')", vec![]),
        ("shard_partition_sizes('o')", vec![]),
        (r#"shard_locate('o', '{"at": "2025-05-05", "region": "US"}')"#, vec![]),
        (r#"shard_plan_parent('p', '{"method": "hash", "key": "id", "modulus": 2}')"#, vec![]),
    ];
    for (call, expected) in cases {
        client.batch_execute(&format!("BEGIN; SELECT * FROM {call}"))?;
        let mut held = column(&mut client, LOCKS)?;
        held.retain(|lock| !held_stronger(lock, expected));
        client.batch_execute("ROLLBACK")?;
        let mut expected = expected.clone();
        expected.sort();
        assert_eq!(held, expected, "{call}");
    }
    Ok(())
}

/// A weaker lock on a table that is also locked exclusively.
fn held_stronger(lock: &str, expected: &[String]) -> bool {
    let (table, mode) = lock.split_once(' ').unwrap_or((lock, ""));
    mode != "AccessExclusiveLock" && expected.contains(&format!("{table} AccessExclusiveLock"))
}

/// As the usual renderers make the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    for path in pages()? {
        let text = std::fs::read_to_string(&path)?;
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            ensure!(target.exists(), "{}: {link}", path.display());
            if !place.is_empty() {
                let there = std::fs::read_to_string(&target)?;
                let found = there.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == place);
                ensure!(found, "{}: {link}", path.display());
            }
        }
    }
    Ok(())
}

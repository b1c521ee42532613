//! The documentation is true: its examples run, and it leaves nothing out.
use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use pg_test::docs::{Page, pages};
use pg_test::install::workspace;
use pg_test::sql::{column, rows};
use pg_test::{Cluster, Options};

#[test]
fn the_examples_of_the_readme() -> Result<()> {
    Page::read(&workspace().join("README.md"))?.check()
}

#[test]
fn the_examples_of_the_tutorial() -> Result<()> {
    Page::read(&workspace().join("docs/tutorial.md"))?.check()
}

#[test]
fn the_examples_of_the_reference() -> Result<()> {
    Page::read(&workspace().join("docs/reference.md"))?.check()
}

#[test]
fn the_examples_of_all_other_pages() -> Result<()> {
    let own = ["README.md", "tutorial.md", "reference.md"];
    for path in pages()? {
        let is_own = own.iter().any(|name| path.ends_with(name));
        let page = Page::read(&path)?;
        if !is_own && page.has_examples() {
            page.check()?;
        }
    }
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

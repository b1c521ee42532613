//! Rows that go to nodes leave the publications of the coordinator, and triggers with transition tables would fail there: not
//! without a word.
use anyhow::{Context, Result, ensure};
use pg_test::movement;
use pg_test::sql::{column, refused};
use postgres::Client;

/// Runs an operation to its end.
fn switched(client: &mut Client, call: &str) -> Result<()> {
    let id: i64 = client.query_one(&format!("SELECT {call}"), &[])?.get(0);
    client.query_one("SELECT shard_wait($1)", &[&id]).with_context(|| call.to_owned())?;
    client.query_one("SELECT shard_finish($1)", &[&id])?;
    Ok(())
}

const HINT: &str = "accept => '{publication}'";

#[test]
fn rows_do_not_leave_a_publication_without_a_word() -> Result<()> {
    let cluster = movement::joined(2)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE TABLE full_one (id bigint PRIMARY KEY); INSERT INTO full_one SELECT generate_series(1, 50);
         CREATE TABLE empty_one (id bigint PRIMARY KEY);
         CREATE TABLE here (id bigint PRIMARY KEY); SELECT shard_create_parent('here', 'hash', 'id', modulus => 3);
         INSERT INTO here SELECT generate_series(1, 50);
         CREATE TABLE days (id bigint, day date, PRIMARY KEY (id, day));
         SELECT shard_create_parent('days', 'range', 'day', bounds => '[\"2026-01-01\", \"2026-02-01\"]');
         CREATE PUBLICATION told FOR TABLE full_one, empty_one, here, days",
    )?;
    let spec = r#"'{"method": "hash", "key": "id", "modulus": 2, "nodes": ["local", "n1"]}'"#;
    let calls = [
        format!("shard_create_parent('full_one', {spec}"),
        format!("shard_create_parent('empty_one', {spec}"),
        "shard_create_parent('full_one', 'hash', 'id', modulus => 2, nodes => '{n1, n2}'".to_owned(),
        "shard_move_partition('here_0', 'n1'".to_owned(),
        "shard_set_modulus('here', 4, nodes => '{n1, n2}'".to_owned(),
        "shard_set_modulus('here', 6, nodes => '{local, n2}'".to_owned(),
        "shard_rebalance('here', by => 'count', nodes => '{n1, n2}'".to_owned(),
        "shard_split('days_2026_01_01', '[\"2026-01-15\"]', nodes => '{local, n1}'".to_owned(),
        "shard_add_partition('days', '{\"from\": \"2026-02-01\", \"to\": \"2026-03-01\"}', node => 'n1'".to_owned(),
    ];
    let mut wrong = Vec::new();
    for call in &calls {
        match refused(&mut client, &format!("SELECT {call})")) {
            Ok(error) => {
                let said = format!("{} {}", error.message(), error.hint().unwrap_or_default());
                if error.code().code() != "55000" || !said.contains("publication told") || !said.contains(HINT) {
                    wrong.push(format!("{call}: {error:?}"));
                }
            }
            Err(error) => wrong.push(format!("{call}: {error:#}")),
        }
        // With it, it is called for.
        client
            .batch_execute(&format!("BEGIN; SELECT {call}, accept => '{{publication}}'); ROLLBACK"))
            .context(call.clone())?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let error = refused(&mut client, "SELECT shard_move_partition('here_0', 'n1', accept => '{all}')")?;
    assert_eq!((error.code().code(), error.message()), ("22023", "accept cannot be \"all\""));

    // Plans say it, and where no row leaves nothing is wanted.
    for plan in [
        format!("SELECT command FROM shard_plan_parent('empty_one', {spec})"),
        "SELECT action FROM shard_plan_move_partition('here_0', 'n1')".to_owned(),
        "SELECT action FROM shard_plan_set_modulus('here', 4, nodes => '{n1, n2}')".to_owned(),
        "SELECT action FROM shard_plan_rebalance('here', by => 'count', nodes => '{n1, n2}')".to_owned(),
    ] {
        let told = column(&mut client, &plan)?;
        ensure!(told.iter().any(|line| line.contains("not in publication told")), "{plan}: {told:#?}");
    }
    let findings =
        "SELECT concat_ws(' | ', object, finding, hint) FROM shard_check() WHERE finding LIKE '%publication%'";
    assert_eq!(column(&mut client, findings)?, Vec::<String>::new());
    switched(&mut client, "shard_set_modulus('here', 2, nodes => '{local}')")?;
    switched(&mut client, "shard_move_partition('here_1', 'n1', accept => '{publication}')")?;

    // `shard_check` goes on saying it; and what publishes everything is told wherever it is.
    let told = column(&mut client, findings)?;
    ensure!(
        told.len() == 1 && told[0].starts_with("public.here | rows on n1 are not in publication told"),
        "{told:#?}"
    );
    cluster.node(2).run("CREATE PUBLICATION all_there FOR ALL TABLES")?;
    client.batch_execute("CREATE PUBLICATION all_here FOR TABLES IN SCHEMA public")?;
    let told = column(
        &mut client,
        "SELECT concat_ws(' | ', node, finding, hint) FROM shard_check() WHERE finding LIKE 'publication %' ORDER BY 1",
    )?;
    ensure!(
        told.len() == 2
            && told[0].starts_with("local | publication all_here")
            && told[1].starts_with("n2 | publication all_there"),
        "{told:#?}"
    );
    Ok(())
}

#[test]
fn a_trigger_with_a_transition_table_keeps_partitions_from_nodes() -> Result<()> {
    let cluster = movement::joined(1)?;
    let mut client = cluster.coordinator.patient()?;
    client.batch_execute(
        "CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TABLE t (id bigint PRIMARY KEY); SELECT shard_create_parent('t', 'hash', 'id', modulus => 2);
         CREATE TABLE plain (id bigint PRIMARY KEY); INSERT INTO plain VALUES (1);
         CREATE TRIGGER counted AFTER INSERT ON t REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION counted();
         CREATE TRIGGER counted AFTER INSERT ON plain REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION counted()",
    )?;
    for call in [
        "shard_move_partition('t_0', 'n1')",
        "shard_plan_move_partition('t_0', 'n1')",
        "shard_set_modulus('t', 4, nodes => '{n1}')",
        "shard_rebalance('t', by => 'count', nodes => '{n1}')",
        "shard_create_parent('plain', 'hash', 'id', modulus => 2, nodes => '{n1, local}')",
    ] {
        let error = refused(&mut client, &format!("SELECT {call}"))?;
        ensure!(
            error.code().code() == "0A000" && error.message().contains("uses a transition table"),
            "{call}: {error:?}"
        );
        ensure!(error.hint().unwrap_or_default().contains("FOR EACH ROW"), "{call}: {error:?}");
    }
    client.batch_execute("DROP TRIGGER counted ON t")?;
    switched(&mut client, "shard_move_partition('t_0', 'n1')")?;
    client.batch_execute("INSERT INTO t SELECT generate_series(1, 20)")?;
    Ok(())
}

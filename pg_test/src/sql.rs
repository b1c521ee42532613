//! What a test asks a session: rows as text, the lines of a plan, the error that a statement must end in.
use anyhow::{Context, Result, bail};
use postgres::error::DbError;
use postgres::{Client, SimpleQueryMessage};

/// All rows, each value as psql shows it; NULL is `∅`.
pub fn rows(client: &mut Client, sql: &str) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    for message in client.simple_query(sql).with_context(|| sql.to_owned())? {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|at| row.get(at).unwrap_or("∅").to_owned()).collect());
        }
    }
    Ok(rows)
}

/// The first column of all rows.
pub fn column(client: &mut Client, sql: &str) -> Result<Vec<String>> {
    Ok(rows(client, sql)?.into_iter().filter_map(|row| row.into_iter().next()).collect())
}

/// The relations that the plan of `sql` reads, partitions by their own names.
pub fn scanned(client: &mut Client, sql: &str) -> Result<Vec<String>> {
    let plan = column(client, &format!("EXPLAIN (COSTS OFF) {sql}"))?;
    let relation = |line: &String| {
        // "Seq Scan on t", "Index Scan using i on t"; a bitmap's index scan names the index, its heap scan the table.
        let (kind, rest) = line.split_once(" Scan ")?;
        let mut words = rest.split(' ').skip_while(|word| *word != "on").skip(1);
        if kind.ends_with("Bitmap Index") { None } else { words.next().map(str::to_owned) }
    };
    Ok(plan.iter().filter_map(relation).collect())
}

/// The error that `sql` must end in.
pub fn refused(client: &mut Client, sql: &str) -> Result<DbError> {
    match client.batch_execute(sql) {
        Ok(()) => bail!("was accepted: {sql}"),
        Err(error) => error.as_db_error().cloned().with_context(|| format!("no answer to {sql}: {error}")),
    }
}

/// SQLSTATE of the error that `sql` must end in.
pub fn code(client: &mut Client, sql: &str) -> Result<String> {
    Ok(refused(client, sql)?.code().code().to_owned())
}

/// The leaves of a parent with their bounds and nodes.
pub fn leaves(client: &mut Client, parent: &str) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT concat_ws(' ', partition, bounds, node) FROM shard_partitions WHERE parent = '{parent}'::regclass AND is_leaf
         ORDER BY partition::text"
    );
    column(client, &sql)
}

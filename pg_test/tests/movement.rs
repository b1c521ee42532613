//! Data moves online: nothing is lost, nothing doubled, and nothing is left behind.
use anyhow::Result;
use pg_test::movement::{joined, under_load};
use pg_test::{Keys, Workload};

#[test]
fn a_modulus_changes_while_clients_write() -> Result<()> {
    let cluster = joined(3)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Bigint.create_sql("t"))?;
    client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2, nodes => '{local, n1}')")?;
    Keys::Bigint.load(&mut client, "t", 5_000)?;
    let calls = [
        "shard_set_modulus('t', 3, nodes => '{local, n1, n2}')",
        "shard_set_modulus('t', 5, nodes => '{n1, n2, n3}')",
        "shard_set_modulus('t', 2, nodes => '{local}')",
        "shard_set_modulus('t', 4)",
    ];
    under_load(&cluster, "t", Keys::Bigint, Workload::default(), &calls)
}

#[test]
fn a_leaf_moves_while_clients_write() -> Result<()> {
    let cluster = joined(2)?;
    let mut client = cluster.coordinator.client()?;
    client.batch_execute(&Keys::Text.create_sql("t"))?;
    client.batch_execute("SELECT shard_create_parent('t', 'hash', 'id', modulus => 2)")?;
    Keys::Text.load(&mut client, "t", 5_000)?;
    let calls = [
        "shard_move_partition('t_0', 'n1')",
        "shard_move_partition('t_0', 'n2')",
        "shard_move_partition('t_1', 'n2')",
        "shard_move_partition('t_0', 'local')",
    ];
    under_load(&cluster, "t", Keys::Text, Workload { direct: 1, ..Workload::default() }, &calls)
}

//! The shapes of operations that faults come upon, and for each of their states a statement that no other state sends.

/// Which servers give rows, and which get them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A leaf from one node to the other, and the next time back.
    Move,
    /// A leaf of the coordinator to a node.
    ToNode,
    /// A leaf of a node to the coordinator.
    FromNode,
    /// Modulus 2 on a node and the coordinator to 3 on all servers, and the next time back: several sources and targets.
    Modulus,
    /// A plain table to leaves on all servers.
    Conversion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

/// A place in an operation.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    pub state: &'static str,
    /// The node that gets the statement.
    pub side: Side,
    pub statement: &'static str,
    /// An earlier state sends the same statement: the one that counts comes after this one.
    pub after: Option<&'static str>,
}

const fn at(state: &'static str, side: Side, statement: &'static str) -> Spot {
    Spot { state, side, statement, after: None }
}

const SOURCE: [Spot; 6] = [
    at("preparing", Side::Source, "pg_create_logical_replication_slot"),
    at("copying", Side::Source, "COPY (SELECT"),
    at("catching_up", Side::Source, "pg_logical_slot_peek_binary_changes"),
    at("verifying", Side::Source, "hashtextextended"),
    at("ready", Side::Source, "CREATE SCHEMA IF NOT EXISTS"),
    at("switching", Side::Source, "IN EXCLUSIVE MODE"),
];

/// Where the coordinator gives all rows, nodes hear of it as targets only; nothing that `ready` sends them is its own.
const TARGET: [Spot; 5] = [
    at("preparing", Side::Target, "CREATE SCHEMA shardkeeper_op_"),
    at("copying", Side::Target, "FROM STDIN (FORMAT binary)"),
    at("catching_up", Side::Target, "stream of local"),
    at("verifying", Side::Target, "hashtextextended"),
    at("switching", Side::Target, "shardkeeper.relocate"),
];

const CONSTRAINTS_GO: Spot = at("switched", Side::Target, "ALTER TABLE IF EXISTS");

impl Shape {
    pub const OTHERS: [Shape; 4] = [Shape::ToNode, Shape::FromNode, Shape::Modulus, Shape::Conversion];

    pub fn spots(self) -> Vec<Spot> {
        match self {
            Shape::Move | Shape::Modulus => {
                let mut spots = SOURCE.to_vec();
                spots[3].side = Side::Target;
                spots.push(CONSTRAINTS_GO);
                spots
            }
            Shape::ToNode => TARGET.into_iter().chain([CONSTRAINTS_GO]).collect(),
            Shape::FromNode => {
                let after = Some("IN EXCLUSIVE MODE");
                let slot_goes = Spot { after, ..at("switched", Side::Source, "DROP PUBLICATION IF EXISTS") };
                SOURCE.into_iter().chain([slot_goes]).collect()
            }
            Shape::Conversion => {
                let after = Some("shardkeeper.relocate");
                let stage_goes = Spot { after, ..at("switched", Side::Target, "DROP SCHEMA IF EXISTS") };
                TARGET.into_iter().chain([stage_goes]).collect()
            }
        }
    }

    pub(super) fn call(self, source: usize, target: usize, table: &str) -> String {
        match (self, source) {
            (Shape::Move, _) => format!("shard_move_partition('t_0', 'n{target}')"),
            (Shape::ToNode, _) => format!("shard_move_partition('t_1', 'n{target}')"),
            (Shape::FromNode, _) => "shard_move_partition('t_1', 'local')".into(),
            (Shape::Modulus, 1) => "shard_set_modulus('t', 3, nodes => '{local, n1, n2}')".into(),
            (Shape::Modulus, _) => "shard_set_modulus('t', 2, nodes => '{n1, local}')".into(),
            (Shape::Conversion, _) => {
                format!("shard_create_parent('{table}', 'hash', 'id', modulus => 3, nodes => '{{local, n1, n2}}')")
            }
        }
    }

    /// Whether the rows lie elsewhere after each time.
    pub(super) fn flips(self) -> bool {
        matches!(self, Shape::Move | Shape::Modulus)
    }
}

//! Commands that users give on managed tables themselves, judged by event triggers once they are run: what would make
//! servers disagree raises, which undoes it, and names the way that does it right.
//!
//! Our own commands are not looked at, nor any with `shardkeeper.allow_manual_ddl`: then only the catalog follows.

mod changed;
mod dropped;
mod follow;
mod ways;

pub use follow::before_detach;

use crate::error::Result;
use crate::guc;
use crate::name::literal;
use crate::pg::ours;
use follow::After;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hand {
    Ours,
    Allowed,
    User,
}

pub fn hand() -> Hand {
    match (ours::is_running(), guc::allow_manual_ddl()) {
        (true, _) => Hand::Ours,
        (false, true) => Hand::Allowed,
        (false, false) => Hand::User,
    }
}

/// At the end of a command. Errors: 0A000 it would make servers disagree, or hide a node; 2BP01 it took a partition out of its
/// hierarchy.
pub fn after_change() -> Result<()> {
    if hand() == Hand::User {
        ways::judge_all()?;
        changed::judge_all()?;
    }
    follow::keep_up(After::Change)
}

/// After something was dropped. Errors: 2BP01 a managed table, a node or the way to it is gone; 0A000 a part of a managed
/// table.
pub fn after_drop() -> Result<()> {
    if hand() == Hand::User {
        dropped::judge_all()?;
    }
    follow::keep_up(After::Drop)
}

/// How a change that has to be made on all servers is made today.
fn by_hand_everywhere(nodes: &[String]) -> String {
    let array = literal(&format!("{{{}}}", nodes.join(",")));
    format!(
        "Make it on the nodes with SELECT * FROM shard_run_on_nodes($$…$$, {array}); and here with SET shardkeeper.allow_manual_ddl = on; see \"Changing managed tables\" in docs/operations.md."
    )
}

//! The task that visits nodes, all at the same time and each when it is due.

mod visit;

use self::visit::{Node, Peer};
use super::task::Task;
use crate::background::log::Log;
use crate::catalog;
use crate::error::Result;
use crate::guc;
use crate::node::in_doubt::Coordinator;
use crate::node::session::{self, ConnectionParams};
use crate::pg::transaction;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, Instant};

type Visits = FuturesUnordered<Pin<Box<dyn Future<Output = Node>>>>;

#[derive(Default)]
pub struct Healing {
    /// `None` is a node that is being visited.
    nodes: BTreeMap<String, Option<Node>>,
    visits: Visits,
}

impl Task for Healing {
    fn subject(&self) -> &'static str {
        "nodes"
    }

    /// Nodes have intervals of their own: see `Node::is_due`.
    fn interval(&self) -> Duration {
        Duration::ZERO
    }

    fn run(&mut self, _log: &mut Log) -> Result<()> {
        let (coordinator, peers) = transaction::run(|| Ok((Coordinator::read()?, peers()?)))?;
        let now = Instant::now();
        self.nodes.retain(|name, _| peers.contains_key(name));
        for (name, wanted) in peers {
            let place = self.nodes.entry(name.clone()).or_insert_with(|| Some(Node::new(name)));
            if let Some(node) = place {
                node.set_peers(wanted);
            }
            if let Some(node) = place.take_if(|node| node.is_due(now)) {
                self.visits.push(Box::pin(node.visit(coordinator.clone(), guc::heal_interval())));
            }
        }
        Ok(())
    }

    fn is_busy(&self) -> bool {
        !self.visits.is_empty()
    }

    fn drive(&mut self, until: Instant) -> Result<()> {
        while self.is_busy() {
            let Some(ended) = session::wait_until(until, self.visits.next())? else { return Ok(()) };
            // The node may have been dropped meanwhile.
            if let Some(node) = ended
                && let Some(place) = self.nodes.get_mut(&node.name)
            {
                *place = Some(node);
            }
        }
        Ok(())
    }

    fn pause(&mut self) {
        self.nodes.clear();
    }
}

/// For each node the remote roles and how to become them. A mapping that cannot be used is shard_check's to report.
fn peers() -> Result<BTreeMap<String, Vec<Peer>>> {
    let mut peers: BTreeMap<String, Vec<Peer>> = BTreeMap::new();
    for catalog::node::Mapping { node, role, trusted, options } in catalog::node::mappings()? {
        let known = peers.entry(node.clone()).or_default();
        if role.is_none() {
            continue;
        }
        let excused = trusted || options.get("password_required").is_some_and(|value| value == "false");
        let Ok(mut target) = ConnectionParams::from_options(&node, options) else { continue };
        target.must_use_password = !excused;
        match known.iter_mut().find(|peer| peer.user == target.user) {
            Some(peer) => peer.targets.push(target),
            None => known.push(Peer::new(target.user.clone(), vec![target])),
        }
    }
    Ok(peers)
}

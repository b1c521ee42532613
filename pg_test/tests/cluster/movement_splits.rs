//! A switch commits on one server after the other: what happens when only some of them have made it.
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pg_test::faults::{Scene, Shape, restart};
use pg_test::movement::{complains, ends, field, nothing_is_left, told};
use pg_test::objects::settled;
use pg_test::{PATIENCE, Then, Tolerate, Workload, eventually, matrix};

/// What happens when the source has committed the switch, and the target may not have.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Split {
    /// The target's COMMIT is lost.
    Cut,
    /// The answer to it is lost.
    CutAnswer,
    /// The target never gets its COMMIT: the coordinator dies.
    KillCoordinator,
    /// The same, and somebody cancels before the source can be reached.
    KillCoordinatorAndCancel,
    /// The target dies before its COMMIT.
    KillTarget,
}

#[test]
fn a_switch_that_only_some_servers_have_made_is_undone_and_made_again() -> Result<()> {
    let workload = Workload { clients: 2, tolerate: Tolerate::SplitCommits, ..Workload::default() };
    let mut scene = Scene::new(Shape::Move, workload)?;
    let splits =
        [Split::Cut, Split::KillCoordinatorAndCancel, Split::CutAnswer, Split::KillTarget, Split::KillCoordinator];
    for split in matrix::take(2, &splits) {
        let started = Instant::now();
        split_commit(&mut scene, *split).with_context(|| format!("{split:?}"))?;
        println!("{split:?}: {:.1?}", started.elapsed());
    }
    scene.close()
}

fn split_commit(scene: &mut Scene, split: Split) -> Result<()> {
    let target = scene.target();
    let proxy = scene.cluster.proxy(target);
    let swaps = proxy.stall_on(b"shardkeeper.relocate");
    let id = scene.begin()?;
    swaps.wait_until_hit(PATIENCE).with_context(|| told(&scene.cluster))?;
    // The parent is locked: no client commits now.
    let commits = proxy.resume_until(
        b"COMMIT TRANSACTION",
        match split {
            Split::Cut => Then::Cut,
            Split::CutAnswer => Then::CutAnswer,
            _ => Then::Stall,
        },
    );
    commits.wait_until_hit(PATIENCE).with_context(|| told(&scene.cluster))?;
    if !matches!(split, Split::Cut | Split::CutAnswer) {
        // After a cut, the coordinator has undone it before one can look.
        let source = scene.cluster.node(scene.source);
        eventually("the source has committed", PATIENCE, || Ok(!source.has("t_0")?))?;
    }
    match split {
        Split::Cut | Split::CutAnswer => {}
        Split::KillCoordinator | Split::KillCoordinatorAndCancel => {
            scene.cluster.coordinator.kill9()?;
            // What is held back never arrives.
            proxy.cut();
            if split == Split::KillCoordinator {
                scene.cluster.coordinator.start()?;
            } else {
                scene.cluster.proxy(scene.source).cut();
                scene.cluster.coordinator.start()?;
                scene.cluster.coordinator.run(&format!("SELECT shard_cancel({id})"))?;
                complains(&scene.cluster, id, "node", PATIENCE)?;
                scene.resume();
                ends(&scene.cluster, id, PATIENCE * 2)?;
                ensure!(field(&scene.cluster, id, "state")? == "cancelled");
                settled(&scene.cluster, PATIENCE)?;
                scene.clients_write()?;
                return nothing_is_left(&scene.cluster);
            }
        }
        Split::KillTarget => restart(scene.cluster.node(target))?,
    }
    scene.resume();
    scene.come_to_an_end(id)
}

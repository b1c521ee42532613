//! The way from a placement to the best that is found: each step makes the imbalance less.

use std::cmp::Ordering;

use super::placement::Choice;
use super::state::State;
use super::{Goal, placement};

/// A leaf goes to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub leaf: usize,
    pub to: usize,
}

/// Steps of one or more hops. In this order no hop exceeds a limit.
pub(super) struct Walk<'a> {
    state: State<'a>,
    steps: Vec<Vec<Hop>>,
    /// The loads per capacity before each step and after the last, ranked.
    ranks: Vec<Vec<f64>>,
    /// So many steps are no question of gain.
    must: usize,
    /// What is still where it may not be: [`left`] of the state.
    left: (usize, u128),
}

/// A step and how much it lowers the sum of squares.
struct Found {
    hops: Vec<Hop>,
    drop: f64,
}

/// An exchange has to better a single move by this factor: it moves twice, and more.
const EXCHANGE: f64 = 4.0;
/// A lowering below this part of the sum is rounding.
const ROUNDING: f64 = 1e-12;
/// How many partners are tried on either side of the ideal one.
const PARTNERS: usize = 3;

impl<'a> Walk<'a> {
    pub(super) fn from(start: &State<'a>, choice: Choice) -> Self {
        let (steps, ranks, must, left) = (Vec::new(), vec![start.ranked()], 0, left(start));
        let mut walk = Self { state: start.clone(), steps, ranks, must, left };
        // Each step lowers the imbalance, so the walk ends; this keeps it short where sizes are odd.
        let most = 10 * start.at.len() + 100;
        loop {
            let before = walk.steps.len();
            walk.settle(choice);
            walk.relieve(choice);
            while walk.steps.len() < most {
                let Some(hops) = step(&walk.state) else { break };
                for hop in &hops {
                    walk.state.shift(hop.leaf, hop.to);
                }
                walk.note(hops);
            }
            // Else what was just done may have made the room that was missing.
            if walk.left == (0, 0) || walk.steps.len() == before || walk.steps.len() >= most {
                break;
            }
        }
        if walk.left != (0, 0) {
            walk.must = walk.steps.len();
        }
        walk
    }

    pub(super) fn end(&self) -> &State<'a> {
        &self.state
    }

    fn note(&mut self, hops: Vec<Hop>) {
        self.steps.push(hops);
        self.ranks.push(self.state.ranked());
        let left = left(&self.state);
        if left < self.left {
            self.left = left;
            self.must = self.steps.len();
        }
    }

    fn settle(&mut self, choice: Choice) {
        loop {
            let before = self.steps.len();
            let mut leaves = self.state.misplaced();
            // The large ones first, while there is room.
            leaves.sort_by_key(|leaf| std::cmp::Reverse((self.state.bytes_of(*leaf), self.state.size_of(*leaf))));
            for leaf in leaves {
                // It may have made room for another meanwhile.
                if self.state.is_misplaced(leaf)
                    && let Some(hops) = placement::settle(&mut self.state, leaf, choice)
                {
                    self.note(hops);
                }
            }
            if self.steps.len() == before {
                return;
            }
        }
    }

    fn relieve(&mut self, choice: Choice) {
        for node in 0..self.state.nodes().len() {
            while self.state.overflow(node) > 0 {
                let Some(hops) = placement::relieve(&mut self.state, node, choice) else { break };
                self.note(hops);
            }
        }
    }

    /// The steps up to where the rest gains less than the minimum; none if all that is optional gains less.
    pub(super) fn worth(&self, goal: &Goal) -> &[Vec<Hop>] {
        let end = self.steps.len();
        let ideal = self.state.ideal();
        let gain = |from: usize, to: usize| {
            let falls = self.ranks[from].iter().zip(&self.ranks[to]).map(|(before, after)| before - after);
            falls.fold(0.0, f64::max) / ideal
        };
        let enough = |at: &usize| {
            gain(*at, end) < goal.minimum_gain && (*at == self.must || gain(self.must, *at) >= goal.minimum_gain)
        };
        &self.steps[..(self.must..end).find(enough).unwrap_or(end)]
    }
}

/// The leaves that are misplaced and the bytes above limits.
fn left(state: &State<'_>) -> (usize, u128) {
    (state.misplaced().len(), (0..state.nodes().len()).map(|node| state.overflow(node)).sum())
}

/// The next step that balances, from the node with the most load per capacity that can be helped.
fn step(state: &State<'_>) -> Option<Vec<Hop>> {
    let mut nodes: Vec<usize> = state.takers().collect();
    nodes.sort_by(|a, b| state.ratio(*b).total_cmp(&state.ratio(*a)));
    let peak = nodes.first().map(|node| state.ratio(*node))?;
    let least = state.squares() * ROUNDING;
    // What may go to each node in exchange, by size. Most steps need none, so it is made late.
    let mut by_size: Option<Vec<Vec<usize>>> = None;
    nodes.iter().find_map(|&from| {
        let one = single(state, from, peak, least);
        let enough = one.as_ref().map_or(0.0, |one| EXCHANGE * one.drop);
        let largest = state.movable_on(from).map(|leaf| state.size(leaf)).fold(0.0, f64::max);
        let bound = nodes.iter().map(|&to| most_by(state, from, to, largest)).fold(0.0, f64::max);
        let two = if bound > enough {
            exchange(state, from, peak, least, by_size.get_or_insert_with(|| sorted(state)))
        } else {
            None
        };
        two.filter(|two| two.drop > enough).or(one).map(|found| found.hops)
    })
}

/// What would have to go from one node to another to make both equal per capacity.
fn equalizing(state: &State<'_>, from: usize, to: usize) -> f64 {
    (state.ratio(from) - state.ratio(to)) / (1.0 / state.capacity(from) + 1.0 / state.capacity(to))
}

/// The most that the sum of squares can fall when no more than `largest` goes: it falls the more, the nearer to equal.
fn most_by(state: &State<'_>, from: usize, to: usize, largest: f64) -> f64 {
    drop(state, from, to, equalizing(state, from, to).clamp(0.0, largest))
}

/// How much the sum of squares falls when `size` goes from one node to another. Negative if it rises.
fn drop(state: &State<'_>, from: usize, to: usize, size: f64) -> f64 {
    let less = (2.0 * state.load(from) - size) / state.capacity(from);
    let more = (2.0 * state.load(to) + size) / state.capacity(to);
    size * (less - more)
}

fn single(state: &State<'_>, from: usize, peak: f64, least: f64) -> Option<Found> {
    struct Candidate {
        hop: Hop,
        drop: f64,
        /// How much less lies where it is too much, minus a part of what is moved beyond that.
        score: f64,
        size: f64,
        /// Siblings there, minus siblings here.
        crowd: i64,
    }
    let unit = state.grain() * state.capacity(from);
    // Rounded, so that siblings have a say among equals. Conversion saturates.
    let rough = |value: f64| (value / unit).floor() as i64;
    let better = |a: &Candidate, b: &Candidate| {
        rough(b.score)
            .cmp(&rough(a.score))
            .then(rough(a.size).cmp(&rough(b.size)))
            .then(a.crowd.cmp(&b.crowd))
            .then(b.score.total_cmp(&a.score))
            .then(a.size.total_cmp(&b.size))
            .then(b.drop.total_cmp(&a.drop))
            .then((a.hop.leaf, a.hop.to).cmp(&(b.hop.leaf, b.hop.to)))
    };
    let above = |excess: f64| excess.max(0.0);
    let choices = state.movable_on(from).flat_map(|leaf| state.targets(leaf).map(move |to| (leaf, to)));
    let choices = choices.filter_map(|(leaf, to)| {
        let size = state.size(leaf);
        let drop = drop(state, from, to, size);
        let here = siblings(state, leaf, from) - 1;
        (drop > least && (state.load(to) + size) / state.capacity(to) <= peak && state.fits(leaf, to)).then(|| {
            let relief = above(state.excess(from)) - above(state.excess(from) - size);
            let burden = above(state.excess(to) + size) - above(state.excess(to));
            let useful = relief - burden;
            let crowd = siblings(state, leaf, to) - here;
            Candidate { hop: Hop { leaf, to }, drop, score: useful - (size - useful) / 4.0, size, crowd }
        })
    });
    let best = choices.min_by(better)?;
    Some(Found { hops: vec![best.hop], drop: best.drop })
}

fn siblings(state: &State<'_>, leaf: usize, node: usize) -> i64 {
    i64::from(state.siblings(leaf, node))
}

/// The movable leaves of each node, the smallest first.
fn sorted(state: &State<'_>) -> Vec<Vec<usize>> {
    let of = |node| {
        let mut leaves: Vec<usize> = state.movable_on(node).collect();
        leaves.sort_by(|a, b| state.size(*a).total_cmp(&state.size(*b)));
        leaves
    };
    (0..state.nodes().len()).map(of).collect()
}

/// A leaf of `from` for a smaller one of another node.
fn exchange(state: &State<'_>, from: usize, peak: f64, least: f64, by_size: &[Vec<usize>]) -> Option<Found> {
    let mut best: Option<(f64, f64, Vec<Hop>)> = None;
    for leaf in state.movable_on(from) {
        for to in state.targets(leaf) {
            let wanted = equalizing(state, from, to);
            if wanted <= 0.0 {
                continue;
            }
            let others = &by_size[to];
            let near = others.partition_point(|other| state.size(*other) < state.size(leaf) - wanted);
            let window = near.saturating_sub(PARTNERS)..(near + PARTNERS).min(others.len());
            for &other in &others[window] {
                let net = state.size(leaf) - state.size(other);
                let drop = drop(state, from, to, net);
                let size = state.size(leaf) + state.size(other);
                let is_better = best.as_ref().is_none_or(|(most, with, _)| match drop.total_cmp(most) {
                    Ordering::Greater => true,
                    Ordering::Equal => size < *with,
                    Ordering::Less => false,
                });
                let is_worth = net >= state.grain() * state.capacity(from).min(state.capacity(to)) && drop > least;
                let stays_low = (state.load(to) + net) / state.capacity(to) <= peak;
                if is_better && is_worth && stays_low && state.targets(other).any(|node| node == from) {
                    let hops = in_order(state, (leaf, from), (other, to));
                    best = hops.map(|hops| (drop, size, hops)).or(best);
                }
            }
        }
    }
    best.map(|(drop, _, hops)| Found { hops, drop })
}

/// Which of the two goes first, so that there is room for both all the time.
fn in_order(state: &State<'_>, a: (usize, usize), b: (usize, usize)) -> Option<Vec<Hop>> {
    let try_first = |(first, its): (usize, usize), (second, other): (usize, usize)| {
        let after = state.used(its) - state.bytes_of(first) + state.bytes_of(second);
        let fits = state.fits(first, other) && state.nodes()[its].limit.is_none_or(|limit| after <= u128::from(limit));
        fits.then(|| vec![Hop { leaf: first, to: other }, Hop { leaf: second, to: its }])
    };
    try_first(a, b).or_else(|| try_first(b, a))
}

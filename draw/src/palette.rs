//! One colour per node, told apart by people of every colour vision, with dark text readable on all.

use std::collections::BTreeMap;

use shardkeeper_core::plan::LOCAL;

/// Paul Tol's "light" scheme, made for filled cells with labels; its grey is the coordinator's.
const COLOURS: [&str; 8] = ["#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#44BB99", "#99DDFF", "#BBCC33", "#AAAA00"];
const GREY: &str = "#D5D8DC";

/// Hatchings, for more nodes than there are colours.
pub(super) const PATTERNS: usize = 4;

/// How the leaves of a node look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    pub colour: &'static str,
    /// 0 is plain.
    pub pattern: usize,
}

/// A style for each node; a node looks the same whatever the order of the tree.
pub(super) fn styles<'a>(nodes: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, Style> {
    let mut names: Vec<&str> = nodes.collect();
    names.sort_unstable();
    names.dedup();
    let mut next = 0;
    let style = |name: &'a str| {
        if name == LOCAL {
            return (name, Style { colour: GREY, pattern: 0 });
        }
        let style = Style { colour: COLOURS[next % COLOURS.len()], pattern: next / COLOURS.len() % PATTERNS };
        next += 1;
        (name, style)
    };
    names.into_iter().map(style).collect()
}

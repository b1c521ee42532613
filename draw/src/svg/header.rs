//! Above the picture: the name, the totals, and the legend with the share of each node.

use std::collections::BTreeMap;
use std::ops::Range;

use super::layout::{MARGIN, Rect};
use super::write::{NAME, PLAIN, SMALL, Svg, TITLE, fill};
use crate::palette::Style;
use crate::{Sum, TreeNode, units};

const BAR: f64 = 14.0;
/// Width of one node in the legend.
const ITEM: Range<f64> = 150.0..280.0;
const ROW: f64 = 34.0;
/// From the top to the end of the bar.
const TOP: f64 = MARGIN + 44.0 + BAR;
const GAP: f64 = 12.0;

/// The legend: how many nodes stand side by side, and how wide each is.
#[derive(Clone, Copy)]
pub(super) struct Legend {
    per_row: usize,
    item: f64,
    rows: usize,
}

impl Legend {
    pub(super) fn new(nodes: &BTreeMap<&str, Sum>, width: f64) -> Self {
        let widest =
            nodes.keys().map(|node| NAME.width(node)).fold(PLAIN.width("9,999 leaves · 999 GB · 99 %"), f64::max);
        let item = (widest + 44.0).clamp(ITEM.start, ITEM.end);
        let per_row = ((width / item) as usize).max(1);
        Self { per_row, item: width / per_row as f64, rows: nodes.len().div_ceil(per_row) }
    }

    /// Of everything above the picture.
    pub(super) fn height(&self) -> f64 {
        TOP + GAP + self.rows as f64 * ROW + GAP
    }
}

pub(super) fn draw(
    svg: &mut Svg,
    root: &TreeNode,
    nodes: &BTreeMap<&str, Sum>,
    styles: &BTreeMap<&str, Style>,
    legend: Legend,
    width: f64,
) {
    let whole = root.sum();
    let title = TITLE.beginning(&root.name, width * 0.6).unwrap_or_default();
    svg.text(MARGIN, MARGIN + 18.0, TITLE, &title);
    let mut facts = vec![units::plural(whole.leaves, "leaf", "leaves"), units::plural(nodes.len(), "node", "nodes")];
    facts.extend(whole.rows.map(|rows| units::rows(&units::short_count(rows))));
    facts.extend(whole.bytes.map(units::size));
    svg.text_before(MARGIN + width, MARGIN + 18.0, SMALL, &facts.join(" · "));

    let weight = |sum: &Sum| match whole.bytes {
        Some(all) if all > 0 => sum.bytes.unwrap_or_default() as f64 / all as f64,
        _ => sum.leaves as f64 / whole.leaves.max(1) as f64,
    };
    let mut x = MARGIN;
    for (node, sum) in nodes {
        let w = width * weight(sum);
        if let Some(style) = styles.get(node) {
            let bar = Rect { x, y: MARGIN + 34.0, w, h: BAR };
            let share = format!("{node}: {}", units::percent(weight(sum), 1.0));
            svg.rect(bar, &fill(style), " stroke=\"#fff\" stroke-width=\"1\"", Some(&share));
        }
        x += w;
    }

    for (at, (node, sum)) in nodes.iter().enumerate() {
        let (x, y) =
            (MARGIN + (at % legend.per_row) as f64 * legend.item, TOP + GAP + (at / legend.per_row) as f64 * ROW);
        if let Some(style) = styles.get(node) {
            let swatch = Rect { x, y, w: 16.0, h: 26.0 };
            svg.rect(swatch, &fill(style), " rx=\"3\"", None);
        }
        let name = NAME.beginning(node, legend.item - 40.0).unwrap_or_default();
        svg.text(x + 24.0, y + 10.5, NAME, &name);
        let mut facts = vec![units::plural(sum.leaves, "leaf", "leaves")];
        facts.extend(sum.bytes.map(units::size));
        facts.push(units::percent(weight(sum), 1.0));
        svg.text(x + 24.0, y + 23.5, PLAIN, &facts.join(" · "));
    }
}

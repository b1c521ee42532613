//! The tables of a layout: boxes, cells, and as much text as has room in them.

use std::collections::BTreeMap;

use super::layout::{HEADINGS, LINE, Layout, Placed, Rect};
use super::write::{Font, NAME, PLAIN, SMALL, Svg, fill};
use crate::palette::Style;
use crate::{Sum, TreeNode, units};

const PADDING: f64 = 8.0;
/// Width of the stripe that shows on which nodes the leaves of a table are.
const STRIPE: f64 = 5.0;
/// In cells smaller than this, lines between them would hide them.
const TINY: f64 = 5.0;

type Styles<'a> = BTreeMap<&'a str, Style>;

pub(super) fn draw(svg: &mut Svg, layout: &Layout<'_>, styles: &Styles<'_>) {
    let mut right = layout.width();
    for (left, heading) in layout.columns.iter().rev() {
        let heading = heading.as_deref().map(|key| format!("by {key}")).unwrap_or_default();
        let heading = SMALL.beginning(&heading, right - left - PADDING).unwrap_or_default();
        svg.text(left + 1.0, HEADINGS - 9.0, SMALL, &heading);
        right = *left;
    }
    for leaf in &layout.leaves {
        cell(svg, leaf, styles);
    }
    for table in &layout.tables {
        partitioned(svg, table, styles);
    }
}

fn partitioned(svg: &mut Svg, placed: &Placed<'_>, styles: &Styles<'_>) {
    let (table, rect) = (placed.table, placed.rect);
    svg.rect(rect, "#F1F3F5", &stroke(rect), Some(&tooltip(table)));
    stripe(svg, table, rect, styles);
    let room = rect.w - 2.0 * PADDING - STRIPE;
    let sum = table.sum();
    let mut lines = vec![short_name(table, placed.parent, room).map(|name| (NAME, name))];
    lines.push(bound(table, room).map(|bound| (PLAIN, bound)));
    // Only where there is room to spare: the heading of the column says it as well.
    if rect.h > 5.5 * LINE {
        let key = table.key.as_ref().and_then(|key| PLAIN.beginning(&format!("by {key}"), room));
        lines.push(key.map(|key| (SMALL, key)));
    }
    lines.push(amount(&sum, room).map(|amount| (SMALL, amount)));
    let lines: Vec<(Font, String)> = lines.into_iter().flatten().collect();
    let count = lines.len().min(((rect.h - 1.5) / LINE).max(0.0) as usize);
    let mut baseline = rect.y + (rect.h - count as f64 * LINE) / 2.0 + LINE - 3.5;
    for (font, line) in &lines[..count] {
        svg.text(rect.x + PADDING, baseline, *font, line);
        baseline += LINE;
    }
}

/// On the right edge of a table: the colours of its leaves, by size.
fn stripe(svg: &mut Svg, table: &TreeNode, rect: Rect, styles: &Styles<'_>) {
    let nodes = table.by_node();
    let weight = |sum: &Sum| sum.bytes.map_or(sum.leaves as f64, |bytes| bytes as f64);
    let whole: f64 = nodes.values().map(weight).sum();
    let inset = (rect.h * 0.1).min(2.0);
    let mut y = rect.y + inset;
    for (node, sum) in &nodes {
        let part = if whole > 0.0 { weight(sum) / whole } else { 1.0 / nodes.len() as f64 };
        let h = (rect.h - 2.0 * inset) * part;
        if let Some(style) = styles.get(node)
            && h > 0.05
        {
            svg.rect(Rect { x: rect.x + rect.w - STRIPE - 1.5, y, w: STRIPE, h }, &fill(style), "", None);
        }
        y += h;
    }
}

fn cell(svg: &mut Svg, placed: &Placed<'_>, styles: &Styles<'_>) {
    let (table, rect) = (placed.table, placed.rect);
    let colour = styles.get(table.node()).map_or_else(|| "#fff".to_owned(), fill);
    svg.rect(rect, &colour, &stroke(rect), Some(&tooltip(table)));
    let room = rect.w - PADDING - 3.0;
    // What has no room for its name would only confuse with other words.
    let Some(name) = short_name(table, placed.parent, room) else { return };
    let mut lines = vec![(NAME, name)];
    lines.extend(bound(table, room).map(|bound| (PLAIN, bound)));
    lines.extend(PLAIN.whole(table.node(), room).map(|node| (PLAIN, node)));
    lines.extend(amount(&table.sum(), room).map(|amount| (PLAIN, amount)));
    let count = lines.len().min(((rect.h - 2.0) / LINE).max(0.0) as usize);
    let (first, slack) = (rect.y + LINE - 3.5, rect.h - count as f64 * LINE);
    // Little text is better in the middle of a flat cell.
    let mut baseline = first + (slack / 2.0).clamp(0.0, 5.0);
    for (font, line) in &lines[..count] {
        svg.text(rect.x + PADDING / 2.0 + 2.0, baseline, *font, line);
        baseline += LINE;
    }
}

/// The name; or what it adds to its parent's; or what of that fits.
fn short_name(table: &TreeNode, parent: Option<&TreeNode>, room: f64) -> Option<String> {
    let own = parent.and_then(|parent| table.name.strip_prefix(parent.name.as_str())).filter(|own| !own.is_empty());
    let own = own.map(|own| own.trim_start_matches('_')).filter(|own| !own.is_empty());
    let short = || match own {
        Some(own) => NAME.end(own, room),
        None => NAME.beginning(&table.name, room),
    };
    NAME.whole(&table.name, room).or_else(short)
}

/// The bound; of a range that does not fit, where it begins.
fn bound(table: &TreeNode, room: f64) -> Option<String> {
    let short = units::short_bound(table.bound()?);
    let whole = PLAIN.whole(&short, room);
    whole.or_else(|| match short.split_once(" → ") {
        Some((from, _)) => PLAIN.whole(&format!("{from} →"), room),
        None => PLAIN.beginning(&short, room),
    })
}

fn stroke(rect: Rect) -> String {
    let width = if rect.w.min(rect.h) < TINY { 0.4 } else { 1.5 };
    format!(" stroke=\"#fff\" stroke-width=\"{width}\"")
}

/// Size and rows, or the size alone.
fn amount(sum: &Sum, room: f64) -> Option<String> {
    let size = sum.bytes.map(units::size);
    let rows = sum.rows.map(|rows| units::rows(&units::short_count(rows)));
    let both = match (&size, &rows) {
        (Some(size), Some(rows)) => PLAIN.whole(&format!("{size} · {rows}"), room),
        _ => None,
    };
    both.or_else(|| PLAIN.whole(&size.or(rows)?, room))
}

/// Everything that is known of a table.
fn tooltip(table: &TreeNode) -> String {
    let sum = table.sum();
    let mut lines = vec![table.name.clone()];
    lines.extend(table.bound().map(str::to_owned));
    lines.extend(table.key.as_ref().map(|key| format!("partitioned by {key}")));
    match table.is_leaf() {
        true => lines.push(format!("node {}", table.node())),
        false => lines.push(units::plural(sum.leaves, "leaf", "leaves")),
    }
    lines.extend(sum.rows.map(|rows| units::rows(&units::count(rows))));
    lines.extend(sum.bytes.map(units::size));
    lines.join("\n")
}

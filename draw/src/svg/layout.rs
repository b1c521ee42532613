//! Where each table is drawn: partitioned ones in columns, leaves in rows beside the table that they are part of.

use std::ops::Range;

use super::write::{NAME, PLAIN};
use crate::{TreeNode, units};

/// The least width of a picture, its margins included.
pub(super) const WIDTH: f64 = 960.0;
pub(super) const MARGIN: f64 = 24.0;
/// For the headings of the columns.
pub(super) const HEADINGS: f64 = 22.0;
/// Width of the area for leaves.
const LEAVES: f64 = 620.0;
const COLUMN: Range<f64> = 104.0..230.0;
/// Room for one line of text in a box.
pub(super) const LINE: f64 = 14.0;
/// A leaf is drawn at least as large as this part of the average leaf.
const LEAST: f64 = 0.12;
/// Cells this many times as wide as high have room for a name.
const ASPECT: f64 = 2.6;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

/// A table in its place.
pub(super) struct Placed<'a> {
    pub table: &'a TreeNode,
    pub rect: Rect,
    pub parent: Option<&'a TreeNode>,
}

pub(super) struct Layout<'a> {
    /// What each column of partitioned tables is partitioned by, where all agree; its left side.
    pub columns: Vec<(f64, Option<String>)>,
    pub tables: Vec<Placed<'a>>,
    pub leaves: Vec<Placed<'a>>,
    /// Where the columns end.
    cells: f64,
    right: f64,
    height: f64,
    least: f64,
}

impl<'a> Layout<'a> {
    pub(super) fn new(root: &'a TreeNode) -> Self {
        let mut by_depth: Vec<Vec<&TreeNode>> = Vec::new();
        collect(root, 0, &mut by_depth);
        let mut columns = Vec::new();
        let mut left = 0.0;
        for tables in &by_depth {
            columns.push((left, heading(tables)));
            left += tables.iter().map(|table| width(table)).fold(COLUMN.start, f64::max).min(COLUMN.end);
        }
        let sum = root.sum();
        let densest = by_depth.iter().map(Vec::len).max().unwrap_or_default() as f64;
        let wanted = 150.0 + 62.0 * (sum.leaves as f64).sqrt();
        let height = wanted.min(1000.0).max((densest * 24.0).min(2600.0));
        let average = sum.bytes.unwrap_or_default() as f64 / sum.leaves.max(1) as f64;
        let mut layout = Self {
            columns,
            tables: Vec::new(),
            leaves: Vec::new(),
            cells: left,
            right: left + LEAVES.max(WIDTH - 2.0 * MARGIN - left),
            height,
            least: (average * LEAST).max(1.0),
        };
        layout.place(root, None, 0, HEADINGS, height);
        layout
    }

    pub(super) fn width(&self) -> f64 {
        self.right
    }

    pub(super) fn height(&self) -> f64 {
        self.height + HEADINGS
    }

    fn weight(&self, table: &TreeNode) -> f64 {
        match table.is_leaf() {
            true => (table.bytes.unwrap_or_default() as f64).max(self.least),
            // A table without partitions is drawn as the smallest leaf.
            false => table.children.iter().map(|child| self.weight(child)).sum::<f64>().max(self.least),
        }
    }

    fn left(&self, depth: usize) -> f64 {
        self.columns.get(depth).map_or(self.cells, |(left, _)| *left)
    }

    fn place(&mut self, table: &'a TreeNode, parent: Option<&'a TreeNode>, depth: usize, y: f64, h: f64) {
        if table.is_leaf() {
            let rect = Rect { x: self.left(depth), y, w: self.right - self.left(depth), h };
            return self.leaves.push(Placed { table, rect, parent });
        }
        let inside = self.left(depth + 1);
        let rect = Rect { x: self.left(depth), y, w: inside - self.left(depth), h };
        self.tables.push(Placed { table, rect, parent });
        let weights: Vec<f64> = table.children.iter().map(|child| self.weight(child)).collect();
        let whole: f64 = weights.iter().sum();
        let mut y = y;
        let mut at = 0;
        while at < table.children.len() {
            // Neighbours that are leaves share an area, as they need no column.
            let run = table.children[at..].iter().take_while(|child| child.is_leaf()).count().max(1);
            let band = h * weights[at..at + run].iter().sum::<f64>() / whole;
            if table.children[at].is_leaf() {
                let area = Rect { x: inside, y, w: self.right - inside, h: band };
                let cells = rows(&weights[at..at + run], area);
                let leaves = table.children[at..at + run].iter().zip(cells);
                self.leaves.extend(leaves.map(|(table_, rect)| Placed { table: table_, rect, parent: Some(table) }));
            } else {
                self.place(&table.children[at], Some(table), depth + 1, y, band);
            }
            y += band;
            at += run;
        }
    }
}

/// The partitioned tables of each depth.
fn collect<'a>(table: &'a TreeNode, depth: usize, by_depth: &mut Vec<Vec<&'a TreeNode>>) {
    if table.is_leaf() {
        return;
    }
    if by_depth.len() == depth {
        by_depth.push(Vec::new());
    }
    by_depth[depth].push(table);
    table.children.iter().for_each(|child| collect(child, depth + 1, by_depth));
}

fn heading(tables: &[&TreeNode]) -> Option<String> {
    let key = tables.first()?.key.as_ref()?;
    tables.iter().all(|table| table.key.as_ref() == Some(key)).then(|| key.clone())
}

fn width(table: &TreeNode) -> f64 {
    let bound = table.bound().map(units::short_bound).unwrap_or_default();
    let key = table.key.as_deref().unwrap_or_default();
    let texts = [NAME.width(&table.name), PLAIN.width(&bound), PLAIN.width(&format!("by {key}"))];
    // As wide as the line with size and rows may be.
    texts.into_iter().fold(PLAIN.width("1023 MB · ~99.9 M rows"), f64::max) + 24.0
}

/// Cells in rows, in their order, of areas by weight: as many rows as make the cells good to write in.
fn rows(weights: &[f64], area: Rect) -> Vec<Rect> {
    let most = weights.len().min(4 * (weights.len() as f64).sqrt().ceil() as usize + 4);
    let layouts = (1..=most).map(|count| in_rows(weights, area, count));
    let unfit = |cells: &Vec<Rect>| cells.iter().map(|cell| (cell.w / cell.h / ASPECT).ln().abs()).sum::<f64>();
    layouts.min_by(|a, b| unfit(a).total_cmp(&unfit(b))).unwrap_or_default()
}

fn in_rows(weights: &[f64], area: Rect, count: usize) -> Vec<Rect> {
    let whole: f64 = weights.iter().sum();
    let mut cells = Vec::with_capacity(weights.len());
    let (mut y, mut at, mut before) = (area.y, 0, 0.0);
    for row in 0..count {
        let rows_left = count - row - 1;
        let goal = whole * (row + 1) as f64 / count as f64;
        let mut end = at;
        let mut sum = 0.0;
        // To the cell that brings the sum closest to its goal, but at least one for each row.
        while end < weights.len() - rows_left && (end == at || before + sum + weights[end] / 2.0 <= goal) {
            sum += weights[end];
            end += 1;
        }
        if rows_left == 0 {
            sum += weights[end..].iter().sum::<f64>();
            end = weights.len();
        }
        let h = area.h * sum / whole;
        let mut x = area.x;
        for weight in &weights[at..end] {
            let w = area.w * weight / sum;
            cells.push(Rect { x, y, w, h });
            x += w;
        }
        (y, at, before) = (y + h, end, before + sum);
    }
    cells
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cells_fill_their_area_by_weight(weights in prop::collection::vec(1.0f64..1e6, 1..80), w in 10.0f64..900.0, h in 10.0f64..900.0) {
            let area = Rect { x: 5.0, y: 7.0, w, h };
            let cells = rows(&weights, area);
            prop_assert_eq!(cells.len(), weights.len());
            let whole: f64 = weights.iter().sum();
            for (cell, weight) in cells.iter().zip(&weights) {
                let share = cell.w * cell.h / (w * h);
                prop_assert!((share - weight / whole).abs() < 1e-6);
                prop_assert!(cell.x > 4.999 && cell.y > 6.999 && cell.x + cell.w < 5.001 + w && cell.y + cell.h < 7.001 + h);
            }
        }
    }
}

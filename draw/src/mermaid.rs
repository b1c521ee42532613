//! The tree as a Mermaid flowchart: partitioned tables as boxes, leaves as stores in the colour of their node.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::palette::{Style, styles};
use super::{Sum, TreeNode, units};

/// Mermaid draws no more than 500 edges unless told so, and nobody reads that many.
const MAX_BOXES: usize = 400;

/// A flowchart from left to right. Of a tree with too many tables, the first of each branch are shown and the others
/// are counted.
pub fn mermaid(root: &TreeNode) -> String {
    let nodes = root.by_node();
    let mut chart = Chart {
        text: "flowchart LR\n".into(),
        boxes: 0,
        most: most_children(root),
        styles: styles(nodes.keys().copied()),
        classes: BTreeMap::new(),
    };
    chart.table(root);
    chart.legend(&nodes);
    chart.colours();
    chart.text
}

struct Chart<'a> {
    text: String,
    boxes: usize,
    /// Children of one table that are shown.
    most: usize,
    styles: BTreeMap<&'a str, Style>,
    /// The boxes of each node.
    classes: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Chart<'a> {
    fn table(&mut self, table: &'a TreeNode) -> usize {
        let id = self.next();
        let mut lines = vec![format!("<b>{}</b>", escape(&table.name))];
        lines.extend(table.bound().map(|bound| escape(&units::short_bound(bound))));
        if table.is_leaf() {
            lines.push(escape(&join([Some(table.node().to_owned()), amount(&table.sum())])));
            self.line(&format!("n{id}[(\"{}\")]", lines.join("<br/>")));
            self.classes.entry(table.node()).or_default().push(id);
            return id;
        }
        lines.extend(table.key.as_ref().map(|key| format!("<i>by {}</i>", escape(key))));
        self.line(&format!("n{id}[\"{}\"]", lines.join("<br/>")));
        let shown = if table.children.len() > self.most { self.most - 1 } else { table.children.len() };
        for child in &table.children[..shown] {
            let child = self.table(child);
            self.line(&format!("n{id} --> n{child}"));
        }
        if shown < table.children.len() {
            let mut sum = Sum::default();
            table.children[shown..].iter().for_each(|child| sum.add_all(child.sum()));
            let more = self.next();
            let text = join([Some(format!("{} more", table.children.len() - shown)), amount(&sum)]);
            self.line(&format!("n{more}([\"{}\"])", escape(&text)));
            self.line(&format!("n{id} -.-> n{more}"));
        }
        id
    }

    fn legend(&mut self, nodes: &BTreeMap<&'a str, Sum>) {
        self.line("subgraph nodes");
        for (name, sum) in nodes {
            let id = self.next();
            let text = join([Some(units::plural(sum.leaves, "leaf", "leaves")), amount(sum)]);
            self.line(&format!("  n{id}[\"<b>{}</b><br/>{}\"]", escape(name), escape(&text)));
            self.classes.entry(name).or_default().push(id);
        }
        self.line("end");
    }

    fn colours(&mut self) {
        let classes = std::mem::take(&mut self.classes);
        for (at, (node, boxes)) in classes.iter().enumerate() {
            let Some(style) = self.styles.get(node).copied() else { continue };
            // Beyond the colours, the outline tells nodes apart.
            let dashes = ["", ",stroke-dasharray:6 3", ",stroke-dasharray:2 2", ",stroke-width:4px"][style.pattern];
            self.line(&format!("classDef node{at} fill:{},stroke:#555,color:#111{dashes}", style.colour));
            let ids: Vec<_> = boxes.iter().map(|id| format!("n{id}")).collect();
            self.line(&format!("class {} node{at}", ids.join(",")));
        }
    }

    fn next(&mut self) -> usize {
        self.boxes += 1;
        self.boxes - 1
    }

    fn line(&mut self, line: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "  {line}");
    }
}

/// The most children per table with which the whole chart stays readable.
fn most_children(root: &TreeNode) -> usize {
    fn boxes(table: &TreeNode, most: usize) -> usize {
        let shown = if table.children.len() > most { most - 1 } else { table.children.len() };
        let more = usize::from(shown < table.children.len());
        1 + more + table.children[..shown].iter().map(|child| boxes(child, most)).sum::<usize>()
    }
    (2..=MAX_BOXES).rev().find(|most| boxes(root, *most) <= MAX_BOXES).unwrap_or(2)
}

fn amount(sum: &Sum) -> Option<String> {
    let rows = sum.rows.map(|rows| units::rows(&units::short_count(rows)));
    Some(join([rows, sum.bytes.map(units::size)])).filter(|text| !text.is_empty())
}

fn join<const N: usize>(words: [Option<String>; N]) -> String {
    words.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// Text inside a quoted label. Mermaid writes entities with a number sign.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '#' | '&' | '<' | '>' | '"' | '`' | ';' | '\\' => {
                let _ = write!(escaped, "#{};", u32::from(c));
            }
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

//! The tree in box-drawing characters, with aligned columns, and the totals of each node.

use super::{Sum, TreeNode, units};

/// Left-aligned columns first, numbers last.
const HEADINGS: [&str; 7] = ["table", "bound", "partitioned by", "node", "leaves", "rows", "size"];
const NUMBERS: usize = 4;

/// One line per table.
pub fn text(root: &TreeNode) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    line(root, String::new(), "", &mut rows);
    let mut text = table(&rows, NUMBERS);
    text.push('\n');
    text.push_str(&totals(root));
    text
}

fn line(table: &TreeNode, branch: String, indent: &str, rows: &mut Vec<[String; 7]>) {
    let sum = table.sum();
    rows.push([
        format!("{branch}{}", clean(&table.name)),
        clean(table.bound().unwrap_or_default()),
        clean(table.key.as_deref().unwrap_or_default()),
        if table.is_leaf() { clean(table.node()) } else { String::new() },
        if table.is_leaf() { String::new() } else { units::count(sum.leaves as f64) },
        number(&sum),
        size(&sum),
    ]);
    for (at, child) in table.children.iter().enumerate() {
        let (fork, stem) = if at + 1 == table.children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        line(child, format!("{indent}{fork}"), &format!("{indent}{stem}"), rows);
    }
}

fn totals(root: &TreeNode) -> String {
    let whole = root.sum();
    let total = |name: &str, sum: &Sum| {
        let share = match (sum.bytes, whole.bytes) {
            (Some(part), Some(all)) if !whole.is_partial => units::percent(part as f64, all as f64),
            _ => String::new(),
        };
        let leaves = units::count(sum.leaves as f64);
        [clean(name), leaves, number(sum), size(sum), share]
    };
    let mut rows = vec![["node", "leaves", "rows", "size", "share"].map(str::to_owned)];
    let nodes = root.by_node();
    rows.extend(nodes.iter().map(|(name, sum)| total(name, sum)));
    if nodes.len() > 1 {
        rows.push(total("all", &whole));
    }
    table(&rows, 1)
}

/// Servers estimate, they do not count. Of a server that did not answer, nobody knows.
fn number(sum: &Sum) -> String {
    with_unknown(sum, sum.rows.map(|rows| format!("~{}", units::count(rows))))
}

fn size(sum: &Sum) -> String {
    with_unknown(sum, sum.bytes.map(units::size))
}

fn with_unknown(sum: &Sum, known: Option<String>) -> String {
    match (known, sum.is_partial) {
        (Some(known), true) => format!("{known} + ?"),
        (None, true) => "?".to_string(),
        (known, false) => known.unwrap_or_default(),
    }
}

/// A name cannot break the lines of the picture.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Columns two spaces apart, a rule below the headings; from column `numbers` on aligned to the right. A column that
/// is empty below its heading is left out.
fn table<const N: usize>(rows: &[[String; N]], numbers: usize) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| units::columns(&row[column])).max().unwrap_or_default());
    let used: [bool; N] = std::array::from_fn(|column| rows.iter().skip(1).any(|row| !row[column].is_empty()));
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let mut line = String::new();
        let mut rule = String::new();
        for (column, cell) in row.iter().enumerate().filter(|(column, _)| used[*column]) {
            let padding = " ".repeat(widths[column] - units::columns(cell));
            let (before, after) = if column >= numbers { (padding.as_str(), "") } else { ("", padding.as_str()) };
            line.push_str(&format!("{before}{cell}{after}  "));
            rule.push_str(&format!("{}  ", "─".repeat(widths[column])));
        }
        text.push_str(line.trim_end());
        text.push('\n');
        if at == 0 {
            text.push_str(rule.trim_end());
            text.push('\n');
        }
    }
    text
}

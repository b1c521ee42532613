//! The tree to scale: partitioned tables from left to right, leaves as areas in the colour of their node.

mod draw;
mod header;
mod layout;
mod write;

use super::TreeNode;
use super::palette::styles;

use layout::{Layout, MARGIN, WIDTH};
use write::Svg;

/// A picture that stands alone. The area of a leaf is its size, though none is too small to be seen.
pub fn svg(root: &TreeNode) -> String {
    let nodes = root.by_node();
    let styles = styles(nodes.keys().copied());
    let layout = Layout::new(root);
    let legend = header::Legend::new(&nodes, layout.width());
    let header = legend.height();
    let (width, height) = (layout.width() + 2.0 * MARGIN, header + layout.height() + MARGIN);
    let mut svg = Svg::new(width.max(WIDTH), height, &format!("Partitions of {}", root.name));
    svg.patterns(styles.values());
    header::draw(&mut svg, root, &nodes, &styles, legend, layout.width());
    svg.group(MARGIN, header, |svg| draw::draw(svg, &layout, &styles));
    svg.finish()
}

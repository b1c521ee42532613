//! Pictures of a tree: complete, well formed whatever the names are, and readable.

use proptest::prelude::*;
use shardkeeper_draw::{TreeNode, mermaid, svg, text};

fn leaf(name: &str, bound: &str, node: &str, rows: f64, bytes: u64) -> TreeNode {
    TreeNode {
        name: name.into(),
        bound: Some(format!("FOR VALUES {bound}")),
        node: Some(node.into()),
        rows: Some(rows),
        bytes: Some(bytes),
        ..TreeNode::default()
    }
}

fn table(name: &str, bound: Option<&str>, key: &str, children: Vec<TreeNode>) -> TreeNode {
    let bound = bound.map(|bound| format!("FOR VALUES {bound}"));
    TreeNode { name: name.into(), bound, key: Some(key.into()), children, ..TreeNode::default() }
}

fn orders() -> TreeNode {
    let year = |year: i32, children| {
        table(
            &format!("orders_{year}"),
            Some(&format!("FROM ('{year}-01-01') TO ('{}-01-01')", year + 1)),
            "hash (customer_id)",
            children,
        )
    };
    table(
        "orders",
        None,
        "range (order_date)",
        vec![
            year(
                2024,
                vec![
                    leaf("orders_2024_0", "WITH (modulus 2, remainder 0)", "local", 1_234_567.0, 300 << 20),
                    leaf("orders_2024_1", "WITH (modulus 2, remainder 1)", "eu_2", 1_200_000.0, 290 << 20),
                ],
            ),
            year(2025, vec![leaf("orders_2025_0", "WITH (modulus 1, remainder 0)", "eu_2", 40.0, 16 << 10)]),
            TreeNode { bound: Some("DEFAULT".into()), rows: None, ..leaf("orders_default", "", "local", 0.0, 0) },
        ],
    )
}

#[test]
fn text_is_aligned_and_sums_up() {
    insta::assert_snapshot!(text(&orders()), @r##"
    table                bound                                  partitioned by      node   leaves        rows    size
    ───────────────────  ─────────────────────────────────────  ──────────────────  ─────  ──────  ──────────  ──────
    orders                                                      range (order_date)              4  ~2,434,607  590 MB
    ├─ orders_2024       FROM ('2024-01-01') TO ('2025-01-01')  hash (customer_id)              2  ~2,434,567  590 MB
    │  ├─ orders_2024_0  WITH (modulus 2, remainder 0)                              local          ~1,234,567  300 MB
    │  └─ orders_2024_1  WITH (modulus 2, remainder 1)                              eu_2           ~1,200,000  290 MB
    ├─ orders_2025       FROM ('2025-01-01') TO ('2026-01-01')  hash (customer_id)              1         ~40   16 kB
    │  └─ orders_2025_0  WITH (modulus 1, remainder 0)                              eu_2                  ~40   16 kB
    └─ orders_default    DEFAULT                                                    local                         0 B

    node   leaves        rows    size  share
    ─────  ──────  ──────────  ──────  ─────
    eu_2        2  ~1,200,040  290 MB   49 %
    local       2  ~1,234,567  300 MB   51 %
    all         4  ~2,434,607  590 MB  100 %
    "##);
}

#[test]
fn a_table_alone_is_a_picture_too() {
    let lone = TreeNode { name: "lone".into(), ..TreeNode::default() };
    insta::assert_snapshot!(text(&lone), @r##"
    table  node   rows  size
    ─────  ─────  ────  ────
    lone   local     ?     ?

    node   leaves  rows  size
    ─────  ──────  ────  ────
    local       1     ?     ?
    "##);
    assert!(mermaid(&lone).contains("lone") && well_formed(&svg(&lone)).is_ok());
}

#[test]
fn mermaid_draws_each_table_once_in_the_class_of_its_node() {
    insta::assert_snapshot!(mermaid(&orders()), @r##"
    flowchart LR
      n0["<b>orders</b><br/><i>by range (order_date)</i>"]
      n1["<b>orders_2024</b><br/>2024-01-01 → 2025-01-01<br/><i>by hash (customer_id)</i>"]
      n2[("<b>orders_2024_0</b><br/>0 of 2<br/>local · ~1.2 M rows · 300 MB")]
      n1 --> n2
      n3[("<b>orders_2024_1</b><br/>1 of 2<br/>eu_2 · ~1.2 M rows · 290 MB")]
      n1 --> n3
      n0 --> n1
      n4["<b>orders_2025</b><br/>2025-01-01 → 2026-01-01<br/><i>by hash (customer_id)</i>"]
      n5[("<b>orders_2025_0</b><br/>0 of 1<br/>eu_2 · ~40 rows · 16 kB")]
      n4 --> n5
      n0 --> n4
      n6[("<b>orders_default</b><br/>default<br/>local · 0 B")]
      n0 --> n6
      subgraph nodes
        n7["<b>eu_2</b><br/>2 leaves · ~1.2 M rows · 290 MB"]
        n8["<b>local</b><br/>2 leaves · ~1.2 M rows · 300 MB"]
      end
      classDef node0 fill:#77AADD,stroke:#555,color:#111
      class n3,n5,n7 node0
      classDef node1 fill:#D5D8DC,stroke:#555,color:#111
      class n2,n6,n8 node1
    "##);
}

#[test]
fn mermaid_stays_within_what_it_draws() {
    let leaves = (0..2000).map(|n| leaf(&format!("t_{n}"), &format!("IN ({n})"), "a", 1.0, 1)).collect();
    let chart = mermaid(&table("t", None, "list (x)", leaves));
    assert!(chart.lines().filter(|line| line.contains("->")).count() <= 400 && chart.len() < 50_000);
    assert!(chart.contains("([\"1602 more · ~1.6 k rows · 1.6 kB\"])"), "{chart}");
}

#[test]
fn svg_shows_names_bounds_nodes_and_shares() {
    let picture = svg(&orders());
    for said in
        ["orders_2024_1", "2024-01-01 → 2025-01-01", "by range (order_date)", "eu_2", "2 leaves · 300 MB · 51 %"]
    {
        assert!(picture.contains(said), "{said} is missing in\n{picture}");
    }
    assert!(!picture.contains("http://") || picture.matches("http://").count() == 1, "only the namespace");
}

/// Every tag closed, every entity known, no character that XML cannot hold; the number of elements.
fn well_formed(xml: &str) -> Result<usize, String> {
    let (mut open, mut count) = (Vec::new(), 0);
    let mut pieces = xml.split('<');
    if pieces.next() != Some("") {
        return Err("text before the document".into());
    }
    for piece in pieces {
        let (tag, text) = piece.split_once('>').ok_or_else(|| format!("<{piece} has no end"))?;
        for entity in tag.split('&').skip(1).chain(text.split('&').skip(1)) {
            let name = entity.split_once(';').map(|(name, _)| name);
            if !matches!(name, Some("amp" | "lt" | "gt" | "quot" | "#10")) {
                return Err(format!("entity &{entity}"));
            }
        }
        if tag.matches('"').count() % 2 != 0 {
            return Err(format!("quotes of <{tag}>"));
        }
        if let Some(name) = tag.strip_prefix('/') {
            let expected = open.pop();
            if expected != Some(name) {
                return Err(format!("</{name}> closes {expected:?}"));
            }
        } else {
            count += 1;
            if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().unwrap_or_default());
            }
        }
    }
    match xml.chars().find(|c| c.is_control() && *c != '\n') {
        Some(c) => Err(format!("character {c:?}")),
        None if !open.is_empty() => Err(format!("{open:?} not closed")),
        None => Ok(count),
    }
}

fn trees() -> impl Strategy<Value = TreeNode> {
    let words =
        || prop_oneof![3 => "[a-z_0-9]{1,30}", 1 => "\\PC{0,40}", 1 => "[<>&\"'`;#\\[\\](){}\\\\\n\u{0}-\u{8}]{0,8}"];
    let leaf = (
        words(),
        prop::option::of(words()),
        prop::option::of(words()),
        prop::option::of(any::<f64>()),
        prop::option::of(prop_oneof![any::<u64>(), 0u64..1_000_000]),
    )
        .prop_map(|(name, bound, node, rows, bytes)| TreeNode {
            name,
            bound,
            node,
            rows,
            bytes,
            ..TreeNode::default()
        });
    leaf.prop_recursive(5, 120, 24, move |below| {
        (words(), words(), prop::option::of(words()), prop::collection::vec(below, 0..24)).prop_map(
            |(name, key, bound, children)| TreeNode { name, bound, key: Some(key), children, ..TreeNode::default() },
        )
    })
}

fn tables(tree: &TreeNode) -> usize {
    1 + tree.children.iter().map(tables).sum::<usize>()
}

proptest! {
    #[test]
    fn svg_is_well_formed_and_has_a_tooltip_for_every_table(tree in trees()) {
        let picture = svg(&tree);
        if let Err(why) = well_formed(&picture) {
            return Err(TestCaseError::fail(why));
        }
        prop_assert!(picture.matches("<title>").count() > tables(&tree));
        prop_assert!(!picture.contains("NaN") || tree_says(&tree, "NaN"));
    }

    #[test]
    fn text_has_a_line_for_every_table_and_node(tree in trees()) {
        let text = text(&tree);
        let (above, below) = text.split_once("\n\n").unwrap();
        prop_assert_eq!(above.lines().count(), tables(&tree) + 2);
        prop_assert!(below.lines().count() >= 2);
    }

    #[test]
    fn mermaid_has_one_line_per_thing_and_no_bare_quotes(tree in trees()) {
        for line in mermaid(&tree).lines() {
            let line = line.trim();
            let plain = line.starts_with("flowchart") || line.starts_with("subgraph") || line.starts_with("class") || line == "end";
            prop_assert!(plain || line.starts_with('n'), "{}", line);
            prop_assert!(matches!(line.matches('"').count(), 0 | 2), "{}", line);
        }
    }
}

fn tree_says(tree: &TreeNode, word: &str) -> bool {
    format!("{tree:?}").contains(word)
}

//! Which level governs a table of the hierarchy: the labels on the way to it lead there.

use super::{BoundsRule, DEFAULT_LABEL, Level, Own, Ranges, Rule, Sub};
use crate::path::Path;

/// A level and where it stands: what its partitions inherit, and under which path they are counted.
#[derive(Clone, Debug)]
pub struct Site<'a> {
    /// The one in the spec, or the one that [`with`](Self::with) put there.
    pub level: &'a Level,
    pub(crate) path: Path,
    pub(crate) nodes: Option<Nodes<'a>>,
}

/// A `nodes` declaration and its path, which is the name of its counter.
#[derive(Clone, Debug)]
pub(crate) struct Nodes<'a> {
    pub list: &'a [String],
    pub path: Path,
}

impl<'a> Nodes<'a> {
    /// The nearer declaration, if there is one at `path`.
    pub(crate) fn nearer(own: Option<&'a Vec<String>>, path: &Path, above: Option<&Self>) -> Option<Self> {
        match own {
            Some(list) => Some(Self { list, path: path.field("nodes") }),
            None => above.cloned(),
        }
    }
}

impl<'a> Site<'a> {
    /// JSON path of the level in its spec.
    pub fn path(&self) -> &str {
        self.path.as_str()
    }

    /// The nodes over which the leaves of the partition `label` are dealt; `None` if nothing says so.
    pub fn nodes_of(&self, label: &str) -> Option<&'a [String]> {
        let part = self.level.part(label, &self.path);
        let own = part.own.and_then(|own| own.nodes.as_deref());
        own.or_else(|| self.nodes.as_ref().map(|nodes| nodes.list))
    }

    /// Whether the spec lists a partition with this label.
    pub fn lists(&self, label: &str) -> bool {
        self.level.part(label, &self.path).own.is_some()
    }

    /// The same place with another level in it: one that is to replace what the spec says there.
    pub fn with(&self, level: &'a Level) -> Site<'a> {
        let nodes = Nodes::nearer(level.nodes.as_ref(), &self.path, self.nodes.as_ref());
        Site { level, path: self.path.clone(), nodes }
    }

    /// The level below the partition `label`; `None` if that one is a leaf.
    pub fn below(&self, label: &str) -> Option<Site<'a>> {
        let part = self.level.part(label, &self.path);
        let nodes = Nodes::nearer(part.own.and_then(|own| own.nodes.as_ref()), &part.path, self.nodes.as_ref());
        let (level, path) = self.level.sub(part.own, &part.path, &self.path)?;
        let nodes = Nodes::nearer(level.nodes.as_ref(), &path, nodes.as_ref());
        Some(Site { level, path, nodes })
    }
}

/// One entry of the key of a level.
#[derive(Clone, Debug)]
pub struct KeyEntry<'a> {
    /// The level of whose key it is.
    pub level: &'a Level,
    /// A column name or an expression, as written.
    pub text: &'a str,
    /// Where it is written, as errors tell it.
    pub place: String,
}

/// What the spec says about one partition, and where.
pub(crate) struct Part<'a> {
    pub own: Option<&'a Own>,
    pub path: Path,
}

impl Level {
    /// The site of the root.
    pub fn site(&self) -> Site<'_> {
        let path = Path::root(self.form);
        let nodes = Nodes::nearer(self.nodes.as_ref(), &path, None);
        Site { level: self, path, nodes }
    }

    /// The level that partitions the table which these labels lead to, from the root on; `None` if it is a leaf.
    ///
    /// A label that the spec does not list (a period, a remainder, a partition added later) leads to the level that
    /// all partitions share.
    pub fn at<L: AsRef<str>>(&self, labels: &[L]) -> Option<Site<'_>> {
        labels.iter().try_fold(self.site(), |site, label| site.below(label.as_ref()))
    }

    /// Puts `level` in the place where these labels lead, for that branch alone. `false`, and nothing is changed, where
    /// the spec has no place of its own for the branch: a period, for example, shares its level with all others.
    pub fn replace_at<L: AsRef<str>>(&mut self, labels: &[L], level: Level) -> bool {
        let Some((label, rest)) = labels.split_first() else {
            *self = level;
            return true;
        };
        let shared = self.partitions.clone();
        let Some(own) = self.own_mut(label.as_ref()) else { return false };
        let mut below = match (&own.partitions, shared) {
            (Sub::Own(level), _) => level.clone(),
            (Sub::Inherit, Some(level)) => level,
            (Sub::Leaf, _) | (Sub::Inherit, None) => return false,
        };
        let replaced = below.replace_at(rest, level);
        if replaced {
            own.partitions = Sub::Own(below);
        }
        replaced
    }

    /// Takes a node off all lists of nodes; a list of it alone is left out. `false` if it was on none.
    pub fn forget_node(&mut self, node: &str) -> bool {
        let mut changed = forget(&mut self.nodes, node);
        let owns: Vec<&mut Own> = match &mut self.rule {
            Rule::List(parts) => parts.iter_mut().map(|part| &mut part.own).collect(),
            Rule::Bounds(BoundsRule { ranges: Ranges::Labelled(parts), .. }) => {
                parts.iter_mut().map(|part| &mut part.own).collect()
            }
            Rule::Bounds(_) | Rule::Interval(_) | Rule::Step(_) | Rule::Hash { .. } => Vec::new(),
        };
        for own in owns.into_iter().chain(self.default.as_mut().map(|default| &mut default.own)) {
            changed |= forget(&mut own.nodes, node);
            if let Sub::Own(level) = &mut own.partitions {
                changed |= level.forget_node(node);
            }
        }
        changed | self.partitions.as_mut().is_some_and(|level| level.forget_node(node))
    }

    fn own_mut(&mut self, label: &str) -> Option<&mut Own> {
        if label == DEFAULT_LABEL && self.default.is_some() {
            return self.default.as_mut().map(|default| &mut default.own);
        }
        match &mut self.rule {
            Rule::List(parts) => parts.iter_mut().find(|p| p.label == label).map(|p| &mut p.own),
            Rule::Bounds(rule) => match &mut rule.ranges {
                Ranges::Labelled(parts) => parts.iter_mut().find(|p| p.label == label).map(|p| &mut p.own),
                Ranges::Points(_) => None,
            },
            Rule::Interval(_) | Rule::Step(_) | Rule::Hash { .. } => None,
        }
    }

    /// The keys of this level and of all below it, each as often as it is written.
    pub fn key_entries(&self) -> Vec<KeyEntry<'_>> {
        let mut found = Vec::new();
        let mut pending = vec![(self, Path::root(self.form))];
        while let Some((level, path)) = pending.pop() {
            let key = path.field("key");
            let one = level.key.len() == 1;
            let place = |at| if one { key.to_string() } else { key.index(at).to_string() };
            found.extend(level.key.iter().enumerate().map(|(at, text)| KeyEntry { level, text, place: place(at) }));
            for (own, part) in level.parts(&path) {
                if let Sub::Own(sub) = &own.partitions {
                    pending.push((sub.as_ref(), part.field("partitions")));
                }
            }
            pending.extend(level.partitions.as_deref().map(|sub| (sub, path.field("partitions"))));
        }
        found
    }

    /// What single partitions say for themselves, and where.
    pub(crate) fn parts(&self, path: &Path) -> Vec<(&Own, Path)> {
        let mut found: Vec<(&Own, Path)> = match &self.rule {
            Rule::List(parts) => {
                let place = path.field("values");
                parts.iter().map(|part| (&part.own, place.field(&part.label))).collect()
            }
            Rule::Bounds(BoundsRule { ranges: Ranges::Labelled(parts), .. }) => {
                let place = path.field("bounds");
                parts.iter().map(|part| (&part.own, place.field(&part.label))).collect()
            }
            Rule::Bounds(_) | Rule::Interval(_) | Rule::Step(_) | Rule::Hash { .. } => Vec::new(),
        };
        found.extend(self.default.iter().map(|part| (&part.own, path.field("default"))));
        found
    }

    pub(crate) fn part(&self, label: &str, path: &Path) -> Part<'_> {
        if let (DEFAULT_LABEL, Some(default)) = (label, &self.default) {
            return Part { own: Some(&default.own), path: path.field("default") };
        }
        let (own, field) = match &self.rule {
            Rule::List(parts) => (parts.iter().find(|p| p.label == label).map(|p| &p.own), "values"),
            Rule::Bounds(rule) => match &rule.ranges {
                Ranges::Labelled(parts) => (parts.iter().find(|p| p.label == label).map(|p| &p.own), "bounds"),
                Ranges::Points(_) => (None, "bounds"),
            },
            Rule::Interval(_) | Rule::Step(_) | Rule::Hash { .. } => (None, ""),
        };
        match own {
            Some(_) => Part { own, path: path.field(field).field(label) },
            None => Part { own: None, path: path.clone() },
        }
    }

    /// The level below a partition of this level, at `path`, that says `own` at `part`.
    pub(crate) fn sub<'a>(&'a self, own: Option<&'a Own>, part: &Path, path: &Path) -> Option<(&'a Level, Path)> {
        match own.map(|own| &own.partitions) {
            Some(Sub::Own(level)) => Some((level.as_ref(), part.field("partitions"))),
            Some(Sub::Leaf) => None,
            Some(Sub::Inherit) | None => Some((self.partitions.as_deref()?, path.field("partitions"))),
        }
    }
}

fn forget(nodes: &mut Option<Vec<String>>, node: &str) -> bool {
    let Some(list) = nodes else { return false };
    let before = list.len();
    list.retain(|known| known != node);
    let changed = list.len() < before;
    if list.is_empty() {
        *nodes = None;
    }
    changed
}

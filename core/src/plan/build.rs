//! Names and nodes: the walk that turns resolved levels into tables, of a whole hierarchy or of partitions that replace others.

use std::collections::{BTreeMap, HashMap};

use super::parts::{Draft, Name, Resolved};
use super::{LOCAL, Partition, PlanInput, Tree};
use crate::error::{Result, SpecError};
use crate::name;
use crate::spec::Nodes;

pub(super) struct Builder<'i> {
    pub dealt: BTreeMap<String, u64>,
    /// All leaves go here, whatever the spec says.
    forced: Option<&'i str>,
    /// Where each name was given.
    names: HashMap<String, String>,
}

impl<'i> Builder<'i> {
    pub(super) fn new(input: &PlanInput<'_>, forced: Option<&'i str>) -> Self {
        let names = HashMap::from([(input.root.to_owned(), "the table itself".to_owned())]);
        Self { dealt: input.dealt.clone(), forced, names }
    }

    pub(super) fn tree(&mut self, level: &Resolved<'_>, parent: &str, nodes: Option<&Nodes<'_>>) -> Result<Tree> {
        let part = |(draft, sub): &(Draft<'_>, _)| self.partition(draft, Option::as_deref(sub), parent, nodes);
        Ok(Tree {
            method: level.level.method(),
            key: level.level.key.clone(),
            partitions: level.parts.iter().map(part).collect::<Result<_>>()?,
        })
    }

    /// `nodes` is the declaration that governs the level of the partition.
    pub(super) fn partition(
        &mut self,
        draft: &Draft<'_>,
        sub: Option<&Resolved<'_>>,
        parent: &str,
        nodes: Option<&Nodes<'_>>,
    ) -> Result<Partition> {
        let name = self.name(draft, parent)?;
        let nodes = Nodes::nearer(draft.own.and_then(|own| own.nodes.as_ref()), &draft.path, nodes);
        let (node, deal, sub) = match sub {
            Some(sub) => {
                let nodes = Nodes::nearer(sub.level.nodes.as_ref(), &sub.path, nodes.as_ref());
                (None, String::new(), Some(self.tree(sub, &name, nodes.as_ref())?))
            }
            None => {
                let (node, deal) = self.deal(nodes.as_ref());
                (Some(node), deal, None)
            }
        };
        let (label, bound, path) = (draft.label.clone(), draft.bound.clone(), draft.path.to_string());
        Ok(Partition { name, label, bound, node, deal, sub, path })
    }

    /// By the template of the level, or as the spec has it.
    fn name(&mut self, draft: &Draft<'_>, parent: &str) -> Result<String> {
        let name = match draft.name {
            Name::Template(template) => name::make(template, parent, &draft.label),
            Name::Literal(name) => name.to_owned(),
        };
        match self.names.insert(name.clone(), draft.path.to_string()) {
            None => Ok(name),
            Some(first) => Err(SpecError::new(&draft.path, format!("two tables would be called \"{name}\""))
                .detail(format!("The name is given by {first} and by {} (\"{}\").", draft.path, draft.label))
                .hint("Change a label, or the \"name\" template of a level.")),
        }
    }

    /// The next node of the declaration, which counts on.
    fn deal(&mut self, nodes: Option<&Nodes<'_>>) -> (String, String) {
        if let Some(node) = self.forced {
            return (node.to_owned(), String::new());
        }
        let Some(Nodes { list, path }) = nodes.filter(|nodes| !nodes.list.is_empty()) else {
            return (LOCAL.to_owned(), String::new());
        };
        let path = path.as_str().to_owned();
        let count = self.dealt.entry(path.clone()).or_default();
        let turn = (*count % list.len() as u64) as usize;
        *count = count.wrapping_add(1);
        (list[turn].clone(), path)
    }
}

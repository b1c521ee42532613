//! Leaves of one table that others replace: what is known of them, and the operation that replaces them.

use super::invalid;
use crate::catalog::operation::Plan;
use crate::catalog::partition;
use crate::error::{Report, Result};
use crate::hierarchy::managed_parent::ManagedParent;
use crate::hierarchy::partition_keys::KeyType;
use crate::hierarchy::tree_tables::TreeTable;
use crate::name::{QualifiedName, ident};
use crate::pg::sql;
use crate::reshard::plan::{Decided, beside, known_node, leaf_of, source};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;
use shardkeeper_core::operation::Kind;
use shardkeeper_core::plan::{self, Bound, NewPartition, Partition, PlanInput};
use shardkeeper_core::spec::Site;

pub(super) type Values = Vec<Option<String>>;

/// A partition that goes.
pub(super) struct Piece {
    pub oid: Oid,
    pub name: QualifiedName,
    pub label: String,
    pub bound: Bound,
    pub node: String,
}

/// Leaves of one table that others replace.
pub(super) struct Change {
    pub managed: ManagedParent,
    above: Oid,
    /// To the table above them.
    labels: Vec<String>,
    pub sources: Vec<Piece>,
}

impl Change {
    pub(super) fn open(leaves: &[Oid]) -> Result<Self> {
        let mut found: Option<Self> = None;
        for leaf in leaves {
            let (managed, labels) = ManagedParent::open(*leaf)?;
            let (member, above) = leaf_of(&managed, *leaf)?;
            let Some(bound) = member.bound()? else { return crate::catalog::parent::not_managed(*leaf) };
            let (label, labels) = match labels.split_last() {
                Some((last, rest)) => (last.clone(), rest.to_vec()),
                None => (member.name.name.clone(), Vec::new()),
            };
            let piece = Piece { oid: *leaf, name: member.name.clone(), label, bound, node: member.node().to_string() };
            let above = above.oid();
            match &mut found {
                None => found = Some(Self { managed, above, labels, sources: vec![piece] }),
                Some(change) if change.above != above => {
                    let first = change.sources.first().map(|piece| piece.name.to_string()).unwrap_or_default();
                    return invalid(format!("{first} and {} are not partitions of one table", piece.name)).into();
                }
                Some(change) if change.sources.iter().any(|known| known.oid == piece.oid) => {
                    return invalid(format!("{} is named twice", piece.name)).into();
                }
                Some(change) => change.sources.push(piece),
            }
        }
        found.map_or_else(|| invalid("no partition is named").into(), Ok)
    }

    pub(super) fn above(&self) -> Result<&TreeTable> {
        self.managed.member(self.above)
    }

    pub(super) fn site(&self) -> Result<Site<'_>> {
        match self.managed.level.at(&self.labels) {
            Some(site) => Ok(site),
            None => Report::new(
                Code::ERRCODE_INTERNAL_ERROR,
                format!("no level of the spec describes {}", self.above()?.name),
            )
            .into(),
        }
    }

    /// Lets `work` read bounds of the level.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Site<'_>, &PlanInput<'_>) -> Result<T>) -> Result<T> {
        let keys = self.managed.keys()?;
        let input = PlanInput {
            root: &self.above()?.name.name,
            now: self.managed.now()?,
            kind: &|key| keys.kind(key),
            dealt: self.managed.catalog.dealt.clone(),
            max_leaves: plan::DEFAULT_MAX_LEAVES,
        };
        work(&self.site()?, &input)
    }

    /// The type of the key of a list level.
    pub(super) fn key(&self) -> Result<KeyType> {
        let keys = self.managed.keys()?;
        match keys.types(&self.site()?.level.key)[..] {
            [key] => Ok(key.clone()),
            _ => Report::new(Code::ERRCODE_INTERNAL_ERROR, "a list key has one column").into(),
        }
    }

    pub(super) fn values(&self) -> Values {
        let lists = self.sources.iter().filter_map(|piece| match &piece.bound {
            Bound::List { values } => Some(values.clone()),
            _ => None,
        });
        lists.flatten().collect()
    }

    pub(super) fn most_common_node(&self) -> String {
        let count = |node: &str| self.sources.iter().filter(|piece| piece.node == node).count();
        let mut best = &self.sources[0].node;
        for piece in &self.sources {
            if count(&piece.node) > count(best) {
                best = &piece.node;
            }
        }
        best.clone()
    }

    pub(super) fn foreign_value<T>(&self, piece: &Piece, place: &str) -> Result<T> {
        let values = self.managed.member(piece.oid)?.values.clone().unwrap_or_default();
        invalid(format!("{place}: the value is not in {}", piece.name))
            .detail(format!("The partition is {values}."))
            .into()
    }

    /// `FOR VALUES …` of a source.
    pub(super) fn shown(&self, at: usize) -> Result<String> {
        Ok(self.managed.member(self.sources[at].oid)?.values.clone().unwrap_or_default())
    }

    /// The operation that puts these partitions in the place of the sources. Where no node is given for one, the spec says
    /// where it goes; where that names none, it goes to the node of the first source.
    pub(super) fn decide(self, kind: Kind, new: Vec<NewPartition>, nodes: &[Option<String>]) -> Result<Decided> {
        for node in nodes.iter().flatten() {
            known_node(node)?;
        }
        let site = self.site()?;
        self.labels_are_free(&site, &new)?;
        let (targets, level, dealt) = self.read(|site, input| {
            let gone: Vec<_> = self.sources.iter().map(|piece| (piece.label.as_str(), &piece.bound)).collect();
            let come: Vec<_> = new.iter().map(|piece| (piece.label.as_str(), &piece.bound)).collect();
            let level = plan::replaced(site, &gone, &come, input);
            let new_site = level.as_ref().map_or_else(|| site.clone(), |level| site.with(level));
            let mut input = PlanInput { dealt: input.dealt.clone(), ..*input };
            let mut targets = Vec::new();
            for (piece, node) in new.iter().zip(nodes) {
                let (mut partition, mut dealt) = plan::expand_one(&new_site, piece, node.as_deref(), &input)?;
                if node.is_none() && partition.deal.is_empty() {
                    (partition, dealt) = plan::expand_one(&new_site, piece, Some(&self.sources[0].node), &input)?;
                }
                input.dealt = dealt;
                targets.push(partition);
            }
            Ok((targets, level.clone(), input.dealt.clone()))
        })?;
        self.names_are_free(&targets)?;
        let mut spec = self.managed.level.clone();
        if let Some(level) = level {
            spec.replace_at(&self.labels, level);
        }
        let names = |names: Vec<String>| names.join(", ");
        let subject = format!(
            "{} to {}",
            names(self.sources.iter().map(|piece| piece.name.to_string()).collect()),
            names(targets.iter().map(|target| ident(&target.name)).collect())
        );
        let sources = self.sources.iter().map(|piece| {
            let member = self.managed.member(piece.oid)?;
            Ok(source(&self.managed, member, piece.label.clone(), piece.bound.clone()))
        });
        let plan = Plan {
            above: self.above()?.name.clone(),
            labels: self.labels.clone(),
            method: site.level.method(),
            key: site.level.key.clone(),
            sources: sources.collect::<Result<_>>()?,
            targets,
            beside: beside(&self.managed, self.above, &self.sources.iter().map(|piece| piece.oid).collect::<Vec<_>>())?,
            spec: spec.to_json(),
            dealt,
            ..Plan::default()
        };
        Ok(Decided { managed: self.managed, kind, subject, plan })
    }

    /// A label finds its part of the spec: that of another partition must not be taken.
    fn labels_are_free(&self, site: &Site<'_>, new: &[NewPartition]) -> Result<()> {
        let out_of_default = new.iter().any(|piece| piece.bound == Bound::Default);
        let labels = partition::labels(self.managed.root)?;
        let siblings: Vec<&String> =
            self.managed.children(self.above).filter_map(|child| labels.get(&child.oid().to_u32())).collect();
        for (at, piece) in new.iter().enumerate() {
            let goes = self.sources.iter().any(|gone| gone.label == piece.label);
            let twice = new[..at].iter().any(|other| other.label == piece.label);
            // Out of a default partition comes what may have been dropped before: it finds its part of the spec again.
            let taken = if out_of_default { siblings.contains(&&piece.label) } else { site.lists(&piece.label) };
            if twice || (!goes && taken) {
                return invalid(format!("two partitions would have the label \"{}\"", piece.label))
                    .hint("Give it another label or name.")
                    .into();
            }
        }
        Ok(())
    }

    fn names_are_free(&self, targets: &[Partition]) -> Result<()> {
        let gone: Vec<String> = self.sources.iter().map(|piece| piece.name.name.clone()).collect();
        let names: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
        let twice =
            names.iter().enumerate().find(|(at, name)| names[..*at].contains(*name)).map(|(_, name)| name.clone());
        let taken = sql::one::<String>(
            "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = ANY ($2::text[]) AND c.relname <> ALL ($3::text[]) LIMIT 1",
            &[self.managed.name().schema.as_str().into(), names.into(), gone.into()],
        )?;
        match twice.or(taken) {
            None => Ok(()),
            Some(name) => Report::new(
                Code::ERRCODE_DUPLICATE_TABLE,
                format!("relation {} already exists", self.managed.name().sibling(name)),
            )
            .detail("A new partition would get this name.")
            .hint("Rename what has it, or choose other labels or another name.")
            .into(),
        }
    }
}

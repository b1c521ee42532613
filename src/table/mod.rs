//! One table: what it is (`definition`), and the commands that make it and each of its objects (`columns`, `ddl`); what it needs of
//! a server, and which one is too old for it (`required_types`, `newer_features`); which publications it is in (`publications`).

pub mod columns;
pub mod ddl;
pub mod definition;
pub mod newer_features;
pub mod publications;
pub mod required_types;

//! What happens to definitions: `manual_ddl` judges commands that users run themselves on tables of a hierarchy, `drift` compares
//! nodes with the coordinator, `come_back` brings back what was dropped by hand.

pub mod come_back;
pub mod drift;
pub mod manual_ddl;

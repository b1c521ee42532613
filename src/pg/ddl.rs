//! What a command of a user changes, read from what event triggers are given: its parse tree, and what Postgres collected of it.

use super::list::pointers;
use pgrx::{Internal, pg_sys};
use std::ffi::CStr;

/// One change that a command made.
#[derive(Debug, PartialEq)]
pub struct Part {
    /// The partition that was attached or made; zero for other changes. Of one that was detached Postgres does not tell it.
    pub partition: pg_sys::Oid,
    /// The name or schema that the object had before.
    pub before: Option<String>,
    /// As it is written in SQL.
    pub words: &'static str,
    pub concern: Concern,
}

/// What a change has to do with other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// What tables on all servers have in common: columns, types, constraints, indexes, owner.
    Shape,
    /// The same, of a column's name.
    Column,
    /// The name of a table, which is the same on all servers.
    Name,
    /// The schema of one table.
    Schema,
    Attach,
    Detach,
    /// A trigger with a transition table.
    Transition,
}

impl Concern {
    pub fn word(self) -> &'static str {
        match self {
            Concern::Shape => "shape",
            Concern::Column => "column",
            Concern::Name => "name",
            Concern::Schema => "schema",
            Concern::Attach => "attach",
            Concern::Detach => "detach",
            Concern::Transition => "transition",
        }
    }
}

/// The changes of a `pg_ddl_command` that matter to other servers. What is not known to be harmless is among them.
pub fn parts(command: &Internal) -> Vec<Part> {
    // SAFETY: the SQL function takes a pg_ddl_command, which only pg_event_trigger_ddl_commands() makes: a pointer to a
    // CollectedCommand that lives as long as the event trigger runs.
    let Some(command) = (unsafe { command.get::<pg_sys::CollectedCommand>() }) else { return Vec::new() };
    match command.type_ {
        // SAFETY: the type says which member of the union is set; a list of it has CollectedATSubcmd nodes, whose parse tree
        // is an AlterTableCmd where its tag says so.
        pg_sys::CollectedCommandType::SCT_AlterTable => unsafe {
            pointers::<pg_sys::CollectedATSubcmd>(command.d.alterTable.subcmds)
                .map(|part| &*part)
                .filter(|part| (*part.parsetree).type_ == pg_sys::NodeTag::T_AlterTableCmd)
                .filter_map(|part| {
                    let (words, concern) = of_action((*part.parsetree.cast::<pg_sys::AlterTableCmd>()).subtype)?;
                    // Indexes are attached by a restore, one by one.
                    if concern == Concern::Attach && is_index(command.d.alterTable.objectId) {
                        return None;
                    }
                    Some(Part { partition: part.address.objectId, before: None, words, concern })
                })
                .collect()
        },
        // SAFETY: as above; of a simple command the address is that of the object.
        pg_sys::CollectedCommandType::SCT_Simple => unsafe {
            let Some((words, concern)) = statement(command.parsetree) else { return Vec::new() };
            let object = command.d.simple.address.objectId;
            // ALTER INDEX renames tables, too.
            let (words, concern) = match words {
                RENAME_INDEX if !is_index(object) => ("RENAME TO", Concern::Name),
                _ => (words, concern),
            };
            let partition = if concern == Concern::Attach { object } else { pg_sys::InvalidOid };
            let before = match concern {
                Concern::Schema => name(pg_sys::get_namespace_name(command.d.simple.secondaryObject.objectId)),
                Concern::Name => old_name(&*command.parsetree.cast::<pg_sys::RenameStmt>()),
                _ => None,
            };
            vec![Part { partition, before, words, concern }]
        },
        _ => Vec::new(),
    }
}

fn is_index(relation: pg_sys::Oid) -> bool {
    // SAFETY: any number may be asked for.
    let kind = unsafe { pg_sys::get_rel_relkind(relation) } as u8;
    [pg_sys::RELKIND_INDEX, pg_sys::RELKIND_PARTITIONED_INDEX].contains(&kind)
}

/// An action of `ALTER TABLE`; `None` for one that servers need not agree on.
#[allow(non_upper_case_globals)]
fn of_action(action: pg_sys::AlterTableType::Type) -> Option<(&'static str, Concern)> {
    use Concern::{Attach, Detach, Shape};
    use pg_sys::AlterTableType::*;
    Some(match action {
        // Rows get their defaults and identities here, and statistics, triggers, rules and policies are looked at here.
        AT_ColumnDefault | AT_CookedColumnDefault | AT_AddIdentity | AT_SetIdentity | AT_DropIdentity => return None,
        AT_SetStatistics | AT_SetOptions | AT_ResetOptions | AT_ReAddStatistics | AT_ReAddComment => return None,
        AT_EnableTrig | AT_EnableAlwaysTrig | AT_EnableReplicaTrig | AT_DisableTrig | AT_EnableTrigAll
        | AT_DisableTrigAll | AT_EnableTrigUser | AT_DisableTrigUser => return None,
        AT_EnableRule | AT_EnableAlwaysRule | AT_EnableReplicaRule | AT_DisableRule => return None,
        AT_EnableRowSecurity | AT_DisableRowSecurity | AT_ForceRowSecurity | AT_NoForceRowSecurity => return None,
        // How a server stores its own tables.
        AT_SetRelOptions | AT_ResetRelOptions | AT_ReplaceRelOptions | AT_SetTableSpace | AT_SetAccessMethod
        | AT_ClusterOn | AT_DropCluster | AT_SetLogged | AT_SetUnLogged | AT_DropOids => return None,
        AT_AttachPartition => ("ATTACH PARTITION", Attach),
        AT_DetachPartition | AT_DetachPartitionFinalize => ("DETACH PARTITION", Detach),
        AT_AddColumn => ("ADD COLUMN", Shape),
        AT_DropColumn => ("DROP COLUMN", Shape),
        AT_AlterColumnType => ("ALTER COLUMN … TYPE", Shape),
        AT_SetNotNull => ("SET NOT NULL", Shape),
        AT_DropNotNull => ("DROP NOT NULL", Shape),
        AT_DropExpression => ("DROP EXPRESSION", Shape),
        AT_SetStorage => ("SET STORAGE", Shape),
        AT_SetCompression => ("SET COMPRESSION", Shape),
        AT_AddConstraint | AT_AddIndexConstraint | AT_AddIndex => ("ADD CONSTRAINT", Shape),
        AT_AlterConstraint => ("ALTER CONSTRAINT", Shape),
        AT_ValidateConstraint => ("VALIDATE CONSTRAINT", Shape),
        AT_DropConstraint => ("DROP CONSTRAINT", Shape),
        AT_ReplicaIdentity => ("REPLICA IDENTITY", Shape),
        AT_ChangeOwner => ("OWNER TO", Shape),
        AT_GenericOptions | AT_AlterColumnGenericOptions => ("OPTIONS", Shape),
        AT_AddOf | AT_DropOf => ("OF", Shape),
        AT_AddInherit | AT_DropInherit => ("INHERIT", Shape),
        #[cfg(feature = "pg15")]
        AT_AddColumnRecurse => ("ADD COLUMN", Shape),
        #[cfg(feature = "pg15")]
        AT_DropColumnRecurse => ("DROP COLUMN", Shape),
        #[cfg(feature = "pg15")]
        AT_AddConstraintRecurse => ("ADD CONSTRAINT", Shape),
        #[cfg(feature = "pg15")]
        AT_ValidateConstraintRecurse => ("VALIDATE CONSTRAINT", Shape),
        #[cfg(feature = "pg15")]
        AT_DropConstraintRecurse => ("DROP CONSTRAINT", Shape),
        _ => ("this ALTER TABLE", Shape),
    })
}

/// # Safety
/// `tree` is null or a valid parse tree of a statement.
unsafe fn statement(tree: *const pg_sys::Node) -> Option<(&'static str, Concern)> {
    use Concern::{Shape, Transition};
    use pg_sys::NodeTag;
    // SAFETY: each node is looked at as what its tag says.
    unsafe {
        let tag = tree.as_ref()?.type_;
        match tag {
            NodeTag::T_RenameStmt => of_rename((*tree.cast::<pg_sys::RenameStmt>()).renameType),
            NodeTag::T_AlterObjectSchemaStmt => Some(("SET SCHEMA", Concern::Schema)),
            NodeTag::T_AlterOwnerStmt => None,
            NodeTag::T_IndexStmt => Some(("CREATE INDEX", Shape)),
            NodeTag::T_AlterEnumStmt => Some(match (*tree.cast::<pg_sys::AlterEnumStmt>()).oldVal.is_null() {
                true => ("ADD VALUE", Shape),
                false => ("RENAME VALUE", Shape),
            }),
            NodeTag::T_AlterDomainStmt => match (*tree.cast::<pg_sys::AlterDomainStmt>()).subtype as u8 {
                b'T' => None,
                _ => Some(("ALTER DOMAIN", Shape)),
            },
            NodeTag::T_CreateTrigStmt => {
                let made = &*tree.cast::<pg_sys::CreateTrigStmt>();
                (!made.transitionRels.is_null()).then_some(("CREATE TRIGGER", Transition))
            }
            NodeTag::T_CreateStmt => partition_of(&*tree.cast::<pg_sys::CreateStmt>(), "CREATE TABLE"),
            NodeTag::T_CreateForeignTableStmt => {
                partition_of(&(*tree.cast::<pg_sys::CreateForeignTableStmt>()).base, "CREATE FOREIGN TABLE")
            }
            _ => None,
        }
    }
}

fn partition_of(made: &pg_sys::CreateStmt, words: &'static str) -> Option<(&'static str, Concern)> {
    (!made.partbound.is_null()).then_some((words, Concern::Attach))
}

const RENAME_INDEX: &str = "ALTER INDEX … RENAME";

fn of_rename(object: pg_sys::ObjectType::Type) -> Option<(&'static str, Concern)> {
    use pg_sys::ObjectType::*;
    match object {
        OBJECT_COLUMN => Some(("RENAME COLUMN", Concern::Column)),
        OBJECT_TABLE | OBJECT_FOREIGN_TABLE => Some(("RENAME TO", Concern::Name)),
        OBJECT_SCHEMA => Some(("ALTER SCHEMA", Concern::Name)),
        OBJECT_TABCONSTRAINT => Some(("RENAME CONSTRAINT", Concern::Shape)),
        OBJECT_INDEX => Some((RENAME_INDEX, Concern::Shape)),
        OBJECT_FOREIGN_SERVER => Some(("ALTER SERVER … RENAME", Concern::Name)),
        OBJECT_TYPE | OBJECT_DOMAIN => Some(("RENAME TO", Concern::Shape)),
        OBJECT_ATTRIBUTE => Some(("RENAME ATTRIBUTE", Concern::Shape)),
        OBJECT_DOMCONSTRAINT => Some(("RENAME CONSTRAINT", Concern::Shape)),
        OBJECT_COLLATION => Some(("ALTER COLLATION", Concern::Shape)),
        _ => None,
    }
}

/// # Safety
/// The statement is a valid parse tree.
unsafe fn old_name(renaming: &pg_sys::RenameStmt) -> Option<String> {
    // SAFETY: the caller vouches for the tree, in which names are NUL-terminated or null.
    unsafe {
        match renaming.renameType {
            pg_sys::ObjectType::OBJECT_SCHEMA => name(renaming.subname),
            pg_sys::ObjectType::OBJECT_FOREIGN_SERVER => name(renaming.object.cast::<pg_sys::String>().as_ref()?.sval),
            _ => name(renaming.relation.as_ref()?.relname),
        }
    }
}

/// # Safety
/// `text` is null or a valid NUL-terminated string.
unsafe fn name(text: *const std::ffi::c_char) -> Option<String> {
    // SAFETY: the caller vouches for the string.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// A partition that the command about to run would detach: its number, and whether concurrently.
pub struct Detaching {
    pub partition: pg_sys::Oid,
    pub concurrently: bool,
}

/// What the `ALTER TABLE` that an event trigger is called for would detach.
pub fn detaching(call: pg_sys::FunctionCallInfo) -> Vec<Detaching> {
    // SAFETY: the function manager hands a valid call; an event trigger's context is an EventTriggerData with the parse
    // tree of the command. Nodes are looked at as what their tags say, and names are looked up without a lock.
    unsafe {
        let context = (*call).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
            return Vec::new();
        }
        let tree = (*context.cast::<pg_sys::EventTriggerData>()).parsetree;
        if tree.is_null() || (*tree).type_ != pg_sys::NodeTag::T_AlterTableStmt {
            return Vec::new();
        }
        pointers::<pg_sys::AlterTableCmd>((*tree.cast::<pg_sys::AlterTableStmt>()).cmds)
            .map(|action| &*action)
            .filter(|action| action.subtype == pg_sys::AlterTableType::AT_DetachPartition)
            .filter_map(|action| {
                let detached = action.def.cast::<pg_sys::PartitionCmd>().as_ref()?;
                let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
                let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
                let partition =
                    pg_sys::RangeVarGetRelidExtended(detached.name, lock, missing_ok, None, std::ptr::null_mut());
                Some(Detaching { partition, concurrently: detached.concurrent })
            })
            .collect()
    }
}

//! What a text is to Postgres's own grammar, so that text from a user never becomes more SQL than it should be.

use super::list::pointers;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

pub const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// A name without any operator, call or quote.
pub fn is_plain_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphanumeric() || c == '_' || c == '$')
}

/// Whether the text is exactly one expression. A text that is no SQL at all raises Postgres's syntax error.
pub fn is_one_expression(text: &str) -> bool {
    // A comment would swallow what is written around the expression wherever it is used.
    if text.contains("--") || text.contains("/*") {
        return false;
    }
    // Inside parentheses a comma would make a row.
    let Ok(wrapped) = CString::new(format!("SELECT ({text}\n)")) else { return false };
    let Ok(bare) = CString::new(format!("SELECT {text}\n")) else { return false };
    one_plain_target(&wrapped) && one_plain_target(&bare)
}

/// Whether a statement of the text is a `SET` or `RESET` whose effect would outlive the transaction.
pub fn sets_for_session(text: &str) -> bool {
    let Ok(query) = CString::new(text) else { return false };
    // SAFETY: raw_parser only reads the NUL-terminated text and returns a list of RawStmt nodes, or raises. A node is looked at as
    // a VariableSetStmt only after its tag was compared; its name is a string, or null.
    unsafe {
        let parsed = pg_sys::raw_parser(query.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        pointers::<pg_sys::RawStmt>(parsed).any(|raw| {
            if (*(*raw).stmt).type_ != pg_sys::NodeTag::T_VariableSetStmt {
                return false;
            }
            let set = &*(*raw).stmt.cast::<pg_sys::VariableSetStmt>();
            // SET TRANSACTION and SET CONSTRAINTS are about the transaction.
            let about_transaction = set.kind == pg_sys::VariableSetKind::VAR_SET_MULTI
                && !set.name.is_null()
                && CStr::from_ptr(set.name).to_bytes().starts_with(b"TRANSACTION");
            !set.is_local && !about_transaction
        })
    }
}

/// The statements of a text, or `None` where one of them begins or ends a transaction. A text that is no SQL raises Postgres's
/// syntax error.
pub fn statements(text: &str) -> Option<Vec<String>> {
    let Ok(query) = CString::new(text) else { return Some(vec![text.to_string()]) };
    let mut found = Vec::new();
    // SAFETY: as below; location and length are offsets into the text, and looked up as such.
    unsafe {
        let statements = pg_sys::raw_parser(query.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        let count = if statements.is_null() { 0 } else { (*statements).length as usize };
        for at in 0..count {
            let raw = &*(*(*statements).elements.add(at)).ptr_value.cast::<pg_sys::RawStmt>();
            if (*raw.stmt).type_ == pg_sys::NodeTag::T_TransactionStmt {
                return None;
            }
            let start = usize::try_from(raw.stmt_location).unwrap_or(0);
            let end = match usize::try_from(raw.stmt_len) {
                Ok(length) if length > 0 => start + length,
                _ => text.len(),
            };
            found.extend(text.get(start..end).map(str::to_string));
        }
    }
    Some(found)
}

fn one_plain_target(query: &CString) -> bool {
    // SAFETY: raw_parser only reads the NUL-terminated text and returns a list of RawStmt nodes, or raises. Each node
    // is looked at as a SelectStmt only after its tag was compared, and lists are asked for their length only.
    unsafe {
        let statements = pg_sys::raw_parser(query.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        if statements.is_null() || (*statements).length != 1 {
            return false;
        }
        let raw = (*(*statements).elements).ptr_value.cast::<pg_sys::RawStmt>();
        let node = (*raw).stmt;
        if (*node).type_ != pg_sys::NodeTag::T_SelectStmt {
            return false;
        }
        let select = &*node.cast::<pg_sys::SelectStmt>();
        let one_target = !select.targetList.is_null() && (*select.targetList).length == 1;
        one_target
            && select.distinctClause.is_null()
            && select.intoClause.is_null()
            && select.fromClause.is_null()
            && select.whereClause.is_null()
            && select.groupClause.is_null()
            && select.havingClause.is_null()
            && select.windowClause.is_null()
            && select.valuesLists.is_null()
            && select.sortClause.is_null()
            && select.limitOffset.is_null()
            && select.limitCount.is_null()
            && select.lockingClause.is_null()
            && select.withClause.is_null()
            && select.op == pg_sys::SetOperation::SETOP_NONE
    }
}

//! The bounds of an existing partition, as Postgres stores them.

use crate::error::Result;
use pgrx::pg_sys;
use shardkeeper_core::plan::{Bound, Limit};
use std::ffi::{CStr, CString};

/// Reads `pg_class.relpartbound` as text. Values are written by their types' output functions: the caller has DateStyle
/// ISO, so that every server reads them alike.
pub fn read(relpartbound: &str) -> Result<Option<Bound>> {
    let Ok(text) = CString::new(relpartbound) else { return Ok(None) };
    // SAFETY: the text is the node tree that Postgres itself wrote; stringToNode raises on any other. The tag is
    // compared before the node is used as a bound.
    unsafe {
        let node = pg_sys::stringToNode(text.as_ptr()).cast::<pg_sys::PartitionBoundSpec>();
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_PartitionBoundSpec {
            return Ok(None);
        }
        let spec = &*node;
        Ok(Some(match spec.strategy as u8 {
            _ if spec.is_default => Bound::Default,
            b'h' => Bound::Hash { modulus: spec.modulus as u32, remainder: spec.remainder as u32 },
            b'l' => Bound::List { values: elements(spec.listdatums).map(|node| constant(node)).collect() },
            _ => Bound::Range { from: limits(spec.lowerdatums), to: limits(spec.upperdatums) },
        }))
    }
}

/// # Safety
/// `list` is null or a valid list of pointers.
unsafe fn elements(list: *mut pg_sys::List) -> impl Iterator<Item = *mut pg_sys::Node> {
    // SAFETY: a list has `length` elements; the caller vouches that they are pointers.
    let length = if list.is_null() { 0 } else { unsafe { (*list).length as usize } };
    (0..length).map(move |at| unsafe {
        // SAFETY: at is below the length.
        (*(*list).elements.add(at)).ptr_value.cast()
    })
}

/// # Safety
/// `list` holds the PartitionRangeDatum nodes of a range bound.
unsafe fn limits(list: *mut pg_sys::List) -> Vec<Limit> {
    // SAFETY: the caller vouches for the nodes; a value is present exactly for the kind VALUE.
    unsafe {
        elements(list)
            .map(|node| {
                let datum = &*node.cast::<pg_sys::PartitionRangeDatum>();
                match datum.kind {
                    pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MINVALUE => Limit::MinValue,
                    pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_MAXVALUE => Limit::MaxValue,
                    _ => Limit::Value(constant(datum.value).unwrap_or_default()),
                }
            })
            .collect()
    }
}

/// # Safety
/// `node` is a Const, as all values of stored bounds are.
unsafe fn constant(node: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: the caller vouches for the node; the output function of its own type returns a NUL-terminated string.
    unsafe {
        let constant = &*node.cast::<pg_sys::Const>();
        if constant.constisnull {
            return None;
        }
        let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(constant.consttype, &mut output, &mut varlena);
        let text = pg_sys::OidOutputFunctionCall(output, constant.constvalue);
        Some(CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

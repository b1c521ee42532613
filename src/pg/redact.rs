//! Keeping a password out of what the server shows of a running statement.
//!
//! `SELECT shard_add_node(…, password => 'secret')` is itself a text that Postgres writes to the log when it fails or is
//! slow, shows in pg_stat_activity, and hands to extensions that watch statements. All of them read the one copy that
//! is overwritten here, before anything can fail.

use crate::error::Result;
use pgrx::pg_sys;
use std::ffi::CStr;

/// Runs `work`, a call that was given `secret`. Errors within carry no CONTEXT from outside the call: there PL/pgSQL
/// would quote the statement that called us.
pub fn hiding<T>(secret: Option<&str>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(secret) = secret else { return work() };
    redact(secret);
    // SAFETY: the stack of callbacks is only read when an error is reported, and an empty one is always valid. On
    // success it is put back; an error ends in a handler that has its own copy, or at the top where the stack is empty.
    let outer =
        unsafe { std::mem::replace(&mut *std::ptr::addr_of_mut!(pg_sys::error_context_stack), std::ptr::null_mut()) };
    let value = work()?;
    // SAFETY: as above; the callbacks belong to frames below this one, which are still there.
    unsafe { pg_sys::error_context_stack = outer };
    Ok(value)
}

/// Overwrites `secret` in the text of the current statement with asterisks, in place and of the same length.
fn redact(secret: &str) {
    if secret.is_empty() {
        return;
    }
    // SAFETY: debug_query_string is NULL or the text of the statement that this process executes; it stays where it is
    // until the statement ends. The bytes that are written are inside the text and before its NUL. They hold a value
    // that came with the statement, so they lie in memory that was filled at run time, never in a constant.
    unsafe {
        let text = pg_sys::debug_query_string;
        if text.is_null() {
            return;
        }
        let ranges = places(CStr::from_ptr(text).to_bytes(), secret);
        if ranges.is_empty() {
            return;
        }
        for range in ranges {
            for place in range {
                *text.cast_mut().add(place) = b'*' as std::ffi::c_char;
            }
        }
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text);
    }
}

/// Where the secret stands in the statement, as it may be written there: with quotes or backslashes doubled. Between
/// quotes if it is found there, so that a short password does not blank half of the statement; else anywhere.
fn places(text: &[u8], secret: &str) -> Vec<std::ops::Range<usize>> {
    let doubled = secret.replace('\'', "''");
    let escaped = secret.replace('\\', "\\\\");
    let both = escaped.replace('\'', "''");
    let backslashed = escaped.replace('\'', "\\'");
    let mut written = vec![secret.to_string(), doubled, escaped, both, backslashed];
    written.sort_by_key(|form| std::cmp::Reverse(form.len()));
    written.dedup();
    let found: Vec<_> = written.iter().flat_map(|form| occurrences(text, form.as_bytes())).collect();
    let quoted: Vec<_> = found
        .iter()
        .filter(|range| {
            let is_quote = |byte: Option<&u8>| matches!(byte, Some(b'\'' | b'$' | b'"'));
            range.start > 0 && is_quote(text.get(range.start - 1)) && is_quote(text.get(range.end))
        })
        .cloned()
        .collect();
    if quoted.is_empty() { found } else { quoted }
}

fn occurrences(text: &[u8], wanted: &[u8]) -> Vec<std::ops::Range<usize>> {
    if wanted.is_empty() || wanted.len() > text.len() {
        return Vec::new();
    }
    (0..=text.len() - wanted.len())
        .filter(|start| text[*start..].starts_with(wanted))
        .map(|start| start..start + wanted.len())
        .collect()
}

//! What a worker writes to the server log: each failure once, and again when it changes or is over.

use crate::error::{Error, Report};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode as Code};
use std::collections::HashMap;

#[derive(Default)]
pub struct Log(HashMap<String, String>);

impl Log {
    /// Something about `subject` went wrong.
    pub fn failure(&mut self, subject: &str, error: Error) {
        let report = Report::from(error);
        if self.0.insert(subject.to_string(), report.message.clone()).as_ref() != Some(&report.message) {
            write(PgLogLevel::WARNING, report, subject);
        }
    }

    /// `subject` is fine; said only when it was not.
    pub fn fine(&mut self, subject: &str) {
        if self.0.remove(subject).is_some() {
            write(PgLogLevel::LOG, Report::new(Code::ERRCODE_SUCCESSFUL_COMPLETION, "works again"), subject);
        }
    }

    pub fn note(&self, subject: &str, text: String) {
        write(PgLogLevel::LOG, Report::new(Code::ERRCODE_SUCCESSFUL_COMPLETION, text), subject);
    }
}

fn write(level: PgLogLevel, report: Report, subject: &str) {
    let mut out = ErrorReport::new(report.code, format!("shardkeeper, {subject}: {}", report.message), "shardkeeper");
    if let Some(detail) = report.detail {
        out = out.set_detail(detail);
    }
    if let Some(hint) = report.hint {
        out = out.set_hint(hint);
    }
    out.report(level);
}

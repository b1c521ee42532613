//! What is found wrong, in the form in which `shard_check` tells it.

use crate::error::{Report, Result};
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    Ok,
    Warning,
    Error,
}

impl Severity {
    pub fn word(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// Something worth telling about a node. What makes it unusable carries the report that `shard_add_node` raises.
pub struct Finding {
    pub severity: Severity,
    pub finding: String,
    pub hint: Option<String>,
    fatal: Option<Report>,
}

impl Finding {
    pub fn new(severity: Severity, finding: impl Into<String>, hint: Option<&str>) -> Self {
        Self { severity, finding: finding.into(), hint: hint.map(String::from), fatal: None }
    }
}

impl From<Report> for Finding {
    fn from(report: Report) -> Self {
        let finding = match &report.detail {
            Some(detail) => format!("{}: {detail}", report.message),
            None => report.message.clone(),
        };
        Self { severity: Severity::Error, finding, hint: report.hint.clone(), fatal: Some(report) }
    }
}

/// Those that a node can live with; the first that it cannot is the error.
pub fn tolerable(findings: Vec<Finding>) -> Result<Vec<Finding>> {
    match findings.iter().find_map(|finding| finding.fatal.clone()) {
        Some(report) => report.into(),
        None => Ok(findings),
    }
}

/// One row of `shard_check`.
pub struct Row {
    pub area: &'static str,
    pub object: Option<String>,
    pub node: Option<String>,
    pub finding: Finding,
}

impl Row {
    pub fn new(area: &'static str, object: Option<&str>, node: Option<&str>, finding: Finding) -> Self {
        Self { area, object: object.map(String::from), node: node.map(String::from), finding }
    }
}

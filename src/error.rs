//! The one error type of the extension, and what each error tells its reader.
//!
//! A message is one factual line, lower case and without a period; numbers go to DETAIL; the command to run goes to HINT.

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::panic::ErrorReport;
use shardkeeper_core::SpecError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
pub enum Error {
    /// The specification, a bound or a key given as JSON is wrong; the path says where.
    Spec(SpecError),
    /// A report that was made where the facts are.
    Report(Report),
    /// A call to the server programming interface failed: ours to mend, never the user's.
    Spi(pgrx::spi::Error),
    Json(serde_json::Error),
}

/// An error as the user reads it.
#[derive(Debug, Clone)]
pub struct Report {
    pub code: Code,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Report {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, hint: None }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Report {
    /// Says it to the caller as a warning.
    pub fn warn(self) {
        ErrorReport::from(Error::from(self)).report(pgrx::PgLogLevel::WARNING);
    }

    /// Somebody else's lock was in the way: it may be had later.
    pub fn is_lock(&self) -> bool {
        matches!(self.code, Code::ERRCODE_LOCK_NOT_AVAILABLE | Code::ERRCODE_T_R_DEADLOCK_DETECTED)
    }

    /// Why something was given up. What the hint says to do about it comes too late.
    pub fn reason(mut self) -> String {
        self.hint = None;
        self.one_line()
    }

    /// For a column of a result: message, detail and hint.
    pub fn one_line(&self) -> String {
        let more = [("detail", &self.detail), ("hint", &self.hint)];
        let more = more.iter().filter_map(|(word, text)| Some(format!("; {word}: {}", text.as_ref()?)));
        std::iter::once(self.message.clone()).chain(more).collect()
    }
}

impl Error {
    /// See [`Report::is_lock`].
    pub fn is_lock(&self) -> bool {
        matches!(self, Self::Report(report) if report.is_lock())
    }
}

impl<T> From<Report> for std::result::Result<T, Error> {
    fn from(report: Report) -> Self {
        Err(Error::Report(report))
    }
}

impl From<Report> for Error {
    fn from(report: Report) -> Self {
        Error::Report(report)
    }
}

impl From<SpecError> for Error {
    fn from(error: SpecError) -> Self {
        Error::Spec(error)
    }
}

impl From<pgrx::spi::Error> for Error {
    fn from(error: pgrx::spi::Error) -> Self {
        Error::Spi(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Json(error)
    }
}

impl From<Error> for Report {
    fn from(error: Error) -> Self {
        match error {
            Error::Report(report) => report,
            Error::Spec(SpecError { path, message, detail, hint }) => Report {
                code: Code::ERRCODE_INVALID_PARAMETER_VALUE,
                message: if path.is_empty() { message } else { format!("{path}: {message}") },
                detail,
                hint,
            },
            Error::Spi(error) => {
                Report::new(Code::ERRCODE_INTERNAL_ERROR, format!("query on the coordinator failed: {error}"))
            }
            Error::Json(error) => {
                Report::new(Code::ERRCODE_INTERNAL_ERROR, format!("catalog document cannot be read: {error}"))
            }
        }
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        let report = Report::from(error);
        let mut out = ErrorReport::new(report.code, report.message, "shardkeeper");
        if let Some(detail) = report.detail {
            out = out.set_detail(detail);
        }
        if let Some(hint) = report.hint {
            out = out.set_hint(hint);
        }
        out
    }
}

/// The five characters of a code.
pub fn sql_state_text(code: Code) -> String {
    let mut rest = code as i32;
    let mut text = String::with_capacity(5);
    for _ in 0..5 {
        // Six bits a character, as MAKE_SQLSTATE packs them.
        text.push(char::from((rest & 0x3f) as u8 + b'0'));
        rest >>= 6;
    }
    text
}

/// The code of five such characters.
pub fn sql_state(text: &str) -> Code {
    let packed =
        text.bytes().take(5).enumerate().map(|(at, byte)| i32::from(byte.wrapping_sub(b'0') & 0x3f) << (6 * at));
    Code::from(packed.sum::<i32>() as isize)
}

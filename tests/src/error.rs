//! What can go wrong while a test drives a cluster.

use std::path::PathBuf;
use std::time::Duration;

/// A step that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// Something did not become true in time.
    #[error("`{what}` did not happen within {waited:?}{seen}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// What was seen last, and the ends of the logs.
        seen: String,
    },
    /// A process ended although it should run.
    #[error("`{name}` {how}{log}")]
    Died {
        /// Which process.
        name: String,
        /// How it ended.
        how: String,
        /// The end of its log.
        log: String,
    },
    /// A server refused.
    #[error("{url} answered {status}: {body}")]
    Refused {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The answer.
        body: String,
    },
    /// A request got no whole answer.
    #[error("{url} gave no answer: {cause}")]
    NoAnswer {
        /// What was asked.
        url: String,
        /// The innermost reason.
        cause: String,
    },
    /// An answer has another shape than it should.
    #[error("{what} is not as expected: {got}")]
    Shape {
        /// Which answer.
        what: String,
        /// What came.
        got: String,
    },
    /// A file operation failed.
    #[error("`{}`: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The binary is nowhere.
    #[error("no `ollamamax` binary found: {0}; build it with `cargo build`")]
    NoBinary(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl HarnessError {
    /// A failure of a file operation.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// A request that got no whole answer.
    pub fn no_answer(url: &str, error: &dyn std::error::Error) -> Self {
        let mut inner = error;
        while let Some(source) = inner.source() {
            inner = source;
        }
        Self::NoAnswer { url: url.to_owned(), cause: inner.to_string() }
    }
}

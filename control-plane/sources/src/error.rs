//! What goes wrong between here and a source.

use ollamamax_proto::Digest;
use std::io;

/// Why something could not be fetched or pushed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The text names no source.
    #[error("`{text}` names no model to fetch: {why}")]
    Reference {
        /// What was asked for, cut short.
        text: String,
        /// What is wrong with it, and what is expected.
        why: String,
    },
    /// A place that requests from here must not go to.
    #[error("`{host}` is not asked: {why}")]
    Refused {
        /// Where it would have gone.
        host: String,
        /// Why not, and who can change that.
        why: String,
    },
    /// It is not there.
    #[error("{0}")]
    NotFound(String),
    /// The other side wants to know who asks, or does not let them.
    #[error("`{host}` does not let this node in ({status}): {why}")]
    Denied {
        /// Who.
        host: String,
        /// What it answered.
        status: u16,
        /// What to do.
        why: &'static str,
    },
    /// It failed in a way that may pass.
    #[error("`{host}`: {why}")]
    Broken {
        /// Who.
        host: String,
        /// What happened.
        why: String,
    },
    /// It does not do what it was asked for.
    #[error("`{host}` answers {status}")]
    Answered {
        /// Who.
        host: String,
        /// What.
        status: u16,
    },
    /// It sent what it must not: nothing of that is kept.
    #[error("`{host}` {what}; nothing of it was kept")]
    Lied {
        /// Who.
        host: String,
        /// What it did.
        what: String,
    },
    /// Bytes that are not what they should be.
    #[error("digest mismatch, expected \"{expected}\", got \"{got}\"; nothing was kept")]
    Mismatch {
        /// What they should have been.
        expected: Digest,
        /// What they are.
        got: Digest,
    },
    /// More than is taken.
    #[error("{what} has {bytes} bytes, at most {limit} are taken")]
    TooLarge {
        /// Of what.
        what: String,
        /// How many it has.
        bytes: u64,
        /// How many it may have.
        limit: u64,
    },
    /// Something that this version cannot use.
    #[error("{0}")]
    Unsupported(String),
    /// A file failed.
    #[error("keeping what comes failed: {0}")]
    Io(#[from] io::Error),
}

impl SourceError {
    /// Whether trying again may help.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Broken { .. })
    }
}

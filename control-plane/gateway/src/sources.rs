//! What this node reaches, and what its clients hear when that fails.

use crate::Gateway;
use crate::error::Failure;
use ollamamax_sources::{Reach, SourceError};
use std::io::ErrorKind;

impl Gateway {
    /// What can be asked.
    pub(crate) fn reach(&self) -> Result<&Reach, Failure> {
        self.reach.as_ref().map_err(|why| Failure::Internal(why.clone()))
    }
}

/// A failure of a source as one of this server.
pub(crate) fn failed(error: SourceError) -> Failure {
    let text = error.to_string();
    match error {
        SourceError::Reference { .. } | SourceError::Unsupported(_) => Failure::Invalid(text),
        SourceError::Refused { .. } => Failure::Forbidden(text),
        SourceError::NotFound(_) => Failure::NotFound(text),
        SourceError::Denied { .. }
        | SourceError::Answered { .. }
        | SourceError::Broken { .. }
        | SourceError::Lied { .. }
        | SourceError::Mismatch { .. }
        | SourceError::TooLarge { .. } => Failure::Upstream(text),
        SourceError::Io(cause) if cause.kind() == ErrorKind::StorageFull => {
            Failure::StorageFull(text)
        }
        SourceError::Io(_) => Failure::Internal(text),
    }
}

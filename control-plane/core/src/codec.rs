//! Bytes of commands, replies and changes: a format byte, then postcard. Bounded both ways: what
//! would not be read back is not written, and nothing longer than its limit or with bytes left over
//! is read.
//!
//! The format byte is for the day the encoding itself changes; new variants do not change it.

use crate::change::Change;
use crate::command::{Command, Outcome};
use crate::rejection::Rejection;
use ollamamax_proto::{Millis, limits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The first byte of everything encoded here.
pub const FORMAT: u8 = 1;

/// Commands that travel through the log together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// When they were proposed.
    pub at: Millis,
    /// In the order they are decided; at most [`limits::BATCH_COMMANDS`].
    pub commands: Vec<Command>,
}

/// What an accepted or refused command answers.
pub type Reply = Result<Outcome, Rejection>;

/// Why bytes could not be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More bytes than any valid value has.
    #[error("`{what}` has {bytes} bytes, at most {limit} are accepted")]
    TooLong {
        /// What was encoded.
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// More items than a batch holds.
    #[error("`{what}` has {count} items, at most {limit} are accepted")]
    TooMany {
        /// What was encoded.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Written by a newer program.
    #[error(
        "`{what}` has format {got}, expected {FORMAT}; a newer version of the program wrote it"
    )]
    UnknownFormat {
        /// What was encoded.
        what: &'static str,
        /// The first byte found.
        got: u8,
    },
    /// No such value.
    #[error("`{what}` is malformed: {reason}")]
    Malformed {
        /// What was encoded.
        what: &'static str,
        /// The decoder's words.
        reason: String,
    },
}

/// A full batch and one command that did not fit it any more.
const BATCH_LIMIT_BYTES: usize = limits::BATCH_BYTES + limits::COMMAND_BYTES;

/// Encodes one command.
///
/// # Errors
/// When it is longer than [`limits::COMMAND_BYTES`].
pub fn encode_command(command: &Command) -> Result<Vec<u8>, CodecError> {
    encode("command", command, limits::COMMAND_BYTES)
}

/// Decodes one command.
///
/// # Errors
/// When the bytes are no command.
pub fn decode_command(bytes: &[u8]) -> Result<Command, CodecError> {
    decode("command", bytes, limits::COMMAND_BYTES)
}

/// Encodes a batch.
///
/// # Errors
/// When it holds more commands or bytes than a batch may.
pub fn encode_batch(batch: &Batch) -> Result<Vec<u8>, CodecError> {
    at_most_a_batch("batch", batch.commands.len())?;
    encode("batch", batch, BATCH_LIMIT_BYTES)
}

/// Decodes a batch.
///
/// # Errors
/// When the bytes are no batch.
pub fn decode_batch(bytes: &[u8]) -> Result<Batch, CodecError> {
    let batch: Batch = decode("batch", bytes, BATCH_LIMIT_BYTES)?;
    at_most_a_batch("batch", batch.commands.len())?;
    Ok(batch)
}

/// Encodes the reply to one command.
///
/// # Errors
/// When it is longer than a message may be.
pub fn encode_reply(reply: &Reply) -> Result<Vec<u8>, CodecError> {
    encode("reply", reply, limits::RPC_MESSAGE_BYTES)
}

/// Decodes the reply to one command.
///
/// # Errors
/// When the bytes are no reply.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, CodecError> {
    decode("reply", bytes, limits::RPC_MESSAGE_BYTES)
}

/// Encodes the replies to a batch, in its order.
///
/// # Errors
/// When there are more than a batch has commands.
pub fn encode_replies(replies: &[Reply]) -> Result<Vec<u8>, CodecError> {
    at_most_a_batch("replies", replies.len())?;
    encode("replies", replies, limits::RPC_MESSAGE_BYTES)
}

/// Decodes the replies to a batch.
///
/// # Errors
/// When the bytes are no replies.
pub fn decode_replies(bytes: &[u8]) -> Result<Vec<Reply>, CodecError> {
    let replies: Vec<Reply> = decode("replies", bytes, limits::RPC_MESSAGE_BYTES)?;
    at_most_a_batch("replies", replies.len())?;
    Ok(replies)
}

/// Encodes changes: of one command, or a whole state as [`crate::State::to_changes`] gives it.
///
/// # Errors
/// When they are longer than a snapshot may be.
pub fn encode_changes(changes: &[Change]) -> Result<Vec<u8>, CodecError> {
    encode("changes", changes, snapshot_limit())
}

/// Decodes changes.
///
/// # Errors
/// When the bytes are no changes.
pub fn decode_changes(bytes: &[u8]) -> Result<Vec<Change>, CodecError> {
    decode("changes", bytes, snapshot_limit())
}

fn snapshot_limit() -> usize {
    usize::try_from(limits::SNAPSHOT_BYTES).unwrap_or(usize::MAX)
}

fn at_most_a_batch(what: &'static str, count: usize) -> Result<(), CodecError> {
    let limit = limits::BATCH_COMMANDS;
    if count > limit { Err(CodecError::TooMany { what, count, limit }) } else { Ok(()) }
}

pub(crate) fn encode<T: Serialize + ?Sized>(
    what: &'static str,
    value: &T,
    limit: usize,
) -> Result<Vec<u8>, CodecError> {
    let bytes = postcard::to_extend(value, vec![FORMAT])
        .map_err(|error| CodecError::Malformed { what, reason: error.to_string() })?;
    if bytes.len() > limit {
        return Err(CodecError::TooLong { what, bytes: bytes.len(), limit });
    }
    Ok(bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    limit: usize,
) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLong { what, bytes: bytes.len(), limit });
    }
    let malformed = |reason: String| CodecError::Malformed { what, reason };
    let (&format, rest) = bytes.split_first().ok_or_else(|| malformed("empty".into()))?;
    if format != FORMAT {
        return Err(CodecError::UnknownFormat { what, got: format });
    }
    let (value, left) =
        postcard::take_from_bytes(rest).map_err(|error| malformed(error.to_string()))?;
    if !left.is_empty() {
        return Err(malformed(format!("{} bytes left over", left.len())));
    }
    Ok(value)
}

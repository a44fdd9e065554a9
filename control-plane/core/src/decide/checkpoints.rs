//! Named values with compare-and-set. A put always counts as a change, so that the revision it
//! answers is the one the next compare-and-set must expect.

use super::check;
use super::draft::Draft;
use crate::change::Change;
use crate::record::Checkpoint;
use crate::rejection::Rejection;
use ollamamax_proto::{Revision, limits, mutant};

pub(super) fn put(
    draft: &mut Draft,
    name: &str,
    value: &[u8],
    expected: Option<Revision>,
) -> Result<(), Rejection> {
    check_name(name)?;
    if value.len() > limits::CHECKPOINT_VALUE_BYTES {
        return Err(check::over("bytes of a checkpoint", limits::CHECKPOINT_VALUE_BYTES));
    }
    let current = current(draft, name);
    if let Some(expected) = expected
        && expected != current
        && !mutant::planted("unchecked-revision")
    {
        return Err(Rejection::CheckpointMoved { name: name.to_owned(), expected, current });
    }
    if current == Revision(0) && draft.state().checkpoints.len() >= limits::CHECKPOINTS_COUNT {
        return Err(check::over("checkpoints", limits::CHECKPOINTS_COUNT));
    }
    draft.push(Change::CheckpointPut(Checkpoint {
        name: name.to_owned(),
        value: value.to_vec(),
        revision: draft.next_revision(),
        modified_at: draft.now(),
    }));
    Ok(())
}

pub(super) fn delete(
    draft: &mut Draft,
    name: &str,
    expected: Option<Revision>,
) -> Result<(), Rejection> {
    let current = current(draft, name);
    if current == Revision(0) {
        return Err(Rejection::UnknownCheckpoint(name.to_owned()));
    }
    if let Some(expected) = expected
        && expected != current
    {
        return Err(Rejection::CheckpointMoved { name: name.to_owned(), expected, current });
    }
    draft.push(Change::CheckpointRemoved(name.to_owned()));
    Ok(())
}

/// 0 when absent: no checkpoint is ever set at revision 0, since setting one makes the revision at
/// least 1.
fn current(draft: &Draft, name: &str) -> Revision {
    draft.state().checkpoints.get(name).map_or(Revision(0), |checkpoint| checkpoint.revision)
}

fn check_name(name: &str) -> Result<(), Rejection> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(check::invalid("name", "expected 1 or more characters that print"));
    }
    if name.chars().count() > limits::CHECKPOINT_NAME_CHARS {
        return Err(check::over(
            "characters of a checkpoint's name",
            limits::CHECKPOINT_NAME_CHARS,
        ));
    }
    Ok(())
}

//! Histories made by hand, for the tests of checkers.

use crate::history::{Asked, Found, History, Operation, Outcome};

pub(crate) fn history(operations: Vec<Operation>) -> History {
    History { operations, ..History::default() }
}

fn operation(begun_us: u64, ended_us: u64, asked: Asked, outcome: Outcome) -> Operation {
    Operation { client: 0, node: 0, key: "r".to_owned(), asked, begun_us, ended_us, outcome }
}

fn write(value: &str, expected: Option<u64>) -> Asked {
    Asked::Write { value: value.to_owned(), expected }
}

pub(crate) fn read(begun_us: u64, ended_us: u64, found: Option<(&str, u64)>) -> Operation {
    let found = found.map(|(value, revision)| Found { value: value.to_owned(), revision });
    operation(begun_us, ended_us, Asked::Read, Outcome::Read { found, state: None })
}

pub(crate) fn wrote(
    begun_us: u64,
    ended_us: u64,
    value: &str,
    expected: Option<u64>,
    revision: u64,
) -> Operation {
    operation(begun_us, ended_us, write(value, expected), Outcome::Written(revision))
}

pub(crate) fn conflict(begun_us: u64, ended_us: u64, value: &str, expected: u64) -> Operation {
    operation(begun_us, ended_us, write(value, Some(expected)), Outcome::Conflict)
}

pub(crate) fn unknown(
    begun_us: u64,
    ended_us: u64,
    value: &str,
    expected: Option<u64>,
) -> Operation {
    operation(begun_us, ended_us, write(value, expected), Outcome::Unknown)
}

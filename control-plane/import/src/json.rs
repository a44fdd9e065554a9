//! JSON of checkpoints: read within a limit, and fields taken with errors that say what is there.

use crate::bytes::{FromStart, ReadAt};
use crate::error::{ImportError, Quote};
use ollamamax_proto::limits::CHECKPOINT_JSON_BYTES;
use serde_json::Value;
use std::io::BufReader;

/// A parsed file and its name.
#[derive(Clone, Debug)]
pub(crate) struct Json {
    pub file: &'static str,
    pub value: Value,
}

impl Json {
    /// Reads a file.
    pub fn read(file: &'static str, bytes: &dyn ReadAt) -> Result<Self, ImportError> {
        let (found, limit) = (bytes.bytes(), CHECKPOINT_JSON_BYTES);
        if found > limit {
            let what = "its size in bytes";
            return Err(ImportError::TooLarge { file: Quote::of(file), what, found, limit });
        }
        let value = serde_json::from_reader(BufReader::new(FromStart::of(bytes)));
        let value = value.map_err(|source| ImportError::Json { file: Quote::of(file), source })?;
        Ok(Self { file, value })
    }

    /// A field, if it is there and not null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.value.get(field).filter(|value| !value.is_null())
    }

    /// A field of some kind, if it is there.
    pub fn optional<'a, T>(
        &'a self,
        field: &str,
        expected: &'static str,
        take: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ImportError> {
        let taken = |found| take(found).ok_or_else(|| self.wrong(field, found, expected));
        self.get(field).map(taken).transpose()
    }

    /// A field that must be there.
    pub fn needed<'a, T>(
        &'a self,
        field: &str,
        expected: &'static str,
        take: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<T, ImportError> {
        let found = self.optional(field, expected, take)?;
        found.ok_or_else(|| self.wrong(field, "missing", expected))
    }

    /// A whole number above zero that must be there.
    pub fn count(&self, field: &str) -> Result<u32, ImportError> {
        self.needed(field, COUNT, count)
    }

    /// A whole number above zero, if there is one.
    pub fn optional_count(&self, field: &str) -> Result<Option<u32>, ImportError> {
        self.optional(field, COUNT, count)
    }

    /// A positive number, if there is one.
    pub fn optional_number(&self, field: &str) -> Result<Option<f64>, ImportError> {
        self.optional(field, "a number above 0", number)
    }

    /// A truth, if there is one.
    pub fn optional_truth(&self, field: &str) -> Result<Option<bool>, ImportError> {
        self.optional(field, "`true` or `false`", Value::as_bool)
    }

    /// The error about a field.
    pub fn wrong(
        &self,
        field: &str,
        found: impl std::fmt::Display,
        expected: &'static str,
    ) -> ImportError {
        let (field, found) = (field.to_owned(), Quote::of(found));
        ImportError::Field { file: self.file, field, found, expected }
    }
}

const COUNT: &str = "a whole number from 1 to 16777216";

/// What no size of a model exceeds: products of two of them fit 64 bits, and a GGUF's arrays hold as many.
const COUNT_MAX: u64 = 1 << 24;

fn count(value: &Value) -> Option<u32> {
    let found = value.as_u64().filter(|found| (1..=COUNT_MAX).contains(found))?;
    u32::try_from(found).ok()
}

/// A positive number that a GGUF's floats hold.
pub(crate) fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|found| *found > 0.0 && (*found as f32).is_normal())
}

//! Typed access to a header, with errors that name the key, what was expected and what is there.

use crate::error::{Fault, GgufError};
use crate::parse::{Entry, Gguf, TensorInfo};
use crate::strings::Strings;
use crate::value::{Array, Value};

impl Gguf {
    /// The metadata entries in file order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A metadata value, if there is one.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// A metadata entry, if there is one.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.by_key.get(key).map(|&index| &self.entries[index])
    }

    /// A tensor, if there is one.
    pub fn find_tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// A tensor that must be there.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        let fault = || Fault::MissingTensor { tensor: name.to_owned() };
        self.find_tensor(name).ok_or_else(|| GgufError::new(self.data_start, fault()))
    }

    /// An unsigned integer of any width that must be there and fit 64 bits.
    pub fn get_u64(&self, key: &str) -> Result<u64, GgufError> {
        self.typed(key, "an unsigned integer", Value::as_u64)
    }

    /// An unsigned integer of any width that must be there and fit 32 bits.
    pub fn get_u32(&self, key: &str) -> Result<u32, GgufError> {
        self.typed(key, "an unsigned integer below 2^32", |v| v.as_u64()?.try_into().ok())
    }

    /// A float that must be there.
    pub fn get_f32(&self, key: &str) -> Result<f32, GgufError> {
        self.typed(key, "a float", |value| match *value {
            Value::F32(value) => Some(value),
            Value::F64(value) => Some(value as f32),
            _ => None,
        })
    }

    /// A boolean that must be there.
    pub fn get_bool(&self, key: &str) -> Result<bool, GgufError> {
        self.typed(key, "a boolean", |value| match *value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// A string that must be there.
    pub fn get_str(&self, key: &str) -> Result<&str, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::Str(value) => Some(value.as_str()),
            _ => None,
        })
    }

    /// An array that must be there.
    pub fn get_array(&self, key: &str) -> Result<&Array, GgufError> {
        self.typed(key, "an array", |value| match value {
            Value::Array(array) => Some(array),
            _ => None,
        })
    }

    /// An array of strings that must be there.
    pub fn get_array_str(&self, key: &str) -> Result<&Strings, GgufError> {
        self.typed_array(key, "an array of strings", |array| match array {
            Array::Str(values) => Some(values),
            _ => None,
        })
    }

    /// An array of f32 that must be there.
    pub fn get_array_f32(&self, key: &str) -> Result<&[f32], GgufError> {
        self.typed_array(key, "an array of f32", |array| match array {
            Array::F32(values) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// An array of i32 that must be there.
    pub fn get_array_i32(&self, key: &str) -> Result<&[i32], GgufError> {
        self.typed_array(key, "an array of i32", |array| match array {
            Array::I32(values) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// `Ok(None)` when the key is absent, an error when it is there with the wrong type:
    /// `gguf.optional("k", Gguf::get_u32)`.
    pub fn optional<'a, T>(
        &'a self,
        key: &str,
        get: impl Fn(&'a Self, &str) -> Result<T, GgufError>,
    ) -> Result<Option<T>, GgufError> {
        if self.by_key.contains_key(key) { get(self, key).map(Some) } else { Ok(None) }
    }

    /// An error about the value of `key`, at its place in the file.
    pub fn value_error(&self, key: &str, found: u64, reason: &'static str) -> GgufError {
        let offset = self.entry(key).map_or(self.data_start, |entry| entry.offset);
        GgufError::new(offset, Fault::Value { key: key.to_owned(), found, reason })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<T, GgufError> {
        let Some(entry) = self.entry(key) else {
            let fault = Fault::MissingKey { key: key.to_owned() };
            return Err(GgufError::new(self.data_start, fault));
        };
        convert(&entry.value).ok_or_else(|| {
            let fault = Fault::wrong_type(key, expected, entry.value.kind());
            GgufError::new(entry.offset, fault)
        })
    }

    fn typed_array<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(&'a Array) -> Option<T>,
    ) -> Result<T, GgufError> {
        self.typed(key, expected, |value| match value {
            Value::Array(array) => convert(array),
            _ => None,
        })
    }
}

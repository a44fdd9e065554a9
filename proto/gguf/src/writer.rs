//! Builds GGUF files: for synthetic models and tests.

use crate::kind::GgmlType;
use crate::value::{Array, Value};

/// Collects metadata and tensors, then writes the file.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    version: u32,
    alignment: u64,
    entries: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    dims: Vec<u64>,
    kind: GgmlType,
    bytes: u64,
    /// Empty where the caller writes it.
    data: Vec<u8>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    /// An empty file of version 3 with the default alignment of 32 bytes.
    pub fn new() -> Self {
        Self { version: 3, alignment: 32, entries: Vec::new(), tensors: Vec::new() }
    }

    /// Writes another version; 2 and 3 have the same layout.
    pub fn version(&mut self, version: u32) -> &mut Self {
        self.version = version;
        self
    }

    /// Adds a metadata entry. `general.alignment` sets the alignment of the tensors.
    pub fn metadata(&mut self, key: &str, value: Value) -> &mut Self {
        if key == "general.alignment" {
            self.alignment = value.as_u64().unwrap_or(self.alignment).max(1);
        }
        self.entries.push((key.to_owned(), value));
        self
    }

    /// Adds a tensor: dimensions fastest first, data as it lies in the file.
    pub fn tensor(&mut self, name: &str, dims: &[u64], kind: GgmlType, data: Vec<u8>) -> &mut Self {
        let (name, dims, bytes) = (name.to_owned(), dims.to_vec(), data.len() as u64);
        self.tensors.push(Tensor { name, dims, kind, bytes, data });
        self
    }

    /// Adds a tensor whose data, of so many bytes, the caller writes after [`GgufWriter::header`].
    pub fn declare(&mut self, name: &str, dims: &[u64], kind: GgmlType, bytes: u64) -> &mut Self {
        let (name, dims) = (name.to_owned(), dims.to_vec());
        self.tensors.push(Tensor { name, dims, kind, bytes, data: Vec::new() });
        self
    }

    /// Where tensors have to begin: at multiples of this.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The whole file; data that was only declared is zero.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
            let end = out.len() + tensor.bytes as usize;
            out.extend(&tensor.data);
            out.resize(end, 0);
        }
        out
    }

    /// Everything before the data of the tensors. Each of them begins at the next multiple of the alignment, in the order in
    /// which they were added.
    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            string(&mut out, key);
            out.extend((value.kind() as u32).to_le_bytes());
            scalar_or_array(&mut out, value);
        }
        let mut offset = 0u64;
        for Tensor { name, dims, kind, bytes, .. } in &self.tensors {
            string(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            out.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(kind.id().to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + bytes).next_multiple_of(self.alignment);
        }
        out
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn scalar_or_array(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::Str(v) => string(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Array(array) => {
            out.extend((array.kind() as u32).to_le_bytes());
            out.extend((array.len() as u64).to_le_bytes());
            elements(out, array);
        }
    }
}

fn elements(out: &mut Vec<u8>, array: &Array) {
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|v| u8::from(*v))),
        Array::Str(v) => v.iter().for_each(|v| string(out, v)),
        Array::U64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
    }
}

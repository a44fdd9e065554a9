//! Safetensors: eight bytes that say how long the header is, a JSON header of names, types, shapes and places, then the data.
//!
//! ```text
//! u64 header length | {"name": {"dtype": "BF16", "shape": [r, c], "data_offsets": [from, to]}, ...} | data
//! ```
//!
//! As the format wants it, the tensors fill the data from its first byte to its last, without overlap and without holes: a file
//! that says otherwise was cut, glued or made up. Format: the `safetensors` project's README, "Format".

use crate::bytes::ReadAt;
use crate::error::{ImportError, Quote};
use ollamamax_proto::limits::{GGUF_TENSORS_COUNT, SAFETENSORS_HEADER_BYTES};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// A type that weights may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the format's own")]
pub enum Element {
    F32,
    F16,
    BF16,
}

/// A tensor as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its type as the file spells it.
    pub dtype: String,
    /// Its dimensions, slowest first.
    pub shape: Vec<u64>,
    /// First byte in the file.
    pub start: u64,
    /// Bytes it takes.
    pub bytes: u64,
}

impl Stored {
    /// Its type, where it is one that weights may have.
    pub fn element(&self) -> Option<Element> {
        match self.dtype.as_str() {
            "F32" => Some(Element::F32),
            "F16" => Some(Element::F16),
            "BF16" => Some(Element::BF16),
            _ => None,
        }
    }
}

/// A file's header.
#[derive(Clone, Debug, Default)]
pub struct Safetensors {
    /// The tensors by name.
    pub tensors: BTreeMap<String, Stored>,
}

/// Most dimensions of a tensor.
const DIMENSIONS_COUNT: usize = 8;

/// Bits of each type the format knows.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

impl Safetensors {
    /// Reads a header; `file` is its name in errors.
    pub fn read(file: &str, bytes: &dyn ReadAt) -> Result<Self, ImportError> {
        let unsound = |reason: String| ImportError::Safetensors { file: Quote::of(file), reason };
        let unread = |source| ImportError::Read { file: Quote::of(file), source };
        let size = bytes.bytes();
        let Some(behind) = size.checked_sub(8) else {
            return Err(unsound(format!("it has {size} bytes, its length alone takes 8")));
        };
        let mut length = [0; 8];
        bytes.read_at(0, &mut length).map_err(unread)?;
        let length = u64::from_le_bytes(length);
        if length > behind {
            return Err(unsound(format!("its header is said to take {length} bytes of {behind}")));
        }
        if length > SAFETENSORS_HEADER_BYTES {
            let (what, limit) = ("the size of its header in bytes", SAFETENSORS_HEADER_BYTES);
            return Err(ImportError::TooLarge {
                file: Quote::of(file),
                what,
                found: length,
                limit,
            });
        }
        let mut header = vec![0; length as usize];
        bytes.read_at(8, &mut header).map_err(unread)?;
        let entries: Entries = serde_json::from_slice(&header)
            .map_err(|error| unsound(format!("its header cannot be read: {error}")))?;
        place(entries, 8 + length, behind - length).map_err(unsound)
    }
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// In the order of the file. A map would lose names that appear twice.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a tensor for each name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut all = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if all.len() as u64 >= GGUF_TENSORS_COUNT {
                        let text = format!("more than {GGUF_TENSORS_COUNT} tensors");
                        return Err(serde::de::Error::custom(text));
                    }
                    all.push((name, map.next_value()?));
                }
                Ok(Entries(all))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// Checks every tensor by itself, and that together they are the data.
fn place(Entries(entries): Entries, data: u64, bytes: u64) -> Result<Safetensors, String> {
    let mut tensors = BTreeMap::new();
    let mut order: Vec<(u64, u64, String)> = Vec::with_capacity(entries.len());
    for (name, Entry { dtype, shape, data_offsets: [from, to] }) in entries {
        let shown = Quote::of(&name);
        let Some(bits) = bits(&dtype) else {
            return Err(format!("tensor {shown} has the unknown type {}", Quote::of(dtype)));
        };
        if shape.len() > DIMENSIONS_COUNT {
            let (count, most) = (shape.len(), DIMENSIONS_COUNT);
            return Err(format!(
                "tensor {shown} has {count} dimensions, at most {most} are expected"
            ));
        }
        if to < from || to > bytes {
            return Err(format!("tensor {shown} lies at {from} to {to} of {bytes} bytes of data"));
        }
        let elements = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
        let whole = elements.and_then(|elements| elements.checked_mul(bits));
        if whole.filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8) != Some(to - from) {
            let took = to - from;
            return Err(format!(
                "tensor {shown} of {dtype} and shape {shape:?} takes {took} bytes"
            ));
        }
        order.push((from, to, name.clone()));
        let stored = Stored { dtype, shape, start: data + from, bytes: to - from };
        if tensors.insert(name, stored).is_some() {
            return Err(format!("tensor {shown} appears twice"));
        }
    }
    order.sort();
    let mut end = 0;
    for (from, to, name) in &order {
        if *from != end {
            let what =
                if *from < end { "overlaps the one before" } else { "leaves a hole before it" };
            return Err(format!("tensor {} {what}", Quote::of(name)));
        }
        end = *to;
    }
    if end != bytes {
        return Err(format!("its tensors end at byte {end} of {bytes} of data"));
    }
    Ok(Safetensors { tensors })
}

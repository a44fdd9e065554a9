//! From bytes to [`Gguf`]: entries in order, tensors with checked places.

use crate::error::{Fault, GgufError};
use crate::kind::GgmlType;
use crate::source::Source;
use crate::strings::Strings;
use crate::value::{Array, Value, ValueType};
use ollamamax_proto::limits::{GGUF_ARRAY_COUNT, GGUF_METADATA_COUNT, GGUF_TENSORS_COUNT};
use std::collections::BTreeMap;
use std::io::{BufReader, Read};

const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";
/// Least bytes of an entry: key length, type, a one-byte value.
const ENTRY_LEAST_BYTES: u64 = 13;
/// Least bytes of a tensor description: name length, one dimension, type, offset.
const TENSOR_LEAST_BYTES: u64 = 32;
const DIMENSIONS_COUNT: u32 = 4;

/// A metadata entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its key, e.g. `general.architecture`.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Byte of the file at which the entry starts.
    pub offset: u64,
}

/// Where a tensor lies and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, e.g. `blk.0.attn_q.weight`.
    pub name: String,
    /// Dimensions, fastest first: a matrix of `rows` x `columns` is `[columns, rows]`.
    pub dims: Vec<u64>,
    /// Element type.
    pub kind: GgmlType,
    /// First byte, counted from the start of the tensor data.
    pub offset: u64,
    /// First byte, counted from the start of the file.
    pub start: u64,
    /// Bytes it takes.
    pub bytes: u64,
    /// Byte of the file at which its description starts.
    pub described_at: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// A parsed header. Tensor data is not held: [`TensorInfo::start`] says where it lies.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// Format version: 2 or 3.
    pub version: u32,
    /// Alignment of every tensor's start, in bytes.
    pub alignment: u64,
    /// Byte of the file at which tensor data starts.
    pub data_start: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) by_key: BTreeMap<String, usize>,
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) by_name: BTreeMap<String, usize>,
}

impl Gguf {
    /// Parses a whole file held in memory (or mapped).
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        parse(Source::new(bytes, bytes.len() as u64))
    }

    /// Parses the header from a reader at the start of a file of `file_bytes`; reads little more than the header.
    pub fn read(reader: impl Read, file_bytes: u64) -> Result<Self, GgufError> {
        parse(Source::new(BufReader::with_capacity(64 * 1024, reader), file_bytes))
    }
}

fn parse<R: Read>(mut source: Source<R>) -> Result<Gguf, GgufError> {
    let found = source.bytes("the magic")?;
    if found != *b"GGUF" {
        return Err(GgufError::new(0, Fault::Magic { found }));
    }
    let version = source.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::new(4, Fault::Version { found: version }));
    }
    let tensors_count =
        source.count("the number of tensors", GGUF_TENSORS_COUNT, TENSOR_LEAST_BYTES)?;
    let entries_count =
        source.count("the number of metadata entries", GGUF_METADATA_COUNT, ENTRY_LEAST_BYTES)?;

    let entries = source.many(entries_count, entry)?;
    let mut by_key = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        if by_key.insert(entry.key.clone(), index).is_some() {
            let fault = Fault::Duplicate { what: "metadata", name: entry.key.clone() };
            return Err(GgufError::new(entry.offset, fault));
        }
    }
    let alignment = alignment(by_key.get(ALIGNMENT_KEY).map(|&index| &entries[index]))?;

    let mut tensors = source.many(tensors_count, |source| tensor(source, alignment))?;
    let file_bytes = source.len();
    // Cannot overflow: the position is bounded by the header limit, the alignment by a mebibyte.
    let data_start = source.position().next_multiple_of(alignment);
    let by_name = place(&mut tensors, data_start, file_bytes)?;
    Ok(Gguf { version, alignment, data_start, file_bytes, entries, by_key, tensors, by_name })
}

fn entry<R: Read>(source: &mut Source<R>) -> Result<Entry, GgufError> {
    let offset = source.position();
    let key = source.string("a metadata key")?;
    let at = source.position();
    let kind = value_type(source, &key)?;
    let value = match kind {
        ValueType::U8 => Value::U8(u8::from_le_bytes(source.bytes("a u8")?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(source.bytes("an i8")?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(source.bytes("a u16")?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(source.bytes("an i16")?)),
        ValueType::U32 => Value::U32(source.u32("a u32")?),
        ValueType::I32 => Value::I32(i32::from_le_bytes(source.bytes("an i32")?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(source.bytes("an f32")?)),
        ValueType::Bool => Value::Bool(boolean(source)?),
        ValueType::Str => Value::Str(source.string("a metadata string")?),
        ValueType::U64 => Value::U64(source.u64("a u64")?),
        ValueType::I64 => Value::I64(i64::from_le_bytes(source.bytes("an i64")?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(source.bytes("an f64")?)),
        ValueType::Array => {
            let element = value_type(source, &key)?;
            let what = "the length of a metadata array";
            let count = source.count(what, GGUF_ARRAY_COUNT, element.least_bytes())?;
            match array(source, element, count)? {
                Some(array) => Value::Array(array),
                None => return Err(GgufError::new(at, Fault::Nested { key })),
            }
        }
    };
    Ok(Entry { key, value, offset })
}

fn value_type<R: Read>(source: &mut Source<R>, key: &str) -> Result<ValueType, GgufError> {
    let at = source.position();
    let found = source.u32("a value type")?;
    let fault = || GgufError::new(at, Fault::ValueType { key: key.to_owned(), found });
    ValueType::from_id(found).ok_or_else(fault)
}

/// `None` for an array of arrays.
fn array<R: Read>(
    source: &mut Source<R>,
    element: ValueType,
    count: u64,
) -> Result<Option<Array>, GgufError> {
    const WHAT: &str = "an array element";
    let s = source;
    Ok(Some(match element {
        ValueType::U8 => Array::U8(s.many(count, |s| Ok(u8::from_le_bytes(s.bytes(WHAT)?)))?),
        ValueType::I8 => Array::I8(s.many(count, |s| Ok(i8::from_le_bytes(s.bytes(WHAT)?)))?),
        ValueType::U16 => Array::U16(s.many(count, |s| Ok(u16::from_le_bytes(s.bytes(WHAT)?)))?),
        ValueType::I16 => Array::I16(s.many(count, |s| Ok(i16::from_le_bytes(s.bytes(WHAT)?)))?),
        ValueType::U32 => Array::U32(s.many(count, |s| s.u32(WHAT))?),
        ValueType::I32 => Array::I32(s.many(count, |s| Ok(i32::from_le_bytes(s.bytes(WHAT)?)))?),
        ValueType::F32 => Array::F32(s.many(count, |s| Ok(f32::from_le_bytes(s.bytes(WHAT)?)))?),
        ValueType::Bool => Array::Bool(s.many(count, boolean)?),
        ValueType::Str => Array::Str(strings(s, count)?),
        ValueType::U64 => Array::U64(s.many(count, |s| s.u64(WHAT))?),
        ValueType::I64 => Array::I64(s.many(count, |s| Ok(i64::from_le_bytes(s.bytes(WHAT)?)))?),
        ValueType::F64 => Array::F64(s.many(count, |s| Ok(f64::from_le_bytes(s.bytes(WHAT)?)))?),
        ValueType::Array => return Ok(None),
    }))
}

fn strings<R: Read>(source: &mut Source<R>, count: u64) -> Result<Strings, GgufError> {
    let (mut strings, mut bytes) = (Strings::new(), Vec::new());
    for _ in 0..count {
        strings.push(source.str("a string in an array", &mut bytes)?);
    }
    Ok(strings)
}

fn boolean<R: Read>(source: &mut Source<R>) -> Result<bool, GgufError> {
    let at = source.position();
    match source.bytes("a boolean")? {
        [0] => Ok(false),
        [1] => Ok(true),
        [found] => Err(GgufError::new(at, Fault::Bool { found })),
    }
}

fn alignment(entry: Option<&Entry>) -> Result<u64, GgufError> {
    let Some(entry) = entry else { return Ok(ALIGNMENT_DEFAULT) };
    let Some(found) = entry.value.as_u64() else {
        let fault = Fault::wrong_type(ALIGNMENT_KEY, "a u32", entry.value.kind());
        return Err(GgufError::new(entry.offset, fault));
    };
    if !found.is_power_of_two() || !(8..=1 << 20).contains(&found) {
        return Err(GgufError::new(entry.offset, Fault::Alignment { found }));
    }
    Ok(found)
}

fn tensor<R: Read>(source: &mut Source<R>, alignment: u64) -> Result<TensorInfo, GgufError> {
    let described_at = source.position();
    let name = source.string("a tensor name")?;
    let at = source.position();
    let dimensions = source.u32("a tensor's dimensions")?;
    if !(1..=DIMENSIONS_COUNT).contains(&dimensions) {
        let what = "the number of a tensor's dimensions (at least 1)";
        let (found, limit) = (dimensions.into(), DIMENSIONS_COUNT.into());
        return Err(GgufError::new(at, Fault::Limit { what, found, limit }));
    }
    let dims = source.many(dimensions.into(), |s| s.u64("a tensor's dimension"))?;
    let at_kind = source.position();
    let found = source.u32("a tensor's type")?;
    let Some(kind) = GgmlType::from_id(found) else {
        return Err(GgufError::new(at_kind, Fault::TensorType { tensor: name, found }));
    };
    let at_offset = source.position();
    let offset = source.u64("a tensor's offset")?;
    if !offset.is_multiple_of(alignment) {
        let fault = Fault::Misaligned { tensor: name, found: offset, alignment };
        return Err(GgufError::new(at_offset, fault));
    }
    match tensor_bytes(&dims, kind) {
        Ok(bytes) => Ok(TensorInfo { name, dims, kind, offset, start: 0, bytes, described_at }),
        Err(reason) => Err(GgufError::new(at, Fault::Dimensions { tensor: name, dims, reason })),
    }
}

fn tensor_bytes(dims: &[u64], kind: GgmlType) -> Result<u64, &'static str> {
    if dims.contains(&0) {
        return Err("a dimension is 0");
    }
    let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    if elements.is_none() {
        return Err("their product overflows");
    }
    if !dims[0].is_multiple_of(kind.block_elements()) {
        return Err("the first is no multiple of the type's block size");
    }
    let rows = dims[1..].iter().product::<u64>();
    let bytes = kind.row_bytes(dims[0]).and_then(|row| row.checked_mul(rows));
    bytes.ok_or("the size in bytes overflows")
}

/// Gives every tensor its place in the file and checks that it lies inside and alone there.
fn place(
    tensors: &mut [TensorInfo],
    data_start: u64,
    file: u64,
) -> Result<BTreeMap<String, usize>, GgufError> {
    let mut by_name = BTreeMap::new();
    for (index, tensor) in tensors.iter_mut().enumerate() {
        let (at, name, bytes) = (tensor.described_at, &tensor.name, tensor.bytes);
        tensor.start = data_start.saturating_add(tensor.offset);
        if tensor.start.checked_add(bytes).is_none_or(|end| end > file) {
            let fault = Fault::OutOfFile { tensor: name.clone(), start: tensor.start, bytes, file };
            return Err(GgufError::new(at, fault));
        }
        if by_name.insert(name.clone(), index).is_some() {
            let fault = Fault::Duplicate { what: "tensor", name: name.clone() };
            return Err(GgufError::new(at, fault));
        }
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.start);
    for pair in order.windows(2) {
        if pair[0].start + pair[0].bytes > pair[1].start {
            let (first, second) = (pair[0].name.clone(), pair[1].name.clone());
            return Err(GgufError::new(pair[1].described_at, Fault::Overlap { first, second }));
        }
    }
    Ok(by_name)
}

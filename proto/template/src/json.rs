//! The filter `tojson` as `transformers` defines it for chat templates: Python's `json.dumps`
//! without its escaping of what is not ASCII, and without the HTML escaping of Jinja's own filter.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use std::io;

/// A template's widest indentation: wider ones only make output.
const INDENT_SPACES: usize = 16;

/// `value | tojson` and `value | tojson(indent=4)`.
pub(super) fn tojson(value: &Value, indent: Option<Value>, args: Kwargs) -> Result<Value, Error> {
    let indent = indent.or(args.get::<Option<Value>>("indent")?);
    let indent = indent.and_then(|indent| usize::try_from(indent).ok());
    // `ensure_ascii`, `separators` and `sort_keys` appear in templates with their default meaning.
    let _ = args.peek::<Option<Value>>("ensure_ascii");
    let mut json = Vec::new();
    let written = match indent {
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, PythonFormatter))
        }
        Some(spaces) => {
            let spaces = vec![b' '; spaces.min(INDENT_SPACES)];
            let formatter = PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter))
        }
    };
    written.map_err(|error| {
        Error::new(ErrorKind::BadSerialization, "the value has no JSON").with_source(error)
    })?;
    let json = String::from_utf8(json).expect("`serde_json` writes UTF-8");
    Ok(Value::from(json))
}

/// Python's separators: a space after each comma and colon.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

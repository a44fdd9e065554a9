//! How lists are printed: as a table for people, and whole, line by line or as bare names for programs.

use crate::out;
use serde_json::Value;

/// What a list looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// The answer, as the server gave it.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// Names alone, one a line.
    Name,
}

/// How to print a list.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Output {
    /// How to print it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Table, hide_default_value = true)]
    output: Format,
    /// Print JSON: the same as `-o json`
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

/// Where the items of an answer are, and what names them.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// The field of the answer that holds them.
    pub items: &'static str,
    /// The field of an item that other commands take.
    pub name: &'static str,
}

impl Output {
    /// Prints an answer.
    pub fn print(self, answer: &Value, list: List, table: impl Fn(&Value, bool) -> String) {
        out::text(&self.text(answer, list, table));
    }

    /// An answer as text. `table` is given the answer, and whether it shall be wide.
    pub fn text(
        self,
        answer: &Value,
        list: List,
        table: impl Fn(&Value, bool) -> String,
    ) -> String {
        let items = answer[list.items].as_array().map(Vec::as_slice).unwrap_or_default();
        let name = |item: &Value| match &item[list.name] {
            Value::String(name) => out::printable(name),
            other => other.to_string(),
        };
        match self.format() {
            Format::Table => table(answer, false),
            Format::Wide => table(answer, true),
            Format::Json => format!("{answer:#}\n"),
            Format::Jsonl => items.iter().map(|item| format!("{item}\n")).collect(),
            Format::Name => items.iter().map(|item| name(item) + "\n").collect(),
        }
    }

    /// For a list without an end: its JSON comes line by line, too.
    #[must_use]
    pub fn by_lines(self) -> Self {
        match self.format() {
            Format::Json => Self { output: Format::Jsonl, json: false },
            _ => self,
        }
    }

    fn format(self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_comes_as_it_is_asked_for() {
        let answer = json!({"models": [{"name": "a", "id": 1}, {"name": "b\u{1b}", "id": 2}]});
        let list = List { items: "models", name: "name" };
        let table = |_: &Value, wide: bool| format!("wide: {wide}\n");
        for (output, text) in [
            (Format::Table, "wide: false\n".to_owned()),
            (Format::Wide, "wide: true\n".to_owned()),
            (Format::Json, format!("{answer:#}\n")),
            (
                Format::Jsonl,
                "{\"name\":\"a\",\"id\":1}\n{\"name\":\"b\\u001b\",\"id\":2}\n".to_owned(),
            ),
            (Format::Name, "a\nb\n".to_owned()),
        ] {
            assert_eq!(Output { output, json: false }.text(&answer, list, table), text);
        }
        let json = Output { output: Format::Table, json: true };
        assert_eq!(json.text(&answer, list, table), format!("{answer:#}\n"));
        assert_eq!(json.by_lines().text(&answer, list, table).lines().count(), 2);
        let ids = Output { output: Format::Name, json: false };
        assert_eq!(ids.text(&answer, List { name: "id", ..list }, table), "1\n2\n");
    }
}

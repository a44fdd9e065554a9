//! The trail as JSON lines, as it is exported: one object for each record, and one where records are missing.

use super::{Note, Record};
use crate::{Digest, Millis};
use serde_json::{Value, json};
use std::fmt;

/// Records that the cluster had forgotten before they could be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first that is missing.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// When that was noticed.
    pub noticed_at: Millis,
}

/// One line of an exported trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// What happened.
    Record(Box<Record>),
    /// What happened here is not known any more.
    Gap(Gap),
}

impl Line {
    /// The number up to which it tells.
    pub fn number(&self) -> u64 {
        match self {
            Self::Record(record) => record.number,
            Self::Gap(gap) => gap.to,
        }
    }

    /// As a JSON object.
    pub fn value(&self) -> Value {
        match self {
            Self::Record(record) => {
                let note = &record.note;
                json!({
                    "number": record.number,
                    "at": record.at.0,
                    "actor": note.actor,
                    "via": note.via,
                    "from": note.from,
                    "request": note.request,
                    "action": note.action,
                    "object": note.object,
                    "outcome": note.outcome,
                    "hash": Digest(record.hash).hex(),
                })
            }
            Self::Gap(Gap { from, to, noticed_at }) => json!({
                "missing_from": from,
                "missing_to": to,
                "noticed_at": noticed_at.0,
            }),
        }
    }

    /// Reads one; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let count = |name: &str| value[name].as_u64();
        if let (Some(from), Some(to)) = (count("missing_from"), count("missing_to")) {
            return Some(Self::Gap(Gap { from, to, noticed_at: Millis(count("noticed_at")?) }));
        }
        let field = |name: &str| value[name].as_str().map(str::to_owned);
        let hash: Digest = format!("sha256:{}", value["hash"].as_str()?).parse().ok()?;
        let note = Note {
            actor: field("actor")?,
            via: field("via")?,
            from: field("from")?,
            request: field("request")?,
            action: field("action")?,
            object: field("object")?,
            outcome: field("outcome")?,
        };
        let (number, at) = (count("number")?, Millis(count("at")?));
        Some(Self::Record(Box::new(Record { number, at, note, hash: hash.0 })))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written() {
        let note = Note { actor: "user:a".into(), object: "\"x\n".into(), ..Note::default() };
        let record = Record::following(None, Millis(7), note);
        let gap = Gap { from: 2, to: 9, noticed_at: Millis(8) };
        for line in [Line::Record(Box::new(record)), Line::Gap(gap)] {
            let text = line.to_string();
            assert!(!text.contains('\n'), "{text}");
            assert_eq!(Line::parse(&text), Some(line));
            assert_eq!(Line::parse(&text[..text.len() - 1]), None, "cut off");
        }
        for wrong in ["", "{}", "[]", "{\"missing_from\": 1}", "{\"number\": 1}"] {
            assert_eq!(Line::parse(wrong), None, "{wrong}");
        }
    }
}

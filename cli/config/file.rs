//! The configuration file: TOML with a section for each command that reads it, and in it the command's long flags as keys.
//!
//! What a section may hold is not listed anywhere: it is asked of the command line itself, values included, so that a flag that is
//! added is a key at once, and means the same.

use super::keys::{self, SECTIONS};
use crate::exit::Failure;
use crate::suggest;
use clap::Command;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Largest file read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A file that was read and makes sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What it says, in its order.
    pub settings: Vec<Setting>,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The section, e.g. `worker`.
    pub section: String,
    /// The key, e.g. `threads`.
    pub key: String,
    /// Its value, or values; of a flag without a value `true` or `false`.
    pub values: Vec<String>,
    /// Counted from 1.
    pub line: usize,
}

/// Something in a file that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Counted from 1.
    pub line: usize,
    /// What, what was expected, and what is near.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// Reads a file. `command` is the whole command line.
pub fn read(path: &Path, command: &Command) -> Result<File, Failure> {
    let size = std::fs::metadata(path).map_err(Failure::file("read", path))?.len();
    if size > FILE_BYTES_MAX {
        let text =
            format!("`{}` has {size} bytes, at most {FILE_BYTES_MAX} are read", path.display());
        return Err(Failure::Usage(text));
    }
    let text = std::fs::read_to_string(path).map_err(Failure::file("read", path))?;
    let settings = parse(&text, command).map_err(|findings| {
        let lines = findings.iter().map(|finding| format!("\n  {finding}"));
        Failure::Usage(format!("`{}` makes no sense:{}", path.display(), lines.collect::<String>()))
    })?;
    Ok(File { path: path.to_owned(), settings })
}

/// The settings of a text, or everything that is wrong with it.
pub fn parse(text: &str, command: &Command) -> Result<Vec<Setting>, Vec<Finding>> {
    let line_of = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_of(error.span().map_or(0, |span| span.start));
        vec![Finding { line, text: error.message().to_owned() }]
    })?;
    let (mut settings, mut findings) = (Vec::new(), Vec::new());
    for (name, section) in table.get_ref() {
        let line = line_of(name.span().start);
        let mut wrong = |line: usize, text: String| findings.push(Finding { line, text });
        let Some(known) = keys::section(command, name.get_ref()) else {
            let names = SECTIONS.map(|section| section.name.to_owned());
            let near = near(name.get_ref(), &names);
            wrong(line, format!("unknown section `{}`; {near}", name.get_ref()));
            continue;
        };
        let DeValue::Table(section) = section.get_ref() else {
            let name = name.get_ref();
            wrong(line, format!("`{name}` is a section; expected `[{name}]` and its keys below"));
            continue;
        };
        let names = keys::names(known);
        for (key, value) in section {
            let line = line_of(key.span().start);
            let key = key.get_ref().as_ref();
            if !names.iter().any(|known| known == key) {
                let near = near(key, &names);
                wrong(line, format!("unknown key `{key}` in `[{}]`; {near}", name.get_ref()));
                continue;
            }
            match values(value.get_ref()) {
                Some(values) => settings.push(Setting {
                    section: name.get_ref().to_string(),
                    key: key.to_owned(),
                    values,
                    line,
                }),
                None => wrong(
                    line,
                    format!(
                        "`{key}` is of the type `{}`; expected a text, a number, true or false, or a list of these",
                        value.get_ref().type_str()
                    ),
                ),
            }
        }
    }
    findings.extend(keys::check(command, &settings));
    // Tables come sorted by name; people read by line.
    settings.sort_by_key(|setting| setting.line);
    findings.sort_by_key(|finding| finding.line);
    if findings.is_empty() { Ok(settings) } else { Err(findings) }
}

fn near(name: &str, known: &[String]) -> String {
    match suggest::nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("expected one of {}", known.join(", ")),
    }
}

/// A value as the command line would have it.
fn values(value: &DeValue<'_>) -> Option<Vec<String>> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Array(_) | DeValue::Table(_) | DeValue::Datetime(_) => None,
    };
    match value {
        DeValue::Array(list) => list.iter().map(|item| one(item.get_ref())).collect(),
        value => one(value).map(|text| vec![text]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<Vec<Setting>, Vec<Finding>> {
        parse(text, &crate::Cli::command())
    }

    #[test]
    fn settings_come_with_their_lines() {
        let text = "# a comment\n[worker]\nthreads = 4\ncontrol-plane = [\"a:1\", \"b:2\"]\n\n[control-plane]\n\
                    insecure-http = true\nkeep-alive = -1\ndata-dir = '/var/lib/x'\n[client]\nhost = \"gpu:1\"\n";
        let settings = parsed(text).expect("sound");
        let shown: Vec<String> = settings
            .iter()
            .map(|s| format!("{} {}.{}={}", s.line, s.section, s.key, s.values.join("+")))
            .collect();
        assert_eq!(
            shown,
            [
                "3 worker.threads=4",
                "4 worker.control-plane=a:1+b:2",
                "7 control-plane.insecure-http=true",
                "8 control-plane.keep-alive=-1",
                "9 control-plane.data-dir=/var/lib/x",
                "11 client.host=gpu:1",
            ]
        );
        assert_eq!(parsed(""), Ok(Vec::new()));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_line_and_what_is_near() {
        for (text, line, said) in [
            (
                "[worker]\n\nthread = 4\n",
                3,
                "unknown key `thread` in `[worker]`; did you mean `threads`?",
            ),
            ("[wroker]\n", 1, "unknown section `wroker`; did you mean `worker`?"),
            ("[worker]\nthreads = \"many\"\n", 2, "invalid value 'many' for '--threads"),
            ("[worker]\nthreads = { a = 1 }\n", 2, "`threads` is of the type `table`"),
            ("worker = 4\n", 1, "`worker` is a section"),
            ("[worker]\nthreads = \n", 2, ""),
            ("[worker]\nthreads = 4\nthreads = 5\n", 3, "duplicate key"),
            ("[worker]\nexit-with-stdin = true\n", 2, "unknown key `exit-with-stdin`"),
            ("[control-plane]\ninsecure-http = \"yes\"\n", 2, "expected true or false"),
            ("[control-plane]\ntls-cert = \"x\"\n", 2, "--tls-key"),
            ("[client]\nconfig = \"x\"\n", 2, "unknown key `config`"),
        ] {
            let findings = parsed(text).expect_err(text);
            assert_eq!(findings[0].line, line, "{text:?}: {findings:?}");
            assert!(findings[0].text.contains(said), "{text:?}: {findings:?}");
            assert!(!findings[0].text.contains("--help"), "{findings:?}");
        }
        let all =
            parsed("[worker]\nthread = 4\n[up]\nnodes = \"x\"\nnode = 1\n").expect_err("wrong");
        assert_eq!(all.len(), 3, "{all:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn whatever_is_written_is_read_or_refused_with_a_line(
            text in "(\\[(worker|client|x)\\]\n)?([a-z-]{1,8} ?= ?(\"é?[a-z]*\"|[0-9.-]{1,4}|true|\\[1, \"a\"\\]|\\{\\})?\n){0,4}"
        ) {
            match parsed(&text) {
                Ok(settings) => prop_assert!(settings.len() <= text.lines().count()),
                Err(findings) => {
                    let lines = 1..=text.lines().count() + 1;
                    prop_assert!(findings.iter().all(|finding| lines.contains(&finding.line)));
                }
            }
        }
    }
}

//! `config`, and the file it is about: one TOML file for everything that is not said on a command line or in the environment.
//!
//! ```text
//! flag > environment variable > file > default
//! ```
//!
//! The file is the one `--config` or `OLLAMAMAX_CONFIG` names, else `~/.config/ollamamax/ollamamax.toml`, else
//! `/etc/ollamamax/ollamamax.toml`. Processes that `up` starts read none: what they are told is complete.

mod file;
mod keys;

use crate::exit::Failure;
use crate::known_nodes::user_directory;
use crate::out;
use crate::output::{List, Output};
use crate::table;
use clap::Command;
use file::File;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const FILE: &str = "ollamamax.toml";
const VARIABLE: &str = "OLLAMAMAX_CONFIG";
/// For everybody on this machine.
const SYSTEM_FILE: &str = "/etc/ollamamax/ollamamax.toml";

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Check a configuration file, and say what is wrong with it
    Check {
        /// The file; the one that would be read when absent
        file: Option<PathBuf>,
    },
    /// Show what is set, and where each value comes from
    Show {
        /// Only this section
        section: Option<String>,
        /// What nobody has set, too
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// Does it. `named`: the file given with `--config`.
pub fn run(args: &Args, named: Option<&Path>, command: Command) -> Result<(), Failure> {
    match args {
        Args::Check { file } => check(file.as_deref().or(named), &command),
        Args::Show { section, all, output } => {
            let section = section.as_deref();
            if let Some(name) = section.filter(|name| keys::section(&command, name).is_none()) {
                let names = keys::SECTIONS.map(|section| section.name).join(", ");
                return Err(Failure::Usage(format!(
                    "no section `{name}`; expected one of {names}"
                )));
            }
            let file = find(named)?.map(|path| file::read(&path, &command)).transpose()?;
            let mut rows =
                origins(&command, &file.unwrap_or_default(), |name| std::env::var_os(name));
            rows.retain(|row| section.is_none_or(|name| row["section"] == name));
            rows.retain(|row| *all || row["from"] != "default");
            output.print(
                &json!({"settings": rows}),
                List { items: "settings", name: "key" },
                render,
            );
            Ok(())
        }
    }
}

fn check(named: Option<&Path>, command: &Command) -> Result<(), Failure> {
    let Some(path) = find(named)? else {
        let places = places();
        let places: Vec<String> =
            places.iter().map(|path| format!("`{}`", path.display())).collect();
        out::line(&format!("there is no configuration file; looked for {}", places.join(" and ")));
        return Ok(());
    };
    let count = file::read(&path, command)?.settings.len();
    out::line(&format!("`{}` is fine: {count} settings", path.display()));
    Ok(())
}

/// Where a file is looked for when none is named.
fn places() -> Vec<PathBuf> {
    let own = user_directory("XDG_CONFIG_HOME", ".config").map(|directory| directory.join(FILE));
    own.into_iter().chain([PathBuf::from(SYSTEM_FILE)]).collect()
}

/// The file to read. One that is named must be there.
fn find(named: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    match named.map(Path::to_owned).or_else(variable) {
        Some(path) if path.exists() => Ok(Some(path)),
        Some(path) => Err(Failure::Usage(format!(
            "there is no configuration file `{}` (given with --config or {VARIABLE})",
            path.display()
        ))),
        None => Ok(places().into_iter().find(|path| path.exists())),
    }
}

/// The command line with the file's values as defaults.
pub fn command(command: Command, argv: &[OsString]) -> Result<Command, Failure> {
    let words: Vec<&str> = argv.iter().skip(1).filter_map(|word| word.to_str()).collect();
    let supervised = words.contains(&"--exit-with-stdin");
    // `config` tells of a broken file itself, and a page of help needs none.
    let first = words.iter().find(|word| !word.starts_with('-'));
    let without = ["config", "help", "completions", "man"];
    if supervised || first.is_some_and(|word| without.contains(word)) {
        return Ok(command);
    }
    let named = named(argv).or_else(variable);
    let Some(path) = find(named.as_deref())? else { return Ok(command) };
    match file::read(&path, &command) {
        Ok(file) => Ok(keys::apply(command, &file.settings)),
        // A file for a daemon that others may not read is no reason for them to do without any command.
        Err(Failure::File { source, .. })
            if named.is_none() && source.kind() == ErrorKind::PermissionDenied =>
        {
            out::say(&format!("Warning: `{}` may not be read, and is left out", path.display()));
            Ok(command)
        }
        Err(failure) => Err(failure),
    }
}

fn variable() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|text| !text.is_empty()).map(PathBuf::from)
}

/// The file that `--config` names, before the rest of the line is understood.
fn named(argv: &[OsString]) -> Option<PathBuf> {
    let mut words = argv.iter().skip(1).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().map(PathBuf::from);
        }
        if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    None
}

/// Each key with its value and where it comes from.
fn origins(command: &Command, file: &File, env: impl Fn(&str) -> Option<OsString>) -> Vec<Value> {
    let mut rows = Vec::new();
    for section in keys::SECTIONS {
        let Some(known) = keys::section(command, section.name) else { continue };
        for arg in keys::flags(known) {
            let key = arg.get_long().unwrap_or_default();
            let variable = arg.get_env().and_then(|name| name.to_str());
            let set = variable.and_then(|name| Some((name, env(name)?.into_string().ok()?)));
            let here =
                |setting: &&file::Setting| setting.section == section.name && setting.key == key;
            let in_file = file.settings.iter().find(here);
            let defaults = arg.get_default_values().iter().map(|text| text.to_string_lossy());
            let defaults: Vec<String> = defaults.map(std::borrow::Cow::into_owned).collect();
            let (value, from) = match (set.filter(|(_, value)| !value.is_empty()), in_file) {
                (Some((name, value)), _) => (value, format!("variable {name}")),
                (None, Some(setting)) => {
                    let place = format!("{}:{}", file.path.display(), setting.line);
                    (setting.values.join(","), place)
                }
                (None, None) => (defaults.join(","), "default".to_owned()),
            };
            rows.push(json!({"section": section.name, "key": key, "value": value, "from": from}));
        }
    }
    rows
}

fn render(answer: &Value, _: bool) -> String {
    let cell = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let row =
        |row: &Value| ["section", "key", "value", "from"].map(|field| cell(row, field)).to_vec();
    let rows: Vec<_> = answer["settings"].as_array().into_iter().flatten().map(row).collect();
    table::render(&["SECTION", "KEY", "VALUE", "FROM"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches};

    fn with_file(text: &str, argv: &[&str]) -> crate::Cli {
        let plain = crate::Cli::command();
        let settings = file::parse(text, &plain).expect("sound");
        let command = keys::apply(plain, &settings);
        command.clone().debug_assert();
        let matches = command.try_get_matches_from(argv).expect("the line is understood");
        crate::Cli::from_arg_matches(&matches).expect("it fits")
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let text = "[client]\nhost = \"gpu:1\"\n[worker]\nthreads = 4\ndata-dir = \"/x\"\nname = \"w\"\ncontrol-plane = [\"a:1\", \"b:1\"]\n\
                    [run]\nverbose = true\n[control-plane]\nbootstrap = false\n";
        let shown = |argv: &[&str]| format!("{:?}", with_file(text, argv));
        let worker = shown(&["ollamamax", "worker", "--threads", "2"]);
        for part in [
            "threads: 2",
            "data_dir: \"/x\"",
            "name: \"w\"",
            "[\"a:1\", \"b:1\"]",
            "Some(\"gpu:1\")",
        ] {
            assert!(worker.contains(part), "{part} in {worker}");
        }
        let run = shown(&["ollamamax", "run", "m", "--host", "here"]);
        assert!(run.contains("verbose: true") && run.contains("Some(\"here\")"), "{run}");
        let node = shown(&["ollamamax", "control-plane", "--data-dir", "/y"]);
        assert!(node.contains("bootstrap: false") && node.contains("data_dir: \"/y\""), "{node}");
    }

    #[test]
    fn each_value_says_where_it_comes_from() {
        let command = crate::Cli::command();
        let text = "[worker]\nthreads = 4\nparallel = 2\n";
        let settings = file::parse(text, &command).expect("sound");
        let file = File { path: "/c.toml".into(), settings };
        let env = |name: &str| (name == "OLLAMA_NUM_PARALLEL").then(|| OsString::from("3"));
        let rows = origins(&command, &file, env);
        let of = |key: &str| {
            let row = rows.iter().find(|row| row["section"] == "worker" && row["key"] == key);
            let row = row.expect("a row");
            (row["value"].as_str().expect("text"), row["from"].as_str().expect("text"))
        };
        assert_eq!(of("threads"), ("4", "/c.toml:2"));
        assert_eq!(of("parallel"), ("3", "variable OLLAMA_NUM_PARALLEL"));
        assert_eq!(of("device"), ("auto", "default"));
        assert!(rows.iter().all(|row| row["key"] != "exit-with-stdin"));
    }

    #[test]
    fn the_named_file_is_found_before_the_line_is_understood() {
        let named = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            super::named(&words).map(|path| path.display().to_string())
        };
        assert_eq!(named("x --config a.toml list").as_deref(), Some("a.toml"));
        assert_eq!(named("x list --config=b.toml").as_deref(), Some("b.toml"));
        assert_eq!(named("x run m -- --config c"), None);
    }
}

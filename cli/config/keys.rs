//! What the sections and keys of the file mean on the command line: which flags they are, whether a value is one, and how it
//! becomes the flag's default.

use super::file::{Finding, Setting};
use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

/// A section and the commands that read it, as paths below `ollamamax`.
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// Who reads it; the first has all its keys.
    pub commands: &'static [&'static [&'static str]],
}

/// All of them.
pub const SECTIONS: [Section; 5] = [
    Section { name: "client", commands: &[&[]] },
    Section { name: "up", commands: &[&["up"], &["serve"]] },
    Section { name: "control-plane", commands: &[&["control-plane"], &["cluster", "join"]] },
    Section { name: "worker", commands: &[&["worker"]] },
    Section { name: "run", commands: &[&["run"]] },
];

/// Flags that say something about one call and not about how things are here.
const NO_KEYS: [&str; 4] = ["config", "help", "version", "json"];

/// The command whose flags are the keys of a section.
pub fn section<'a>(command: &'a Command, name: &str) -> Option<&'a Command> {
    let section = SECTIONS.iter().find(|section| section.name == name)?;
    let path = section.commands.first()?;
    path.iter().try_fold(command, |command, name| command.find_subcommand(name))
}

/// The flags that may be keys.
pub fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| {
        !arg.is_hide_set() && arg.get_long().is_some_and(|long| !NO_KEYS.contains(&long))
    })
}

/// Their names.
pub fn names(command: &Command) -> Vec<String> {
    flags(command).filter_map(Arg::get_long).map(str::to_owned).collect()
}

fn flag<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    flags(command).find(|arg| arg.get_long() == Some(key))
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
}

/// What is wrong with values: alone, and in company.
pub fn check(command: &Command, settings: &[Setting]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in SECTIONS.map(|section| section.name) {
        let Some(known) = section(command, name) else { continue };
        let of: Vec<&Setting> = settings.iter().filter(|setting| setting.section == name).collect();
        let alone = of.iter().filter_map(|setting| check_one(known, setting));
        let wrong: Vec<Finding> = alone.collect();
        if wrong.is_empty() {
            findings.extend(check_all(known, &of));
        }
        findings.extend(wrong);
    }
    findings
}

fn check_one(command: &Command, setting: &Setting) -> Option<Finding> {
    let wrong = |text: String| Some(Finding { line: setting.line, text });
    let arg = flag(command, &setting.key)?;
    if is_switch(arg) && setting.values != ["true"] && setting.values != ["false"] {
        let got = setting.values.join(", ");
        return wrong(format!("`{}` is `{got}`; expected true or false", setting.key));
    }
    let error = parse(command, &[setting])?;
    match error.kind() {
        // Whether they go together is another question.
        ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict => None,
        _ => wrong(words(&error)),
    }
}

fn check_all(command: &Command, settings: &[&Setting]) -> Option<Finding> {
    let error = parse(command, settings)?;
    let text = error.to_string();
    let mut named = Vec::new();
    for kind in [ContextKind::PriorArg, ContextKind::InvalidArg] {
        match error.get(kind) {
            Some(ContextValue::String(arg)) => named.push(arg.clone()),
            Some(ContextValue::Strings(args)) => named.extend(args.clone()),
            _ => {}
        }
    }
    let is = |setting: &&&Setting, arg: &str| {
        arg.split([' ', '=']).next() == Some(&format!("--{}", setting.key))
    };
    let found = named.iter().find_map(|arg| settings.iter().find(|setting| is(setting, arg)));
    // What is missing has no line; what asks for it is named in the usage.
    let asks = settings.iter().find(|setting| text.contains(&format!("--{} ", setting.key)));
    let line = found.or(asks).or(settings.first()).map_or(1, |setting| setting.line);
    Some(Finding { line, text: words(&error) })
}

/// What the command line says to these settings as flags, and to nothing else.
fn parse(command: &Command, settings: &[&Setting]) -> Option<clap::Error> {
    let argv = settings.iter().flat_map(|setting| {
        let switch = flag(command, &setting.key).is_some_and(is_switch);
        let flags: Vec<String> = match switch {
            true if setting.values == ["true"] => vec![format!("--{}", setting.key)],
            true => Vec::new(),
            false => {
                setting.values.iter().map(|value| format!("--{}={value}", setting.key)).collect()
            }
        };
        flags
    });
    let argv: Vec<String> = std::iter::once("ollamamax".to_owned()).chain(argv).collect();
    let alone = |arg: Arg| arg.required(false).env(Resettable::Reset);
    let command = command.clone().subcommand_required(false).arg_required_else_help(false);
    command.mut_args(alone).try_get_matches_from(argv).err()
}

/// What an error says, without its decoration.
fn words(error: &clap::Error) -> String {
    let text = error.to_string();
    let ends = ["Usage:", "For more information"];
    let is_end = |line: &str| ends.iter().any(|end| line.starts_with(end));
    let lines = text.lines().map(str::trim).take_while(|line| !is_end(line));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

/// The command line with the file's values as defaults: a flag and a variable win over them by themselves.
pub fn apply(mut command: Command, settings: &[Setting]) -> Command {
    for setting in settings {
        let Some(section) = SECTIONS.iter().find(|section| section.name == setting.section) else {
            continue;
        };
        for path in section.commands {
            command = with_default(command, path, setting);
        }
    }
    command
}

fn with_default(command: Command, path: &[&str], setting: &Setting) -> Command {
    if let Some((first, rest)) = path.split_first() {
        return command.mut_subcommand(*first, |below| with_default(below, rest, setting));
    }
    // A command that shares a section may have fewer flags.
    let Some(id) = flag(&command, &setting.key).map(|arg| arg.get_id().to_string()) else {
        return command;
    };
    command.mut_arg(id, |arg| {
        let arg = arg.required(false);
        match (is_switch(&arg), setting.values.as_slice()) {
            (true, [value]) if value == "false" => arg,
            _ => arg.default_values(setting.values.clone()),
        }
    })
}

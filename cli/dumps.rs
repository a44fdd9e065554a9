//! Nobody but root looks into a running daemon: its memory holds keys, prompts and answers.
//!
//! Without this, every process of the same user may attach to it (`ptrace`), read its memory and environment in `/proc`, and a crash
//! writes all of it to a file. What is set here holds for this process; each child sets it for itself.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Whether others of the same user may look.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Let debuggers of the same user attach, and a crash write a core file: both show secrets, prompts and answers
    #[arg(long, env = "OLLAMAMAX_ALLOW_DUMPS", value_parser = clap::builder::FalseyValueParser::new())]
    pub allow_dumps: bool,
}

impl Args {
    /// Shuts others out unless they were let in; why it was not possible, for the log.
    pub fn apply(&self) -> Result<(), String> {
        if self.allow_dumps {
            return Ok(());
        }
        let nothing = Rlimit { current: Some(0), maximum: Some(0) };
        let no_core = setrlimit(Resource::Core, nothing).map_err(|error| error.to_string());
        let alone = set_dumpable_behavior(DumpableBehavior::NotDumpable);
        no_core.and(alone.map_err(|error| error.to_string())).map_err(|error| {
            format!("others of the same user may read this process's memory: {error}")
        })
    }
}

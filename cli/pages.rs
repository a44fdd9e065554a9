//! `completions` and `man`: what shells and `man` know of the command line, made from the command line itself.

use crate::exit::Failure;
use crate::out;
use clap::Command;
use clap_complete::Shell;
use std::path::PathBuf;

/// For which shell.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Where to.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// Write a page for each command into this directory; the main page goes to stdout when absent
    directory: Option<PathBuf>,
}

/// Prints the completions.
pub fn completions(args: &Completions, mut command: Command) {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    out::text(&String::from_utf8_lossy(&script));
}

/// Prints or writes the pages.
pub fn man(args: &Man, command: Command) -> Result<(), Failure> {
    match &args.directory {
        Some(directory) => {
            std::fs::create_dir_all(directory).map_err(Failure::file("create", directory))?;
            clap_mangen::generate_to(command, directory).map_err(Failure::file("write", directory))
        }
        None => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(command).render(&mut page);
            rendered.map_err(|error| Failure::Other(format!("cannot make the page: {error}")))?;
            out::text(&String::from_utf8_lossy(&page));
            Ok(())
        }
    }
}

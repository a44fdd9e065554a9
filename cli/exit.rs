//! How a command can fail, and the exit code that tells a script which way it was.
//!
//! Every command returns [`Failure`]; `main` prints it as `Error: …` and leaves with [`Failure::exit`].

use std::path::PathBuf;
use std::process::ExitCode;

/// The exit codes, as `ollamamax --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No node could be reached.
    Unreachable = 3,
    /// The server refused who asks.
    Denied = 4,
    /// What was named does not exist.
    NotFound = 5,
    /// It exists already, or has changed meanwhile.
    Conflict = 6,
    /// The control plane has no quorum: changes have to wait.
    NoQuorum = 7,
    /// It took too long.
    Timeout = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The end of every help page.
pub const EXIT_CODES_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no node reachable, 4 denied, 5 not found,
6 conflict, 7 no quorum, 8 timeout; of a daemon also 70 its promises are lost, 74 its disk failed,
77 the cluster does not let it in, 78 its settings cannot work";

/// Every code and what it means: the table of `docs/command-line.md`.
#[cfg(test)]
const EXIT_CODES: [(u8, &str); 14] = [
    (0, "done"),
    (Exit::Failed as u8, "failed, in a way that has no code of its own"),
    (Exit::Usage as u8, "wrong usage: the command line, or a file it names, makes no sense"),
    (Exit::Unreachable as u8, "no node was reached"),
    (Exit::Denied as u8, "denied: log in, or ask who may"),
    (Exit::NotFound as u8, "what was named does not exist"),
    (Exit::Conflict as u8, "conflict: it exists already, or has changed meanwhile"),
    (Exit::NoQuorum as u8, "the control plane has no quorum: changes have to wait"),
    (Exit::Timeout as u8, "it took too long"),
    (70, "a daemon: its promises are lost, it must not go on with this data"),
    (74, "a daemon: its disk failed"),
    (77, "a daemon: the cluster does not let it in"),
    (78, "a daemon: its settings cannot work"),
    (130, "`up`: stopped by a second signal before everything had ended"),
];

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or a file it names makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Nobody answered.
    #[error(
        "no node answered at {}: {cause}; start a cluster with `ollamamax up` or name one with \
         `--host`",
        tried.join(", ")
    )]
    Unreachable {
        /// The addresses tried, in order.
        tried: Vec<String>,
        /// What happened at the last of them.
        cause: String,
    },
    /// The server answered that it will not.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// The connection was lost while the answer came; whether it was done is not known.
    #[error("the connection to {node} broke off: {cause}")]
    BrokenOff {
        /// The node that had answered.
        node: String,
        /// What happened.
        cause: String,
    },
    /// It took too long.
    #[error("{what} took longer than {seconds} s")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// A file could not be used.
    #[error("cannot {action} `{}`: {source}", path.display())]
    File {
        /// `read`, `write`, `lock`, ...
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A port that is needed is taken.
    #[error(
        "{what} needs {address}, but another process listens there; stop it or choose another \
         address"
    )]
    PortTaken {
        /// Who needs it.
        what: String,
        /// host:port.
        address: String,
    },
    /// A daemon did not start or could not go on; it names its own exit code.
    #[error("{message}")]
    Daemon {
        /// Why.
        message: String,
        /// What the process leaves with.
        code: u8,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    /// A failure of a file operation.
    pub fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// The code to leave with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Timeout { .. } => Exit::Timeout,
            Self::Refused { status, message } => match status {
                401 | 403 => Exit::Denied,
                404 => Exit::NotFound,
                409 | 412 => Exit::Conflict,
                408 | 504 => Exit::Timeout,
                503 if names_lost_quorum(message) => Exit::NoQuorum,
                _ => Exit::Failed,
            },
            Self::BrokenOff { .. }
            | Self::File { .. }
            | Self::PortTaken { .. }
            | Self::Daemon { .. }
            | Self::Other(_) => Exit::Failed,
        }
    }

    /// The code the process leaves with: a daemon's own, else [`Failure::exit`].
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Daemon { code, .. } => ExitCode::from(*code),
            failure => failure.exit().into(),
        }
    }
}

/// Whether a 503 speaks of the control plane and not of busy workers.
pub fn names_lost_quorum(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("no quorum") || message.contains("no leader")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_each_exit_code_and_no_other() {
        let page = include_str!("../docs/command-line.md");
        let table = page.split("## Exit codes").nth(1).expect("a chapter");
        let rows = table.split("\n## ").next().expect("text").lines();
        let rows: Vec<&str> = rows.filter(|line| line.starts_with("| ")).skip(1).collect();
        let expected = EXIT_CODES.map(|(code, meaning)| format!("| {code} | {meaning} |"));
        assert_eq!(rows, expected);
        for (code, _) in EXIT_CODES.iter().filter(|(code, _)| *code < 100) {
            let named = EXIT_CODES_HELP.split([' ', ',', ';', ':', '\n']);
            assert!(named.clone().any(|word| word == code.to_string()), "--help lacks {code}");
        }
    }

    #[test]
    fn each_refusal_has_its_exit_code() {
        let refused = |status, message: &str| Failure::Refused { status, message: message.into() };
        for (failure, exit) in [
            (refused(400, "x"), Exit::Failed),
            (refused(401, "x"), Exit::Denied),
            (refused(403, "x"), Exit::Denied),
            (refused(404, "x"), Exit::NotFound),
            (refused(409, "x"), Exit::Conflict),
            (refused(412, "x"), Exit::Conflict),
            (refused(503, "server busy, please try again"), Exit::Failed),
            (refused(503, "the control plane has no quorum: lost"), Exit::NoQuorum),
            (refused(504, "x"), Exit::Timeout),
            (Failure::Usage("x".into()), Exit::Usage),
            (Failure::Unreachable { tried: vec![], cause: String::new() }, Exit::Unreachable),
            (Failure::Timeout { what: "x".into(), seconds: 1 }, Exit::Timeout),
        ] {
            assert_eq!(failure.exit(), exit, "{failure}");
        }
    }
}

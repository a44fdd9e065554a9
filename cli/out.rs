//! The one place that writes to stdout: data only, so that it can be piped. Talk and progress go to stderr.

use std::io::Write;

/// Writes text as it is. A reader that has gone away (`ollamamax list | head`) ends the program quietly.
pub fn text(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    if written.is_err() {
        std::process::exit(0);
    }
}

/// Writes one line.
pub fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// Writes a value as indented JSON.
pub fn json(value: &serde_json::Value) {
    line(&format!("{value:#}"));
}

/// Writes one line of talk to stderr.
pub fn say(line: &str) {
    // Nobody to talk to is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

//! The one place that writes to stdout: data only, so that it can be piped. Talk and progress go to stderr.

use ollamamax_proto::limits;
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

/// Whether people want colours: `NO_COLOR` is not set, and the terminal has them.
pub fn colours() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Text of others as a terminal may show it: nothing in it moves the cursor, changes colours, turns its direction, or goes on
/// for pages.
pub fn printable(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown = text.chars().filter(|&c| c == '\n' || !(c.is_control() || turns(c)));
    let mut shown: String = shown.take(limits::ERROR_TEXT_CHARS + 1).collect();
    if let Some((end, _)) = shown.char_indices().nth(limits::ERROR_TEXT_CHARS) {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_leaves_the_terminal_alone() {
        let hostile = "a\u{1b}[31m\u{9b}2J\r\u{7}\u{202e}b\u{2066}\nc\u{8}\0";
        assert_eq!(printable(hostile), "a[31m2Jb\nc");
        let long = printable(&"x".repeat(1_000_000));
        assert_eq!(long.chars().count(), limits::ERROR_TEXT_CHARS + 1);
    }
}

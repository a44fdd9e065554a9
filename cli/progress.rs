//! Progress on stderr: bars on a terminal, a line per 10 % elsewhere, nothing when asked to be quiet.

use crate::human;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Shows one thing after the other; clones show the same.
#[derive(Clone)]
pub struct Progress {
    terminal: bool,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    bar: Option<ProgressBar>,
    title: String,
    total: u64,
    tenth: u64,
}

impl Progress {
    /// On stderr, as it is.
    pub fn new() -> Self {
        Self::on(std::io::stderr().is_terminal())
    }

    /// With or without bars.
    pub fn on(terminal: bool) -> Self {
        Self { terminal, inner: Arc::default() }
    }

    /// Something without a measure goes on: a spinner, or a line. Repeating the same title changes nothing.
    pub fn status(&self, title: &str) {
        let Ok(mut inner) = self.inner.lock() else { return };
        if inner.title == title && inner.total == 0 {
            return;
        }
        inner.finish();
        inner.begin(title, 0);
        if self.terminal {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(spinner_style());
            bar.set_message(clean(title));
            bar.enable_steady_tick(Duration::from_millis(100));
            inner.bar = Some(bar);
        } else {
            crate::out::say(&clean(title));
        }
    }

    /// `done` of `total` bytes.
    pub fn bytes(&self, title: &str, done: u64, total: u64) {
        if total == 0 {
            return self.status(title);
        }
        let Ok(mut inner) = self.inner.lock() else { return };
        if inner.title != title || inner.total != total {
            inner.finish();
            inner.begin(title, total);
            if self.terminal {
                let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
                bar.set_style(bar_style());
                bar.set_message(clean(title));
                inner.bar = Some(bar);
            }
        }
        if let Some(bar) = &inner.bar {
            bar.set_position(done.min(total));
        } else if let Some(tenth) = inner.next_tenth(done) {
            let (title, total) = (clean(title), human::bytes(total));
            crate::out::say(&format!("{title}: {}% of {total}", tenth * 10));
        }
    }

    /// A record of the API's progress streams: `{status, digest?, total?, completed?}`.
    pub fn record(&self, record: &Value) {
        let status = record["status"].as_str().unwrap_or_default();
        match (record["total"].as_u64(), record["completed"].as_u64()) {
            (Some(total), completed) => self.bytes(status, completed.unwrap_or(0), total),
            (None, _) if !status.is_empty() => self.status(status),
            (None, _) => {}
        }
    }

    /// What was shown is over. A spinner goes, a bar stays.
    pub fn finish(&self) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.finish();
            inner.title.clear();
        }
    }
}

impl Inner {
    fn begin(&mut self, title: &str, total: u64) {
        *self = Self { bar: None, title: title.to_owned(), total, tenth: 0 };
    }

    fn finish(&mut self) {
        match self.bar.take() {
            Some(bar) if self.total > 0 && bar.position() >= self.total => bar.finish(),
            Some(bar) if self.total > 0 => bar.abandon(),
            Some(bar) => bar.finish_and_clear(),
            None => {}
        }
    }

    /// The tenth reached, once each.
    fn next_tenth(&mut self, done: u64) -> Option<u64> {
        let tenth = (u128::from(done) * 10 / u128::from(self.total.max(1))).min(10) as u64;
        (tenth > self.tenth).then(|| {
            self.tenth = tenth;
            tenth
        })
    }
}

/// Server text must not move the cursor.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn bar_style() -> ProgressStyle {
    let template = "{msg}: {percent:>3}% ▕{wide_bar}▏ {bytes:>9}/{total_bytes:>9} {bytes_per_sec:>12} {eta:>6}";
    let style = ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar());
    style.progress_chars("██ ")
}

fn spinner_style() -> ProgressStyle {
    let style =
        ProgressStyle::with_template("{msg} {spinner}").unwrap_or(ProgressStyle::default_spinner());
    style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenth_is_told_once() {
        let mut inner = Inner { total: 1_000, ..Inner::default() };
        let told: Vec<u64> = (0..=1_000).filter_map(|done| inner.next_tenth(done)).collect();
        assert_eq!(told, (1..=10).collect::<Vec<_>>());
        assert_eq!(inner.next_tenth(u64::MAX), None);
    }

    #[test]
    fn control_characters_of_a_server_are_dropped() {
        assert_eq!(clean("pulling\x1b[2J\r\n"), "pulling[2J");
    }
}

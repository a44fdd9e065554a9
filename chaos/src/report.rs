//! What a run came to: in words, as JSON, and as a page; and the evidence beside it.

use crate::check::{self, Verdict};
use crate::figures::Figures;
use crate::html;
use crate::run::{Done, Grade};
use ollamamax_tests::HarnessError;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// Findings of one checker that are printed.
const FINDINGS_COUNT: usize = 5;

impl Done {
    /// The command that does the same again.
    pub fn repeat(&self) -> String {
        format!("cargo chaos --scenario {} --seed {}", self.scenario.name, self.seed)
    }

    /// Writes everything into a directory: `report.txt`, `.json`, `.html`, the history and the schedule.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), HarnessError> {
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).map_err(HarnessError::io(&path))
        };
        write("report.txt", self.to_string())?;
        write("report.json", json(self)?)?;
        write("report.html", html::page(self))?;
        write("history.json", json(&self.history)?)?;
        write("schedule.json", json(&self.planned)?)
    }
}

fn json(value: &impl Serialize) -> Result<String, HarnessError> {
    serde_json::to_string_pretty(value).map_err(|error| HarnessError::Other(error.to_string()))
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, seed, history, .. } = self;
        writeln!(f, "{} (seed {seed}): {}", scenario.name, scenario.about)?;
        let means: std::collections::BTreeSet<&str> =
            history.faults.iter().map(|fault| fault.means.as_str()).collect();
        let means = means.into_iter().collect::<Vec<_>>().join(", ");
        writeln!(f, "  {} faults, made by: {means}", history.faults.len())?;
        write!(f, "{}", self.figures)?;
        for heal in &history.heals {
            let took = heal.took_us.map_or("never".to_owned(), |took| ms(took).to_string());
            writeln!(f, "  {:<44} {took:>8} ms, bar {} ms", heal.what, ms(heal.bar_us))?;
        }
        for (name, verdict) in &self.verdicts {
            match verdict {
                Verdict::Pass { looked_at } => {
                    writeln!(f, "  ok      {name:<13} {looked_at} looked at")?
                }
                Verdict::Unknown { why } => writeln!(f, "  unknown {name:<13} {why}")?,
                Verdict::Fail { findings } => {
                    let promise = check::find(name).map_or("", |checker| checker.promise);
                    writeln!(f, "  BROKEN  {name:<13} {promise}")?;
                    for finding in findings.iter().take(FINDINGS_COUNT) {
                        writeln!(f, "            {finding}")?;
                    }
                    if findings.len() > FINDINGS_COUNT {
                        writeln!(f, "            and {} more", findings.len() - FINDINGS_COUNT)?;
                    }
                }
            }
        }
        for why in &self.invalid {
            writeln!(f, "  invalid: {why}")?;
        }
        match self.grade() {
            Grade::Pass => writeln!(f, "  verdict: pass"),
            Grade::Invalid => writeln!(f, "  verdict: INVALID; repeat with: {}", self.repeat()),
            Grade::Fail => writeln!(f, "  verdict: FAIL; repeat with: {}", self.repeat()),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {} writes ({:.0}/s when calm; p50 {} ms, p99 {} ms; longest gap {} ms), {} reads, {} unknown, {} leaders",
            self.writes,
            self.calm_writes_per_s,
            ms(self.write_us.0),
            ms(self.write_us.1),
            ms(self.longest_gap_us),
            self.reads,
            self.unknown,
            self.leaders,
        )?;
        let (ended, moved, anew) = self.streams;
        writeln!(
            f,
            "  {ended} streams ({moved} went on at another gateway, {anew} asked for anew; longest pause p50 {} ms, p99 {} ms)",
            ms(self.pause_us.0),
            ms(self.pause_us.1),
        )?;
        for (what, (count, p50, longest)) in &self.faults {
            writeln!(
                f,
                "  {count:>3} x {what:<18} next acknowledged write after p50 {} ms, at most {} ms",
                ms(*p50),
                if *longest > u64::MAX / 2 { "never".to_owned() } else { ms(*longest).to_string() },
            )?;
        }
        Ok(())
    }
}

fn ms(us: u64) -> u64 {
    us / 1_000
}

//! `doctor`: what is wrong with the cluster and this machine, and what to do about each of it.
//!
//! ```text
//! observe (asks, looks at disks) -> judge (pure: what it means) -> findings
//! ```

mod judge;
mod observe;

use crate::client::Client;
use crate::exit::Failure;
use crate::output::{List, Output};
use crate::{out, table};
use judge::{Finding, Level};
use serde_json::{Value, json};

/// How to tell it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tell what is well, too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

/// Looks, and tells. Problems end it with the exit code of a failure.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let observed = observe::everything(client).await;
    let findings = judge::judge(&observed, jiff::Timestamp::now());
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    let shown = findings.iter().filter(|finding| args.all || finding.level != Level::Well);
    let shown: Vec<Value> = shown.map(Finding::to_json).collect();
    let answer = json!({"problems": problems, "warnings": warnings, "findings": shown});
    args.output.print(&answer, List { items: "findings", name: "what" }, render);
    if problems == 0 {
        return Ok(());
    }
    let many = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let (problems, warnings) = (many(problems, "problem"), many(warnings, "warning"));
    Err(Failure::Other(format!("{problems} and {warnings}; each is followed by what to do")))
}

fn render(answer: &Value, _: bool) -> String {
    let text =
        |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let findings = answer["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    if findings.is_empty() {
        return "nothing is wrong\n".to_owned();
    }
    let row = |finding: &Value| {
        let what = out::printable(&text(finding, "what")).replace('\n', " ");
        vec![text(finding, "level"), text(finding, "about"), what]
    };
    let rows: Vec<_> = findings.iter().map(row).collect();
    let laid_out = table::render(&["LEVEL", "ABOUT", "WHAT"], &rows);
    let mut shown = String::new();
    let nexts = std::iter::once(String::new()).chain(findings.iter().map(|f| text(f, "next")));
    for (line, next) in laid_out.lines().zip(nexts) {
        shown.push_str(&format!("{line}\n"));
        if !next.is_empty() {
            shown.push_str(&format!("    -> {}\n", out::printable(&next).replace('\n', " ")));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_followed_by_what_to_do() {
        let finding = |level: &str, next: &str| json!({"level": level, "about": "worker w1", "what": "is down", "next": next});
        let answer = json!({"findings": [finding("problem", "start it"), finding("well", "")]});
        assert_eq!(
            render(&answer, false),
            "LEVEL      ABOUT        WHAT\nproblem    worker w1    is down\n    -> start it\n\
             well       worker w1    is down\n"
        );
        assert_eq!(render(&json!({"findings": []}), false), "nothing is wrong\n");
    }
}

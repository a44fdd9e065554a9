//! `audit`: who did what. Shown, exported as JSON lines, and checked.

use crate::client::Client;
use crate::exit::Failure;
use crate::list::{elements, text};
use crate::output::{List, Output};
use crate::{out, table};
use ollamamax_proto::audit::{Broken, Gap, Line, Verifier};
use ollamamax_proto::{Digest, Millis, limits};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Show the newest records
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
        /// Show what comes, until Ctrl-C
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Write the trail as JSON lines; with a file, go on after its last record
    Export {
        /// Where to; stdout when absent
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Go on with what comes, until Ctrl-C
        #[arg(short, long)]
        follow: bool,
    },
    /// Check that nothing in the trail was changed, removed, added or moved
    Verify {
        /// An exported file, checked against the cluster; the cluster's own trail when absent
        file: Option<PathBuf>,
        /// Do not ask the cluster: what was cut off at the end of the file does not show then
        #[arg(long, requires = "file")]
        offline: bool,
        /// Accept that records are missing where the export itself says so
        #[arg(long, requires = "file")]
        accept_gaps: bool,
    },
}

/// Does it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    match args {
        Args::Tail { lines, follow, output } => tail(client, *lines, *follow, *output).await,
        Args::Export { output, follow } => export(client, output.as_deref(), *follow).await,
        Args::Verify { file: None, .. } => verify_cluster(client).await,
        Args::Verify { file: Some(file), offline, accept_gaps } => {
            let client = (!offline).then_some(client);
            verify_file(client, file, *accept_gaps).await
        }
    }
}

/// The records after a number, one answer's worth, and the number and hash of the last there is.
async fn page(client: &Client, after: u64) -> Result<(Vec<Value>, Option<(u64, String)>), Failure> {
    let answer = client.get(&format!("/admin/v1/audit?after={after}")).await?;
    let records = answer["records"].as_array().cloned().unwrap_or_default();
    let head = answer["last"].as_u64().zip(answer["head"].as_str().map(str::to_owned));
    Ok((records, head))
}

fn number(record: &Value) -> u64 {
    record["number"].as_u64().unwrap_or(0)
}

async fn tail(client: &Client, lines: usize, follow: bool, output: Output) -> Result<(), Failure> {
    const RECORDS: List = List { items: "records", name: "number" };
    let lines = lines.clamp(1, limits::AUDIT_PAGE_COUNT);
    let answer = client.get(&format!("/admin/v1/audit?last={lines}")).await?;
    let mut records = answer["records"].as_array().cloned().unwrap_or_default();
    let mut last = 0;
    loop {
        last = records.last().map_or(last, number);
        if !records.is_empty() {
            let page = json!({"records": records});
            output.by_lines().print(&page, RECORDS, |page, _| shown(elements(&page["records"])));
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(limits::WATCH_PERIOD_MS)).await;
        (records, _) = page(client, last).await?;
    }
}

fn shown(records: &[Value]) -> String {
    let row = |record: &Value| {
        let at = jiff::Timestamp::from_millisecond(record["at"].as_i64().unwrap_or(0));
        let at = at.map(|at| at.to_string()).unwrap_or_default();
        let fields = ["actor", "from", "action", "object", "outcome"];
        let mut row = vec![number(record).to_string(), at];
        row.extend(fields.map(|field| text(record, field)));
        row
    };
    let rows: Vec<Vec<String>> = records.iter().map(row).collect();
    table::render(&["#", "AT", "WHO", "FROM", "WHAT", "ON", "OUTCOME"], &rows)
}

async fn export(client: &Client, output: Option<&Path>, follow: bool) -> Result<(), Failure> {
    let (mut file, mut last) = match output {
        None => (None, 0),
        Some(path) => {
            // What is there must be whole, or what follows would hide that it is not.
            let last =
                if path.exists() { read(path)?.last().map_or(0, |(number, _)| number) } else { 0 };
            let opened = OpenOptions::new().create(true).append(true).open(path);
            (Some((path, opened.map_err(Failure::file("write", path))?)), last)
        }
    };
    let mut written = 0;
    loop {
        let (mut records, _) = page(client, last).await?;
        let first = records.first().map_or(0, number);
        if last > 0 && first > last + 1 {
            let gap = Gap { from: last + 1, to: first - 1, noticed_at: Millis::now() };
            let (from, to) = (gap.from, gap.to);
            out::say(&format!(
                "records {from} to {to} are missing: the cluster has forgotten them"
            ));
            records.insert(0, Line::Gap(gap).value());
        }
        for record in &records {
            match &mut file {
                None => out::line(&record.to_string()),
                Some((path, file)) => {
                    let line = format!("{record}\n");
                    file.write_all(line.as_bytes()).map_err(Failure::file("write", *path))?;
                }
            }
        }
        if let (Some((path, file)), false) = (&file, records.is_empty()) {
            file.sync_all().map_err(Failure::file("write", *path))?;
        }
        written += records.len();
        match records.last() {
            Some(record) => last = number(record),
            None if follow => {
                tokio::time::sleep(Duration::from_millis(limits::WATCH_PERIOD_MS)).await;
            }
            None => break,
        }
    }
    if let Some(path) = output {
        out::say(&format!("{written} records written to {}", path.display()));
    }
    Ok(())
}

fn follow(verifier: &mut Verifier, line: &Line) -> Result<(), Broken> {
    match line {
        Line::Record(record) => verifier.next(record),
        Line::Gap(gap) => verifier.gap(*gap),
    }
}

/// Reads and checks a file.
fn read(path: &Path) -> Result<Verifier, Failure> {
    let file = File::open(path).map_err(Failure::file("read", path))?;
    let mut verifier = Verifier::default();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Failure::file("read", path))?;
        let at = |what: String| {
            Failure::Other(format!("`{}` line {}: {what}", path.display(), index + 1))
        };
        let line = Line::parse(&line).ok_or_else(|| at("no record of a trail".to_owned()))?;
        follow(&mut verifier, &line).map_err(|broken| at(broken.to_string()))?;
    }
    Ok(verifier)
}

async fn verify_file(
    client: Option<&Client>,
    path: &Path,
    accept_gaps: bool,
) -> Result<(), Failure> {
    let verifier = read(path)?;
    let told = |gap: &Gap| format!("{} to {}", gap.from, gap.to);
    let missing: Vec<String> = verifier.gaps().iter().map(told).collect();
    let missing = missing.join(", ");
    if !missing.is_empty() && !accept_gaps {
        return Err(Failure::Other(format!(
            "`{}` says that records are missing in it: {missing}; another node's file or receiver may have them. \
             `--accept-gaps` checks the rest",
            path.display()
        )));
    }
    let Some((last, hash)) = verifier.last() else {
        return Err(Failure::Other(format!("`{}` has no records", path.display())));
    };
    if let Some(client) = client {
        let (records, head) = page(client, last.saturating_sub(1)).await?;
        let same = records.first().filter(|record| number(record) == last);
        match same {
            Some(record) if text(record, "hash") != Digest(hash).hex() => {
                return Err(Failure::Other(format!(
                    "record {last} is another one in the cluster: the file was changed from some record on"
                )));
            }
            Some(_) => {}
            None => return Err(Failure::Other(format!("the cluster has no record {last}"))),
        }
        if let Some((newest, _)) = head.filter(|(newest, _)| *newest > last) {
            return Err(Failure::Other(format!(
                "the file ends at record {last}, the cluster's trail at {newest}: the end is missing; \
                 `audit export --output {}` adds it",
                path.display()
            )));
        }
    }
    let but = if missing.is_empty() { String::new() } else { format!(" but for {missing}") };
    out::line(&format!("{} records, unbroken{but}, up to record {last}", verifier.checked()));
    Ok(())
}

async fn verify_cluster(client: &Client) -> Result<(), Failure> {
    let (mut verifier, mut after) = (Verifier::default(), 0);
    loop {
        let (records, _) = page(client, after).await?;
        let Some(last) = records.last() else { break };
        after = number(last);
        for record in &records {
            let line = Line::parse(&record.to_string());
            let line =
                line.ok_or_else(|| Failure::Other(format!("no record of a trail: {record}")))?;
            follow(&mut verifier, &line).map_err(|broken| Failure::Other(broken.to_string()))?;
        }
    }
    let last = verifier.last().map_or(0, |(number, _)| number);
    out::line(&format!("{} records, unbroken, up to record {last}", verifier.checked()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_proto::audit::{Note, Record};

    fn lines(count: u64) -> Vec<String> {
        let mut records: Vec<Record> = Vec::new();
        for nth in 0..count {
            let note =
                Note { actor: format!("user:u{nth}"), outcome: "done".into(), ..Note::default() };
            records.push(Record::following(records.last(), Millis(nth), note));
        }
        records.into_iter().map(|record| Line::Record(Box::new(record)).to_string()).collect()
    }

    fn check(lines: &[String]) -> Result<u64, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), lines.join("\n") + "\n").expect("written");
        read(file.path()).map(|verifier| verifier.checked()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_thousand_edits_of_an_exported_trail_all_show_with_their_line() {
        let good = lines(40);
        assert_eq!(check(&good), Ok(40));
        let mut mutants = 0;
        for at in 0..good.len() {
            let mut removed = good.clone();
            removed.remove(at);
            // Cut off at an end: the beginning is somebody else's to keep, the end shows against the cluster.
            if at != 0 && at != good.len() - 1 {
                assert!(check(&removed).is_err(), "line {at} removed");
            }
            let mut doubled = good.clone();
            doubled.insert(at, good[at].clone());
            assert!(check(&doubled).is_err(), "line {at} doubled");
            let mut swapped = good.clone();
            swapped.swap(at, (at + 7) % good.len());
            assert!(check(&swapped).is_err(), "line {at} moved");
            for column in (0..good[at].len()).step_by(9) {
                let mut bytes = good[at].clone().into_bytes();
                bytes[column] = if bytes[column] == b'5' { b'6' } else { b'5' };
                let Ok(edited) = String::from_utf8(bytes) else { continue };
                let mut changed = good.clone();
                changed[at] = edited;
                let error = check(&changed).expect_err(&format!("line {at} column {column}"));
                assert!(error.contains("line "), "{error}");
                mutants += 1;
            }
        }
        assert!(mutants >= 800, "{mutants}");
    }
}

//! The report as one page: a timeline of faults, leaders, writes and streams over the same seconds. It asks nobody for anything.

use crate::check::{self, Verdict};
use crate::history::{History, Outcome};
use crate::run::{Done, Grade};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const WIDTH: f64 = 1_100.0;
const LEFT: f64 = 150.0;
const ROW: f64 = 18.0;
/// Seconds are divided into so many columns at most, for latencies.
const COLUMNS: usize = 220;

const STYLE: &str = "body{font:14px system-ui,sans-serif;margin:2em auto;max-width:1300px;color:#222;background:#fff}\
h1{font-size:1.4em}table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd;\
vertical-align:top}.pass{color:#176b2c}.fail{color:#b3261e;font-weight:bold}.invalid,.unknown{color:#8a5a00}\
code{background:#f2f2f2;padding:.1em .3em}text{font:11px system-ui,sans-serif;fill:#444}\
@media(prefers-color-scheme:dark){body{background:#16181c;color:#ddd}text{fill:#aaa}td,th{border-color:#333}\
code{background:#24272d}.pass{color:#6fcf87}.fail{color:#ff8a80}.invalid,.unknown{color:#e0b050}}";

/// The page.
pub fn page(done: &Done) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut out, done);
    out
}

fn write_page(out: &mut String, done: &Done) -> std::fmt::Result {
    let (name, seed) = (escape(&done.scenario.name), done.seed);
    let (class, word) = match done.grade() {
        Grade::Pass => ("pass", "pass"),
        Grade::Fail => ("fail", "FAIL"),
        Grade::Invalid => ("invalid", "INVALID"),
    };
    write!(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8><title>chaos: {name}, seed {seed}</title>"
    )?;
    write!(out, "<meta name=viewport content='width=device-width'><style>{STYLE}</style>")?;
    write!(out, "<h1>{name}, seed {seed}: <span class={class}>{word}</span></h1>")?;
    write!(
        out,
        "<p>{}</p><p>Repeat with <code>{}</code></p>",
        escape(&done.scenario.about),
        escape(&done.repeat())
    )?;
    timeline(out, &done.history)?;
    write!(out, "<h2>Promises</h2><table>")?;
    for (name, verdict) in &done.verdicts {
        let promise = check::find(name).map_or("", |checker| checker.promise);
        let (class, text) = match verdict {
            Verdict::Pass { looked_at } => ("pass", format!("kept; {looked_at} looked at")),
            Verdict::Unknown { why } => ("unknown", format!("unknown: {}", escape(why))),
            Verdict::Fail { findings } => {
                let findings: Vec<String> = findings.iter().take(50).map(|f| escape(f)).collect();
                ("fail", format!("BROKEN<br>{}", findings.join("<br>")))
            }
        };
        write!(out, "<tr><td>{name}<td>{}<td class={class}>{text}", escape(promise))?;
    }
    for why in &done.invalid {
        write!(out, "<tr><td>run<td>shows enough<td class=invalid>{}", escape(why))?;
    }
    write!(out, "</table><h2>Figures</h2><pre>{}</pre>", escape(&done.figures.to_string()))?;
    write!(out, "<h2>Faults</h2><table><tr><th>from<th>to<th>what<th>whom<th>means")?;
    for fault in &done.history.faults {
        let seconds = |us: u64| us as f64 / 1e6;
        let (from, to) = (seconds(fault.begun_us), seconds(fault.ended_us));
        let (what, target, means) =
            (escape(&fault.what), escape(&fault.target), escape(&fault.means));
        write!(out, "<tr><td>{from:.2} s<td>{to:.2} s<td>{what}<td>{target}<td>{means}")?;
    }
    write!(out, "</table>")
}

/// A mark on the timeline: row, from, to, colour, what it says.
struct Mark(String, u64, u64, &'static str, String);

fn timeline(out: &mut String, history: &History) -> std::fmt::Result {
    let mut marks = Vec::new();
    for fault in &history.faults {
        let text = format!("{} of {}", fault.what, fault.target);
        marks.push(Mark(
            format!("! {}", fault.what),
            fault.begun_us,
            fault.ended_us,
            "#d9534f",
            text,
        ));
    }
    leaders(history, &mut marks);
    for stream in &history.streams {
        let colour = match (&stream.error, stream.moves + stream.restarts) {
            (Some(_), _) => "#b3261e",
            (None, 0) => "#5b9bd5",
            (None, _) => "#e0a030",
        };
        let text = format!(
            "prompt {}, {} bytes, longest pause {} ms, {} moves {}",
            stream.prompt,
            stream.text.len(),
            stream.pause_us / 1_000,
            stream.moves,
            stream.error.as_deref().unwrap_or("")
        );
        let row = format!("streams, gateway {}", stream.node + 1);
        marks.push(Mark(row, stream.begun_us, stream.ended_us, colour, text));
    }
    let end = marks.iter().map(|mark| mark.2).max().unwrap_or(0);
    let end = history
        .operations
        .iter()
        .map(|operation| operation.ended_us)
        .max()
        .unwrap_or(0)
        .max(end)
        .max(1);
    let scale = (WIDTH - LEFT) / end as f64;
    let x = |us: u64| LEFT + us as f64 * scale;
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for Mark(row, ..) in &marks {
        let next = rows.len();
        rows.entry(row).or_insert(next);
    }
    // In the order of their names: faults, leaders, streams.
    for (place, row) in rows.values_mut().enumerate() {
        *row = place;
    }
    let below = rows.len() as f64 * ROW + 10.0;
    let height = below + 130.0;
    write!(
        out,
        "<svg viewBox='0 0 {WIDTH} {height}' width='100%' role=img aria-label='timeline'>"
    )?;
    for (row, place) in &rows {
        let y = *place as f64 * ROW + 13.0;
        write!(out, "<text x=0 y={y}>{}</text>", escape(row))?;
    }
    for Mark(row, from, to, colour, text) in &marks {
        let (y, width) =
            (rows[row.as_str()] as f64 * ROW + 3.0, ((to - from) as f64 * scale).max(2.0));
        write!(
            out,
            "<rect x={:.1} y={y} width={width:.1} height=12 fill='{colour}' fill-opacity=.75><title>{}</title></rect>",
            x(*from),
            escape(text)
        )?;
    }
    latencies(out, history, end, below)?;
    for second in (0..=end / 1_000_000).step_by((end / 1_000_000 / 20 + 1) as usize) {
        write!(out, "<text x={:.1} y={}>{second} s</text>", x(second * 1_000_000), height - 2.0)?;
    }
    write!(out, "</svg>")
}

/// Who led, as runs of sightings that say the same.
fn leaders(history: &History, marks: &mut Vec<Mark>) {
    const COLOURS: [&str; 6] = ["#2e7d32", "#6a4fb3", "#00838f", "#a0522d", "#5d6d1e", "#8e3b70"];
    let mut sightings: Vec<_> = history.sightings.iter().collect();
    sightings.sort_by_key(|sighting| (sighting.node, sighting.at_us));
    let mut open: Option<(usize, Option<u64>, u64, u64, u64)> = None;
    let mut close = |run: Option<(usize, Option<u64>, u64, u64, u64)>| {
        if let Some((node, Some(leader), term, from, to)) = run {
            let colour = COLOURS[leader as usize % COLOURS.len()];
            let row = format!("leader, says node {}", node + 1);
            marks.push(Mark(row, from, to, colour, format!("node {leader} leads term {term}")));
        }
    };
    for sighting in sightings {
        let (node, leader, term) = (sighting.node, sighting.leader, sighting.term);
        match &mut open {
            // A hole of more than a second is one.
            Some((n, l, t, _, to))
                if (*n, *l, *t) == (node, leader, term) && sighting.at_us < *to + 1_000_000 =>
            {
                *to = sighting.at_us;
            }
            _ => close(open.replace((node, leader, term, sighting.at_us, sighting.at_us))),
        }
    }
    close(open);
}

/// The slowest acknowledged write of each column, on a logarithmic scale from 1 ms to 10 s; red where something was not answered.
fn latencies(out: &mut String, history: &History, end: u64, top: f64) -> std::fmt::Result {
    const HEIGHT: f64 = 100.0;
    let mut slowest = [0u64; COLUMNS];
    let mut unknown = [false; COLUMNS];
    for operation in &history.operations {
        let column = (operation.ended_us as usize * COLUMNS / (end as usize + 1)).min(COLUMNS - 1);
        match operation.outcome {
            Outcome::Written(_) => {
                slowest[column] = slowest[column].max(operation.ended_us - operation.begun_us);
            }
            Outcome::Unknown => unknown[column] = true,
            _ => {}
        }
    }
    let step = (WIDTH - LEFT) / COLUMNS as f64;
    write!(out, "<text x=0 y={}>slowest write</text>", top + 20.0)?;
    for (label, us) in [("10 s", 10_000_000u64), ("100 ms", 100_000), ("1 ms", 1_000)] {
        let y = top + HEIGHT - height(us) + 4.0;
        write!(out, "<text x={} y={y}>{label}</text>", LEFT - 45.0)?;
    }
    for column in 0..COLUMNS {
        let (us, x) = (slowest[column], LEFT + column as f64 * step);
        if us > 0 {
            let tall = height(us).max(1.0);
            let y = top + HEIGHT - tall;
            write!(
                out,
                "<rect x={x:.1} y={y:.1} width={:.1} height={tall:.1} fill='#5b9bd5'><title>{} ms</title></rect>",
                step * 0.9,
                us / 1_000
            )?;
        }
        if unknown[column] {
            let y = top + HEIGHT;
            write!(
                out,
                "<rect x={x:.1} y={y:.1} width={:.1} height=4 fill='#b3261e'/>",
                step * 0.9
            )?;
        }
    }
    return Ok(());

    fn height(us: u64) -> f64 {
        ((us as f64 / 1_000.0).max(1.0).log10() / 4.0 * HEIGHT).min(HEIGHT)
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{history, unknown, wrote};
    use crate::history::{Sighting, Span, Stream};
    use crate::run::judge;
    use crate::scenario::shipped;

    #[test]
    fn the_page_shows_what_happened_and_asks_nobody() {
        let mut history = history(vec![
            wrote(0, 1_000, "a", None, 1),
            wrote(2_000_000, 2_900_000, "b", None, 2),
            unknown(3_000_000, 4_000_000, "c", None),
        ]);
        history.faults.push(Span {
            what: "<kill>".to_owned(),
            target: "node-1".to_owned(),
            means: "signal".to_owned(),
            begun_us: 1_000_000,
            ended_us: 2_000_000,
        });
        for (at_us, node, leader) in [(1, 0, 1), (90_000, 0, 1), (2_500_000, 1, 2)] {
            let (life, term, leader) = (0, leader, Some(leader));
            let sighting = Sighting { at_us, node, life, term, leader, revision: 0, applied: 0 };
            history.sightings.push(sighting);
        }
        history.streams.push(Stream {
            prompt: 0,
            node: 2,
            begun_us: 0,
            ended_us: 4_000_000,
            text: String::new(),
            ends: 1,
            after_end: 0,
            moves: 1,
            restarts: 0,
            pause_us: 0,
            told: Vec::new(),
            error: None,
        });
        let scenario = shipped().expect("scenarios").swap_remove(0);
        let page = page(&judge(&scenario, 7, Vec::new(), history, Vec::new()));
        for part in [
            "&lt;kill&gt;",
            "says node 2",
            "streams, gateway 3",
            "node 2 leads term 2",
            "--seed 7",
            "<svg",
        ] {
            assert!(page.contains(part), "no {part} in {page}");
        }
        assert!(!page.contains("<kill>"));
        for foreign in ["http:", "https:", "<script", "src=", "href=", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }
}

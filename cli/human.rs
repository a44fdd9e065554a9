//! Sizes, ages and counts in words, spelled as Ollama spells them.

use jiff::Timestamp;

/// Bytes in decimal units: `98 MB`, `1.9 GB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000)];
    let Some((unit, size)) = UNITS.iter().find(|(_, size)| count >= *size) else {
        return format!("{count} B");
    };
    let value = count as f64 / *size as f64;
    if value >= 10.0 || value.fract() == 0.0 {
        format!("{} {unit}", value as u64)
    } else {
        format!("{value:.1} {unit}")
    }
}

/// A number of parameters: `133.70M`, `7B`.
pub fn count(number: f64) -> String {
    let (value, unit) = match number {
        n if n >= 1e9 => (n / 1e9, "B"),
        n if n >= 1e6 => (n / 1e6, "M"),
        n if n >= 1e3 => (n / 1e3, "K"),
        n => return format!("{n:.0}"),
    };
    if value.fract() == 0.0 { format!("{value:.0}{unit}") } else { format!("{value:.2}{unit}") }
}

/// A length of time in one unit: `About a minute`, `3 weeks`.
pub fn duration(seconds: u64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..=59, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..=59, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, 2..=47) => format!("{hours} hours"),
        (_, _, 48..=335) => format!("{} days", hours / 24),
        (_, _, 336..=1439) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..=17519) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// A moment relative to `now`: `3 weeks ago`, `4 minutes from now`, `Forever` when it lies more than 20 years ahead.
/// `None` when the text is no RFC 3339 time.
pub fn moment(text: &str, now: Timestamp) -> Option<String> {
    let at: Timestamp = text.parse().ok()?;
    let ahead_seconds = at.as_second() - now.as_second();
    let years_ahead = ahead_seconds / (365 * 24 * 3600);
    Some(match ahead_seconds {
        _ if years_ahead > 20 => "Forever".to_owned(),
        1.. => format!("{} from now", duration(ahead_seconds.unsigned_abs())),
        _ => format!("{} ago", duration(ahead_seconds.unsigned_abs())),
    })
}

/// Nanoseconds as Go prints durations: `1.5s`, `250ms`, `1m2.5s`.
pub fn nanoseconds(ns: u64) -> String {
    let trim = |value: f64, unit: &str| {
        let text = format!("{value:.6}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match ns {
        0 => "0s".to_owned(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => trim(ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => trim(ns as f64 / 1e6, "ms"),
        1_000_000_000..60_000_000_000 => trim(ns as f64 / 1e9, "s"),
        _ => {
            let minutes = ns / 60_000_000_000;
            let rest = trim((ns % 60_000_000_000) as f64 / 1e9, "s");
            match minutes {
                0..60 => format!("{minutes}m{rest}"),
                _ => format!("{}h{}m{rest}", minutes / 60, minutes % 60),
            }
        }
    }
}

/// Reads `300` (seconds), `-1`, or a Go duration such as `1h30m` or `1.5s`, as milliseconds.
pub fn parse_duration_ms(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 6] =
        [("ns", 1e-6), ("us", 1e-3), ("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3600e3)];
    if let Ok(seconds) = text.parse::<i64>() {
        return seconds.checked_mul(1000);
    }
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let mut total = 0.0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(unit_at);
        let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    let fits = text.bytes().any(|byte| byte.is_ascii_digit()) && total < 1e15;
    fits.then_some((sign * total) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1 KB"),
            (1_550, "1.6 KB"),
            (91_700_000, "91 MB"),
            (98_000_000, "98 MB"),
            (1_900_000_000, "1.9 GB"),
            (10_000_000_000, "10 GB"),
            (2_000_000_000_000, "2 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn durations_use_one_unit() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (299, "4 minutes"),
            (3_600, "About an hour"),
            (7_200, "2 hours"),
            (48 * 3_600, "2 days"),
            (21 * 86_400, "3 weeks"),
            (90 * 86_400, "3 months"),
            (900 * 86_400, "2 years"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, ms) in [
            ("300", Some(300_000)),
            ("-1", Some(-1_000)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1_500)),
            ("-1m", Some(-60_000)),
            ("250ms", Some(250)),
            ("", None),
            ("5x", None),
            ("m", None),
            ("5m3", None),
            ("-", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(parse_duration_ms(text), ms, "{text}");
        }
    }

    #[test]
    fn moments_look_back_and_ahead() {
        let now: Timestamp = "2026-01-10T12:00:00Z".parse().expect("a time");
        for (at, text) in [
            ("2026-01-10T11:00:00Z", "About an hour ago"),
            ("2026-01-10T12:04:30.5Z", "4 minutes from now"),
            ("2318-01-10T12:00:00Z", "Forever"),
            ("2026-01-10T12:00:00Z", "Less than a second ago"),
        ] {
            assert_eq!(moment(at, now).as_deref(), Some(text));
        }
        assert_eq!(moment("soon", now), None);
    }

    #[test]
    fn nanoseconds_read_as_go_prints_them() {
        for (ns, text) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (1_500_000_000, "1.5s"),
            (62_500_000_000, "1m2.5s"),
            (3_661_000_000_000, "1h1m1s"),
        ] {
            assert_eq!(nanoseconds(ns), text);
        }
    }
}

//! As much of DER as requests and certificates of a cluster need: elements with definite, shortest lengths, and times.
//!
//! Source: ITU-T X.690; for times RFC 5280, 4.1.2.5. What is not exactly of that form is nothing.

use ollamamax_proto::Millis;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const SEQUENCE: u8 = 0x30;
/// `[0]` with elements inside: the version of a certificate, the attributes of a request.
pub(crate) const CONTEXT_0: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// One element.
#[derive(Clone, Copy)]
pub(crate) struct Element<'a> {
    pub tag: u8,
    /// What is inside.
    pub value: &'a [u8],
    /// With tag and length.
    pub whole: &'a [u8],
}

/// Reads one element after another.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        // Tags above 30 take more bytes, and nothing here has one.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, header) = match (first, rest) {
            (0..=0x7f, _) => (usize::from(first), 2),
            (0x81, [length @ 0x80..=0xff, ..]) => (usize::from(*length), 3),
            (0x82, [high @ 1..=0xff, low, ..]) => (usize::from(*high) << 8 | usize::from(*low), 4),
            _ => return None,
        };
        let whole = self.0.get(..header + length)?;
        self.0 = &self.0[header + length..];
        Some(Element { tag, value: &whole[header..], whole })
    }

    /// The next element if it has that tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }
}

/// The one element that `bytes` are, if it has that tag.
pub(crate) fn only(bytes: &[u8], tag: u8) -> Option<Element<'_>> {
    let mut reader = Reader::new(bytes);
    reader.expect(tag).filter(|_| reader.is_empty())
}

/// A moment, by the second.
pub(crate) fn time(element: Element<'_>) -> Option<Millis> {
    let digits = element.value.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| part.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let (year, rest) = match (element.tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2]);
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
    let in_bounds = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_bounds || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Millis(seconds * 1_000))
}

/// Days from 1970-01-01 to a date that is not before it. Source: Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `days_from_civil`.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(tag: u8, text: &str) -> Option<u64> {
        let element = Element { tag, value: text.as_bytes(), whole: text.as_bytes() };
        time(element).map(|moment| moment.0 / 1_000)
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(at(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(at(UTC_TIME, "000229235959Z"), Some(951_868_799));
        assert_eq!(at(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(at(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        for wrong in ["", "Z", "700101000000", "7001010000000Z", "701301000000Z", "70010100000aZ"] {
            assert_eq!(at(UTC_TIME, wrong), None, "{wrong}");
        }
        assert_eq!(at(UTC_TIME, "600101000000Z"), None);
    }

    #[test]
    fn only_the_shortest_length_is_read() {
        assert!(only(&[0x30, 0x00], SEQUENCE).is_some());
        assert!(only(&[0x30, 0x81, 0x01, 0x00], SEQUENCE).is_none());
        assert!(only(&[0x30, 0x82, 0x00, 0x80], SEQUENCE).is_none());
        assert!(only(&[0x30, 0x80, 0x00, 0x00], SEQUENCE).is_none());
        assert!(only(&[0x30, 0x00, 0x00], SEQUENCE).is_none());
        assert!(only(&[0x30, 0x02, 0x00], SEQUENCE).is_none());
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while let Some(element) = reader.next() {
                let _ = time(element);
            }
        }
    }
}

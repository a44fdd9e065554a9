//! What goes wrong with a message: its fields, its bytes, its frame, its headers. All from a seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue};

/// Where chance comes from: the same seed, the same mutants.
pub struct Chance(StdRng);

impl Chance {
    pub fn new(seed: u64, index: u64) -> Self {
        Self(StdRng::seed_from_u64(seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound.max(1))
    }

    /// Once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.below(most)];
        self.0.fill(&mut bytes[..]);
        bytes
    }
}

/// Numbers that overflow something, somewhere.
const NUMBERS: &[u64] =
    &[0, 1, 127, 128, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 1 << 53, 1 << 63, u64::MAX];

pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// A field of a message: its key, and what follows the key without a length.
#[derive(Clone)]
struct Field {
    key: u64,
    value: Vec<u8>,
}

/// The fields of a message; `None` when these bytes are none.
fn fields(bytes: &[u8]) -> Option<Vec<Field>> {
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        let key = read_varint(bytes, &mut at)?;
        let start = at;
        let range = match key & 7 {
            0 => {
                read_varint(bytes, &mut at)?;
                start..at
            }
            1 => start..start + 8,
            2 => {
                let length = usize::try_from(read_varint(bytes, &mut at)?).ok()?;
                at..at.checked_add(length)?
            }
            5 => start..start + 4,
            _ => return None,
        };
        at = range.end;
        found.push(Field { key, value: bytes.get(range)?.to_vec() });
    }
    Some(found)
}

fn write(fields: &[Field], out: &mut Vec<u8>, chance: &mut Chance) {
    for field in fields {
        varint(field.key, out);
        if field.key & 7 == 2 {
            // Now and then the length is a lie.
            let length = match chance.once_in(60) {
                true => *chance.of(NUMBERS),
                false => field.value.len() as u64,
            };
            varint(length, out);
        }
        out.extend_from_slice(&field.value);
    }
}

/// One or a few of the fields of a message become what nobody meant, at any depth.
pub fn message(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    let Some(mut all) = fields(bytes).filter(|all| !all.is_empty()) else {
        let mut bytes = bytes.to_vec();
        splinter(&mut bytes, chance);
        return bytes;
    };
    for _ in 0..1 + chance.below(3) {
        if all.is_empty() {
            break;
        }
        let at = chance.below(all.len());
        match chance.below(9) {
            0 => drop(all.remove(at)),
            1 => all.push(all[at].clone()),
            2 => all[at].key = *chance.of(NUMBERS),
            3 => all[at].key = (all[at].key & !7) | chance.below(8) as u64,
            4 => {
                let times = 1 + chance.below(200);
                let copies = std::iter::repeat_n(all[at].clone(), times);
                all.splice(at..at, copies);
            }
            5 if all[at].key & 7 == 2 => {
                // As deep as it gets.
                for _ in 0..chance.below(300) {
                    let mut outer = Vec::new();
                    write(&[all[at].clone()], &mut outer, chance);
                    all[at].value = outer;
                    if all[at].value.len() > 1 << 16 {
                        break;
                    }
                }
            }
            6 | 7 if all[at].key & 7 == 2 => all[at].value = message(&all[at].value, chance),
            _ if all[at].key & 7 == 0 => {
                all[at].value.clear();
                varint(*chance.of(NUMBERS), &mut all[at].value);
            }
            _ => splinter(&mut all[at].value, chance),
        }
    }
    let mut out = Vec::new();
    write(&all, &mut out, chance);
    out
}

/// Bytes change, go, double or come.
pub fn splinter(bytes: &mut Vec<u8>, chance: &mut Chance) {
    for _ in 0..1 + chance.below(3) {
        let at = chance.below(bytes.len() + 1);
        let end = (at + chance.below(24)).min(bytes.len());
        match chance.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => drop(bytes.splice(at..at, chance.bytes(24))),
            5 => drop(bytes.splice(at..at, std::iter::repeat_n(0xff, chance.below(64)))),
            _ => drop(bytes.splice(at..end, b"\0../\xff\xfe\r\nsha256:".iter().copied())),
        }
    }
}

/// A message as gRPC frames it: a flag, a length, and the message; or not quite.
pub fn framed(message: &[u8], chance: &mut Chance) -> Vec<u8> {
    let frame = |flag: u8, length: u32| {
        let mut out = vec![flag];
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(message);
        out
    };
    let length = message.len() as u32;
    match chance.below(24) {
        0 => frame(1, length),
        1 => frame(chance.below(256) as u8, length),
        2 => frame(0, *chance.of(NUMBERS) as u32),
        3 => frame(0, length.wrapping_sub(1 + chance.below(8) as u32)),
        4 => frame(0, length.wrapping_add(1 + chance.below(8) as u32)),
        5 => frame(0, length)[..chance.below(5)].to_vec(),
        6 => frame(0, length).repeat(1 + chance.below(8)),
        7 => Vec::new(),
        8 => [frame(0, length), chance.bytes(64)].concat(),
        9 => chance.bytes(256),
        _ => frame(0, length),
    }
}

/// Where a call goes: mostly where it should.
pub fn path(good: &str, chance: &mut Chance) -> String {
    match chance.below(30) {
        0 => good.to_ascii_lowercase(),
        1 => format!("{good}/"),
        2 => format!("/{good}"),
        3 => good.replace('.', "/"),
        4 => format!("{}{}", good, "x".repeat(chance.below(8_000))),
        5 => "/".to_owned(),
        6 => format!("{good}?a=%00&b={}", "9".repeat(chance.below(200))),
        _ => good.to_owned(),
    }
}

/// The headers of a call: those of a client of ours, and now and then what none of them sends.
pub fn headers(chance: &mut Chance) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let types =
        ["application/grpc", "application/grpc+proto", "application/json", "text/plain", ""];
    let kind = if chance.once_in(12) { chance.of(&types) } else { &types[0] };
    headers.insert("content-type", HeaderValue::from_static(kind));
    headers.insert("te", HeaderValue::from_static("trailers"));
    let odd: &[(&'static str, &[&'static str])] = &[
        ("grpc-timeout", &["0n", "99999999H", "-1S", "1", "H", "1H1", "999999999999999999999S"]),
        ("grpc-encoding", &["gzip", "zstd", "identity", "nonsense"]),
        ("grpc-accept-encoding", &["gzip", "identity,deflate,gzip", ",,,"]),
        ("content-length", &["0", "1", "18446744073709551615", "-1"]),
        ("content-encoding", &["gzip"]),
        ("authorization", &["Bearer omk_0000000000000001_"]),
        ("ollamamax-member", &["removed"]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("traceparent", &["00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-ff"]),
        ("key-bin", &["!!!", "AAAA", "="]),
    ];
    if chance.once_in(3) {
        for _ in 0..1 + chance.below(3) {
            let (name, values) = *chance.of(odd);
            let value: &'static str = chance.of::<&'static str>(values);
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
    }
    if chance.once_in(25) {
        for number in 0..1 + chance.below(120) {
            let name = HeaderName::try_from(format!("x-{number}")).expect("a name");
            let value = "v".repeat(chance.below(4_000));
            headers.append(name, HeaderValue::try_from(value).expect("a value"));
        }
    }
    if chance.once_in(25) {
        let mut bytes = chance.bytes(200);
        bytes.retain(|byte| *byte >= 32 && *byte != 127);
        headers.append("odd-bin", HeaderValue::from_bytes(&bytes).expect("a value"));
    }
    headers
}

/// HTTP/2 as a client of ours began it, with frames that change, go, double or come.
pub fn http2(recorded: &[u8], chance: &mut Chance) -> Vec<u8> {
    const PREFACE: usize = 24;
    let (preface, mut rest) = recorded.split_at(PREFACE.min(recorded.len()));
    let mut frames = Vec::new();
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let end = (9 + length).min(rest.len());
        frames.push(rest[..end].to_vec());
        rest = &rest[end..];
    }
    for _ in 0..1 + chance.below(6) {
        let at = chance.below(frames.len() + 1);
        match chance.below(5) {
            0 | 1 => {
                // A frame of any kind: type, flags, stream, and a length that may be a lie.
                let body = chance.bytes(64);
                let length = if chance.once_in(6) { chance.below(1 << 24) } else { body.len() };
                let mut frame = (length as u32).to_be_bytes()[1..].to_vec();
                frame.extend([chance.below(12) as u8, chance.below(256) as u8]);
                frame.extend((chance.below(8) as u32).to_be_bytes());
                frame.extend(body);
                let times = if chance.once_in(4) { 1 + chance.below(300) } else { 1 };
                frames.splice(at..at, std::iter::repeat_n(frame, times));
            }
            2 if at < frames.len() => drop(frames.remove(at)),
            3 if at < frames.len() => {
                let times = 1 + chance.below(100);
                let copies = std::iter::repeat_n(frames[at].clone(), times);
                frames.splice(at..at, copies);
            }
            _ if at < frames.len() => splinter(&mut frames[at], chance),
            _ => {}
        }
    }
    let mut preface = preface.to_vec();
    if chance.once_in(12) {
        splinter(&mut preface, chance);
    }
    [preface, frames.concat()].concat()
}

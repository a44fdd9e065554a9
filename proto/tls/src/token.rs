//! What a new member is given to join with: where the cluster is, how to recognise it, and a secret that it accepts once.
//!
//! ```text
//! omj_ base64url( version 1 | length u16 | kind u8 | id 8 | secret 32 | authority 32 | n u8 | n x (length u8, address)
//!                 | check 4 )
//! ```
//!
//! `length` counts all bytes, so that a paste that was cut off is told from one that was changed; `check` is the
//! beginning of the SHA-256 of all before it. The cluster keeps only a hash of id and secret.

use crate::identity::IdentityError;
use crate::key;
use crate::role::Kind;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ollamamax_proto::{Digest, limits};
use std::fmt;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const PREFIX: &str = "omj_";
const VERSION: u8 = 1;
/// Version and length: the first four characters tell how many there must be.
const HEAD_BYTES: usize = 3;
const SECRET_BYTES: usize = 32;
const CHECK_BYTES: usize = 4;
/// Longest `host:port`.
const ADDRESS_BYTES: usize = 255;

/// Why a text is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It begins otherwise.
    #[error("this is no join token: one begins with `{PREFIX}`")]
    NoToken,
    /// Its end is missing.
    #[error("the join token was cut off: {got} of {expected} characters are there; copy all of it")]
    Truncated {
        /// Characters there.
        got: usize,
        /// Characters of the whole; of a shorter one than this, when even that was cut off.
        expected: usize,
    },
    /// It is of a later version of this program.
    #[error("the join token is of version {got}, this program knows version {VERSION}")]
    Version {
        /// What it says.
        got: u8,
    },
    /// More characters than a token has.
    #[error("the join token has {got} characters, at most {max} are read")]
    TooLong {
        /// Characters there.
        got: usize,
        /// Most accepted.
        max: usize,
    },
    /// Characters were changed or added.
    #[error("the join token was changed on its way: its checksum is wrong; copy it again")]
    Damaged,
}

/// What proves to the cluster that somebody was given a token: an id, by which the cluster finds it, and a secret.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Credential {
    id: [u8; 8],
    secret: [u8; SECRET_BYTES],
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Credential {
    /// A new one. Fails only when the system gives no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        Ok(Self { id: key::random()?, secret: key::random()? })
    }

    /// Reads what [`Credential::reveal`] gave; `None` when it is something else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (id, secret) = bytes.split_at_checked(8)?;
        Some(Self { id: id.try_into().ok()?, secret: secret.try_into().ok()? })
    }

    /// Id and secret, as they are sent to a node over a connection of [`crate::dial_pinned`].
    pub fn reveal(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(8 + SECRET_BYTES));
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.secret);
        bytes
    }

    /// 16 hex digits; no secret.
    pub fn id(&self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.id))
    }

    /// What the cluster keeps. The secret has 256 random bits, so nobody finds it from this.
    pub fn hash(&self) -> Digest {
        let mut bytes = Zeroizing::new(Vec::with_capacity(64));
        bytes.extend_from_slice(b"ollamamax join token\0");
        bytes.extend_from_slice(&self.reveal());
        Digest::of(&bytes)
    }

    /// Whether the cluster kept `hash` of this one. Takes the same time whatever differs.
    pub fn matches(&self, hash: &Digest) -> bool {
        self.hash().0.ct_eq(&hash.0).into()
    }
}

/// What a new member is given to join with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// What it will be.
    pub kind: Kind,
    /// Proves that it was given the token.
    pub credential: Credential,
    /// Fingerprint of the cluster's authority ([`crate::Authority::fingerprint`]).
    pub authority: Digest,
    /// `host:port` of the gRPC services of some nodes: at most [`limits::NODES_COUNT`], each at most 255 bytes; those
    /// beyond are not written.
    pub addresses: Vec<String>,
}

impl JoinToken {
    /// The text that is handed over. Whoever reads it can join until it was used or has expired.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(limits::JOIN_TOKEN_CHARS));
        bytes.extend_from_slice(&[VERSION, 0, 0]);
        bytes.push(match self.kind {
            Kind::Node => 0,
            Kind::Worker => 1,
        });
        bytes.extend_from_slice(&self.credential.reveal());
        bytes.extend_from_slice(&self.authority.0);
        let fitting = self.addresses.iter().filter(|address| address.len() <= ADDRESS_BYTES);
        let addresses: Vec<&String> = fitting.take(limits::NODES_COUNT).collect();
        bytes.push(addresses.len() as u8);
        for address in addresses {
            bytes.push(address.len() as u8);
            bytes.extend_from_slice(address.as_bytes());
        }
        let length = (bytes.len() + CHECK_BYTES) as u16;
        bytes[1..HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        let check = check(&bytes);
        bytes.extend_from_slice(&check);
        let body = Zeroizing::new(URL_SAFE_NO_PAD.encode(&bytes));
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + body.len()));
        text.push_str(PREFIX);
        text.push_str(&body);
        text
    }

    /// Reads what [`JoinToken::reveal`] gave, white space around it aside.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        let max = limits::JOIN_TOKEN_CHARS;
        if text.len() > max {
            return Err(InvalidToken::TooLong { got: text.len(), max });
        }
        let body = text.strip_prefix(PREFIX).ok_or(InvalidToken::NoToken)?;
        let got = text.chars().count();
        // The first bytes say how many characters there must be.
        let Some(head) = body.as_bytes().get(..encoded(HEAD_BYTES)) else {
            return Err(InvalidToken::Truncated {
                got,
                expected: PREFIX.len() + encoded(LEAST_BYTES),
            });
        };
        let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| InvalidToken::Damaged)?;
        let [version, high, low] = head[..] else { return Err(InvalidToken::Damaged) };
        if version != VERSION {
            return Err(InvalidToken::Version { got: version });
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let expected = PREFIX.len() + encoded(length);
        if length < LEAST_BYTES || expected > max {
            return Err(InvalidToken::Damaged);
        }
        if got < expected {
            return Err(InvalidToken::Truncated { got, expected });
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| InvalidToken::Damaged)?;
        let bytes = Zeroizing::new(bytes);
        let (said, found) =
            bytes.split_at_checked(length - CHECK_BYTES).ok_or(InvalidToken::Damaged)?;
        if check(said) != found {
            return Err(InvalidToken::Damaged);
        }
        Self::read(&said[HEAD_BYTES..]).ok_or(InvalidToken::Damaged)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, bytes) = bytes.split_first()?;
        let kind = match kind {
            0 => Kind::Node,
            1 => Kind::Worker,
            _ => return None,
        };
        let (credential, bytes) = bytes.split_at_checked(8 + SECRET_BYTES)?;
        let (authority, bytes) = bytes.split_at_checked(32)?;
        let (&count, mut bytes) = bytes.split_first()?;
        if usize::from(count) > limits::NODES_COUNT {
            return None;
        }
        let mut addresses = Vec::with_capacity(count.into());
        for _ in 0..count {
            let (&length, rest) = bytes.split_first()?;
            let (address, rest) = rest.split_at_checked(length.into())?;
            addresses.push(std::str::from_utf8(address).ok()?.to_owned());
            bytes = rest;
        }
        let credential = Credential::from_bytes(credential)?;
        let authority = Digest(authority.try_into().ok()?);
        bytes.is_empty().then_some(Self { kind, credential, authority, addresses })
    }
}

/// A token without addresses.
const LEAST_BYTES: usize = HEAD_BYTES + 1 + 8 + SECRET_BYTES + 32 + 1 + CHECK_BYTES;

/// Characters of so many bytes, without padding.
fn encoded(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let [a, b, c, d, ..] = Digest::of(bytes).0;
    [a, b, c, d]
}

//! What tells gateways and workers of each other's caches: how a conversation begins.

use super::{InvalidMessage, out_of_range};
use crate::inference::Prefix;
use crate::prefix::Salt;
use crate::{limits, wire};
use bytes::Bytes;

/// An empty beginning is not sent.
pub(super) fn prefix_to_wire(prefix: &Prefix) -> Option<wire::Prefix> {
    let wire = || wire::Prefix { hashes: prefix.hashes.clone(), bytes: prefix.bytes };
    (!prefix.hashes.is_empty()).then(wire)
}

/// Bounded, and no more hashes than bytes can have.
pub(super) fn prefix_from_wire(wire: Option<wire::Prefix>) -> Result<Prefix, InvalidMessage> {
    let Some(wire::Prefix { hashes, bytes }) = wire else { return Ok(Prefix::default()) };
    let full = bytes / limits::PREFIX_BLOCK_BYTES as u64;
    let most = full.min(limits::PREFIX_BLOCKS_COUNT as u64);
    if hashes.len() as u64 > most {
        let expected = format!("at most {most} for {bytes} bytes");
        return Err(out_of_range("prefix.hashes", hashes.len(), expected));
    }
    Ok(Prefix { hashes, bytes })
}

/// That of all who are not told apart is not sent.
pub(super) fn salt_to_wire(salt: Salt) -> Bytes {
    match salt {
        Salt::SHARED => Bytes::new(),
        Salt(salt) => Bytes::copy_from_slice(&salt.to_be_bytes()),
    }
}

pub(super) fn salt_from_wire(wire: &[u8]) -> Result<Salt, InvalidMessage> {
    if wire.is_empty() {
        return Ok(Salt::SHARED);
    }
    let salt = <[u8; 16]>::try_from(wire);
    let salt =
        salt.map_err(|_| out_of_range("salt", format!("{} bytes", wire.len()), "16 or none"));
    Ok(Salt(u128::from_be_bytes(salt?)))
}

//! Identities that are drawn at random and shown in hex, and values that are not shown at all.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $number:ty, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $number);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $digits, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                let digits: usize = $digits;
                let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                if text.len() != digits || !text.bytes().all(hex) {
                    return Err(());
                }
                <$number>::from_str_radix(text, 16).map(Self).map_err(drop)
            }
        }
    };
}

hex_id!(
    /// An API key: its part that everyone may see.
    KeyId, u64, 16
);
hex_id!(
    /// A key that signs access tokens: the `kid` in their header.
    SigningKeyId, u64, 16
);
hex_id!(
    /// A join token: its part that everyone may see.
    JoinTokenId, u64, 16
);
hex_id!(
    /// A login, from the first refresh token to the last.
    SessionId, u128, 32
);
hex_id!(
    /// One access token: its `jti`.
    TokenId, u128, 32
);

/// A value that no log and no error shows: a hash of a secret, or a sealed key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden<T>(pub T);

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        assert_eq!(KeyId(255).to_string(), "00000000000000ff");
        assert_eq!("00000000000000ff".parse(), Ok(KeyId(255)));
        for text in ["", "ff", "00000000000000FF", "+0000000000000ff", "00000000000000fff"] {
            assert!(text.parse::<KeyId>().is_err(), "{text}");
        }
        assert_eq!(format!("{:?}", Hidden("secret")), "(hidden)");
    }
}

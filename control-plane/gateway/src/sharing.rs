//! Whose requests share what workers have cached of prompts.
//!
//! What is cached makes the first token come sooner. Whoever shares it can tell, by asking and measuring, how prompts of the others
//! begin; so users share with themselves alone unless an operator says that all trust each other.

use crate::quotas::Payer;
use ollamamax_proto::inference::Salt;
use std::str::FromStr;

/// Who shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Each user for itself, with all keys and logins of it; all who bring no credential together.
    #[default]
    User,
    /// Everybody.
    Cluster,
}

/// Text that is no way to share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` says not who shares cached prompts; expected `user` or `cluster`")]
pub struct UnknownSharing(String);

impl FromStr for Sharing {
    type Err = UnknownSharing;

    fn from_str(text: &str) -> Result<Self, UnknownSharing> {
        match text {
            "user" => Ok(Self::User),
            "cluster" => Ok(Self::Cluster),
            other => Err(UnknownSharing(other.chars().take(50).collect())),
        }
    }
}

impl Sharing {
    /// What tells those apart that do not share.
    pub(crate) fn salt(self, payer: &Payer) -> Salt {
        match (self, &payer.user) {
            (Self::User, Some(user)) => Salt::of(user),
            _ => Salt::SHARED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_core::access::KeyId;

    fn payer(user: Option<&str>, key: Option<u64>) -> Payer {
        Payer { user: user.map(str::to_owned), key: key.map(KeyId) }
    }

    #[test]
    fn users_share_with_themselves_and_who_has_no_name_with_each_other() {
        let salt = |user, key| Sharing::default().salt(&payer(user, key));
        assert_eq!(salt(Some("alice"), Some(1)), salt(Some("alice"), Some(2)), "two keys of hers");
        assert_eq!(salt(Some("alice"), Some(1)), salt(Some("alice"), None), "her login");
        assert_ne!(salt(Some("alice"), None), salt(Some("bob"), None));
        assert_ne!(salt(Some("alice"), None), salt(None, None));
        assert_eq!(salt(None, None), Salt::SHARED);
        let all = |user| Sharing::Cluster.salt(&payer(user, None));
        assert_eq!((all(Some("alice")), all(None)), (Salt::SHARED, Salt::SHARED));
        assert_eq!("cluster".parse(), Ok(Sharing::Cluster));
        assert!("nobody".parse::<Sharing>().is_err());
    }
}

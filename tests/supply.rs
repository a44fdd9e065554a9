//! What we build on: where it comes from, under which licence, and no version that is known to be broken.
//!
//! `cargo deny check` (`deny.toml`) asks the advisory database, too; it needs a network that a build does not have. What that
//! database lacks, or what must never come back, stands here.

use std::collections::BTreeMap;
use std::process::Command;

/// Licences of what we build on.
const LICENCES: &[&str] = &[
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "MPL-2.0",
    "MPL-2.0+",
    "Unicode-3.0",
    "CC0-1.0",
    // Of the list of certificate authorities.
    "CDLA-Permissive-2.0",
];

/// First versions without a known hole, and which one that was.
const FIXED: &[(&str, &str, &str)] = &[
    ("jsonwebtoken", "10.3.0", "CVE-2026-25537: `nbf` and `exp` as text were not checked"),
    ("h2", "0.4.16", "RUSTSEC-2026-0258"),
    ("tonic", "0.12.3", "CVE-2024-47609"),
    ("rustls", "0.23.18", "CVE-2024-11738"),
    ("rustls-webpki", "0.103.13", "RUSTSEC-2026-0104"),
    ("tokio", "1.44.2", "RUSTSEC-2025-0023"),
];

/// What must not come in at all, and why.
const BANNED: &[(&str, &str)] = &[
    ("rsa", "RUSTSEC-2023-0071: its timing tells the key; RSA is done by aws-lc-rs"),
    ("openssl", "one implementation of TLS is enough: rustls"),
    ("native-tls", "one implementation of TLS is enough: rustls"),
    ("bincode", "unmaintained"),
    ("protobuf", "RUSTSEC-2024-0437; prost is used"),
    ("serde_yaml", "unmaintained"),
    ("tar", "archives of strangers are not unpacked"),
];

struct Package {
    name: String,
    version: String,
    licence: String,
    source: Option<String>,
}

/// What we are built for, as in `deny.toml`: what only other systems need is never built.
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(TARGETS.iter().flat_map(|target| ["--filter-platform", target]))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages
        .map(|package| Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: text(&package["license"]),
            source: package["source"].as_str().map(str::to_owned),
        })
        .collect()
}

/// Whether an SPDX expression can be met with [`LICENCES`]. `AND` binds stronger than `OR`.
fn acceptable(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&words, &mut at);
    met && at == words.len()
}

fn any(words: &[&str], at: &mut usize) -> bool {
    let mut met = all(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(words, at);
    }
    met
}

fn all(words: &[&str], at: &mut usize) -> bool {
    let mut met = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at);
    }
    met
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any(words, at);
        *at += 1;
        return met;
    }
    if words.get(*at) == Some(&"WITH") {
        let with = format!("{word} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
        return LICENCES.contains(&with.as_str());
    }
    LICENCES.contains(word)
}

#[test]
fn licences_are_those_we_accept() {
    for package in packages().iter().filter(|package| package.source.is_some()) {
        let Package { name, version, licence, .. } = package;
        assert!(acceptable(licence), "{name} {version} has the licence `{licence}`");
    }
    assert!(!acceptable("GPL-3.0") && !acceptable("MIT AND GPL-3.0") && !acceptable(""));
    assert!(acceptable("(GPL-3.0 OR MIT) AND ISC") && acceptable("MIT/GPL-3.0"));
}

#[test]
fn everything_comes_from_the_package_registry() {
    for package in packages() {
        if let Some(source) = &package.source {
            assert!(source.starts_with("registry+"), "{} comes from {source}", package.name);
        }
    }
}

#[test]
fn no_version_with_a_known_hole_is_used() {
    let number = |version: &str| -> Vec<u64> {
        version.split(['.', '-', '+']).take(3).map(|part| part.parse().unwrap_or(0)).collect()
    };
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        found.entry(package.name).or_default().push(package.version);
    }
    for (name, first, why) in FIXED {
        let versions = found.get(*name).expect(name);
        for version in versions {
            assert!(number(version) >= number(first), "{name} {version}: {why}");
        }
    }
    for (name, why) in BANNED {
        assert!(!found.contains_key(*name), "{name}: {why}");
    }
}

//! The house rules, held by an ordinary test: who may import whom, headers, lengths, links, limits.
//!
//! A rule that no machine checks is a wish. Each test here names one rule of `ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines a source file may have before it needs a line in `LONG`.
const LINES_MAX: usize = 400;

/// Files that are longer for a reason, with the length they must not outgrow.
const LONG: &[(&str, usize)] =
    &[("storage/src/log.rs", 470), ("storage/src/sled.rs", 430), ("proto/src/limits.rs", 860)];

/// Which of our crates each of our crates may import, dev-dependencies apart.
const IMPORTS: &[(&str, &[&str])] = &[
    ("ollamamax-proto", &[]),
    ("ollamamax-gguf", &["ollamamax-proto"]),
    ("ollamamax-template", &["ollamamax-proto"]),
    ("ollamamax-tls", &["ollamamax-proto"]),
    ("ollamamax-core", &["ollamamax-proto"]),
    ("ollamamax-storage", &["ollamamax-proto"]),
    ("ollamamax-sources", &["ollamamax-proto"]),
    ("ollamamax-import", &["ollamamax-gguf", "ollamamax-proto"]),
    (
        "ollamamax-gateway",
        &[
            "ollamamax-core",
            "ollamamax-gguf",
            "ollamamax-import",
            "ollamamax-proto",
            "ollamamax-sources",
            "ollamamax-template",
            "ollamamax-tls",
        ],
    ),
    (
        "ollamamax-control-plane",
        &[
            "ollamamax-core",
            "ollamamax-gateway",
            "ollamamax-proto",
            "ollamamax-sources",
            "ollamamax-storage",
            "ollamamax-tls",
        ],
    ),
    ("ollamamax-engine", &["ollamamax-gguf", "ollamamax-proto", "ollamamax-template"]),
    (
        "ollamamax-worker",
        &["ollamamax-engine", "ollamamax-gguf", "ollamamax-proto", "ollamamax-tls"],
    ),
    (
        "ollamamax",
        &[
            "ollamamax-control-plane",
            "ollamamax-proto",
            "ollamamax-sources",
            "ollamamax-tls",
            "ollamamax-worker",
        ],
    ),
];

/// Packages that only the named crates may import.
const FENCED: &[(&str, &[&str])] = &[
    ("sled", &["ollamamax-storage"]),
    ("openraft", &["ollamamax-storage", "ollamamax-control-plane"]),
    // The tests' own is a registry to pull from.
    ("axum", &["ollamamax-gateway", "ollamamax-control-plane", "ollamamax-tests"]),
    ("utoipa", &["ollamamax-gateway"]),
    ("tokenizers", &["ollamamax-engine"]),
    ("minijinja", &["ollamamax-template"]),
    ("llguidance", &["ollamamax-engine"]),
    ("rustyline", &["ollamamax"]),
    ("ratatui", &["ollamamax"]),
    ("rustls-webpki", &["ollamamax-tls"]),
    ("rcgen", &["ollamamax-tls"]),
    ("x509-cert", &["ollamamax-tls"]),
    ("landlock", &["ollamamax-worker"]),
    ("seccompiler", &["ollamamax-worker"]),
    ("opentelemetry-proto", &["ollamamax-control-plane"]),
    // The control plane's own is the HTTPS that clients speak.
    ("rustls", &["ollamamax-tls", "ollamamax-control-plane"]),
    ("tokio-rustls", &["ollamamax-tls", "ollamamax-control-plane"]),
];

/// Crates that must stay free of runtimes, sockets and clocks.
const PURE: &[&str] = &[
    "ollamamax-core",
    "ollamamax-engine",
    "ollamamax-gguf",
    "ollamamax-import",
    "ollamamax-template",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Package name to the names of its normal dependencies.
fn crate_graph() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let normal = dependencies.iter().filter(|d| d["kind"].is_null());
            (text(&package["name"]), normal.map(|d| text(&d["name"])).collect())
        })
        .collect()
}

fn tracked_files(suffix: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, suffix: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a readable directory") {
            let path = entry.expect("a directory entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" && name != "node_modules" {
                    walk(&path, suffix, found);
                }
            } else if name.ends_with(suffix) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), suffix, &mut found);
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("inside the repository").display().to_string()
}

#[test]
fn crates_import_only_what_the_map_allows() {
    let graph = crate_graph();
    for (name, allowed) in IMPORTS {
        let dependencies = graph.get(*name).expect("a crate of the map");
        let ours: Vec<&String> =
            dependencies.iter().filter(|d| d.starts_with("ollamamax")).collect();
        for dependency in ours {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} imports {dependency}; ARCHITECTURE.md allows it only {allowed:?}"
            );
        }
    }
}

#[test]
fn nobody_imports_tests_chaos_or_bench() {
    for (name, dependencies) in crate_graph() {
        for outer in ["ollamamax-chaos", "ollamamax-sim", "ollamamax-bench"] {
            assert!(!dependencies.contains(outer), "{name} imports {outer}");
        }
        if !matches!(name.as_str(), "ollamamax-chaos" | "ollamamax-bench") {
            assert!(!dependencies.contains("ollamamax-tests"), "{name} imports ollamamax-tests");
        }
    }
}

#[test]
fn fenced_packages_stay_behind_their_fence() {
    for (name, dependencies) in crate_graph() {
        for (package, allowed) in FENCED {
            assert!(
                !dependencies.contains(*package) || allowed.contains(&name.as_str()),
                "{name} imports {package}; only {allowed:?} may"
            );
        }
    }
}

#[test]
fn pure_crates_import_no_runtime() {
    let graph = crate_graph();
    for name in PURE {
        for package in ["tokio", "tonic", "axum", "hyper", "reqwest", "sled", "openraft"] {
            assert!(!graph[*name].contains(package), "{name} is pure but imports {package}");
        }
    }
}

#[test]
fn every_package_inherits_the_lints() {
    for path in tracked_files("Cargo.toml") {
        let text = fs::read_to_string(&path).expect("a manifest");
        // The fuzz targets are a workspace of their own.
        if text.contains("[package]") && !relative(&path).starts_with("tests/fuzz/") {
            let inherits = text.contains("[lints]\nworkspace = true");
            assert!(inherits, "{} does not inherit the workspace lints", relative(&path));
        }
    }
}

#[test]
fn every_crate_but_the_engine_forbids_unsafe_code() {
    for path in tracked_files(".rs") {
        let name = relative(&path);
        let is_crate_root = ["src/lib.rs", "src/main.rs"].iter().any(|end| name.ends_with(end))
            || name == "cli/main.rs";
        if is_crate_root && !name.starts_with("worker/engine") {
            let text = fs::read_to_string(&path).expect("a source file");
            assert!(text.contains("#![forbid(unsafe_code)]"), "{name} allows unsafe code");
        }
    }
}

#[test]
fn every_module_opens_with_its_idea() {
    for path in tracked_files(".rs") {
        let text = fs::read_to_string(&path).expect("a source file");
        let opens = text.lines().next().is_some_and(|line| line.starts_with("//! "));
        assert!(opens, "{} has no `//!` header", relative(&path));
    }
}

#[test]
fn source_files_stay_readable() {
    for path in tracked_files(".rs") {
        let name = relative(&path);
        let lines = fs::read_to_string(&path).expect("a source file").lines().count();
        let exception = LONG.iter().find(|(file, _)| *file == name).map(|(_, max)| *max);
        let max = exception.unwrap_or(LINES_MAX);
        assert!(lines <= max, "{name} has {lines} lines, at most {max}: split it");
    }
}

#[test]
fn long_file_exceptions_are_needed() {
    for (name, max) in LONG {
        let text = fs::read_to_string(root().join(name)).unwrap_or_default();
        let lines = text.lines().count();
        assert!(lines > LINES_MAX, "{name} has {lines} lines: take it off the list");
        assert!(lines + 40 > *max, "{name} shrank to {lines} lines: lower its limit from {max}");
    }
}

#[test]
fn no_unfinished_marks_and_no_ignored_tests() {
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["#[ig", "nore"].concat()];
    for path in tracked_files(".rs") {
        let text = fs::read_to_string(&path).expect("a source file");
        for mark in &marks {
            assert!(!text.contains(mark), "{} contains {mark}", relative(&path));
        }
    }
}

#[test]
fn links_in_the_documentation_resolve() {
    for path in tracked_files(".md") {
        let text = fs::read_to_string(&path).expect("a document");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|t| !t.contains("://") && !t.starts_with('#')) {
            let file = target.split('#').next().unwrap_or_default();
            let there = path.parent().expect("a directory").join(file).exists();
            assert!(there, "{} links to {target}, which is not there", relative(&path));
        }
    }
}

#[test]
fn every_limit_is_used() {
    let limits = fs::read_to_string(root().join("proto/src/limits.rs")).expect("the limits");
    let sources: String = tracked_files(".rs")
        .iter()
        .filter(|path| !path.ends_with("proto/src/limits.rs"))
        .map(|path| fs::read_to_string(path).expect("a source file"))
        .collect();
    let names = limits.lines().filter_map(|line| line.strip_prefix("pub const "));
    for name in names.filter_map(|rest| rest.split(':').next()) {
        assert!(sources.contains(name), "limit {name} is used nowhere");
    }
}

#[test]
fn guards_named_in_the_architecture_exist() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the map");
    let sources: String = tracked_files(".rs")
        .iter()
        .map(|path| fs::read_to_string(path).expect("a source file"))
        .collect();
    let guards = map.split("guard: `").skip(1).filter_map(|rest| rest.split('`').next());
    let mut count = 0;
    for guard in guards {
        let function = guard.rsplit("::").next().unwrap_or(guard);
        assert!(sources.contains(&format!("fn {function}(")), "no test is called {function}");
        count += 1;
    }
    assert!(count >= 10, "only {count} invariants name the test that guards them");
}

#[test]
fn every_attack_names_tests_that_exist() {
    let table = fs::read_to_string(root().join("docs/security-tests.md")).expect("readable");
    let mut code = String::new();
    for path in tracked_files(".rs") {
        code += &fs::read_to_string(path).expect("readable");
    }
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| S-")).collect();
    assert_eq!(rows.len(), 40, "the attacks are counted");
    let names = rows.iter().flat_map(|row| row.split('`').skip(1).step_by(2));
    for name in names.filter(|name| name.matches('_').count() >= 2) {
        assert!(code.contains(&format!("fn {name}(")), "no test `{name}`");
    }
}

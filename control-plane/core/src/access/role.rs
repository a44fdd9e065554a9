//! The roles that are always there. They cannot be changed; roles of one's own inherit from them.

use super::grant::Grant;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// May do everything.
pub const ROLE_ADMIN: &str = "admin";

/// Name, what it is for, and what it grants.
pub const BUILT_IN: [(&str, &str, &[&str]); 7] = [
    (ROLE_ADMIN, "everything", &["*"]),
    (
        "operator",
        "sees how the cluster does, and uses it",
        &["model:read", "cluster:read", "node:read", "inference:run", "metrics:read"],
    ),
    (
        "developer",
        "brings models and uses them: all that Ollama's clients do",
        &[
            "model:read",
            "model:manage",
            "cluster:read",
            "node:read",
            "inference:run",
            "metrics:read",
        ],
    ),
    ("user", "uses the models there are", &["model:read", "inference:run"]),
    (
        "readonly",
        "sees and changes nothing",
        &["model:read", "cluster:read", "node:read", "metrics:read"],
    ),
    (
        "auditor",
        "reads the trail and who has which rights",
        &["audit:read", "access:read", "cluster:read"],
    ),
    ("worker", "runs models; proven by a certificate, not over HTTP", &[]),
];

static GRANTS: LazyLock<BTreeMap<&'static str, Vec<Grant>>> = LazyLock::new(|| {
    let parse = |text: &&str| text.parse().expect("the grants above are grants");
    BUILT_IN.iter().map(|(name, _, grants)| (*name, grants.iter().map(parse).collect())).collect()
});

/// What a built-in role grants.
pub fn built_in(role: &str) -> Option<&'static [Grant]> {
    GRANTS.get(role).map(Vec::as_slice)
}

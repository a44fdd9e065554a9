//! What can be done, and to what.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What can be done. The names are the ones in roles, grants and the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// See models and what they are.
    ReadModels,
    /// Create, copy, delete, deploy and roll out models.
    ManageModels,
    /// Have a model answer.
    RunInference,
    /// See nodes, placements and plans.
    ReadCluster,
    /// Admit and remove nodes, rebalance, create join tokens.
    ManageCluster,
    /// See workers.
    ReadNodes,
    /// Drain, resume, label and remove workers.
    ManageNodes,
    /// Read metrics.
    ReadMetrics,
    /// Change settings and checkpoints.
    ManageSystem,
    /// See users, keys, roles and sessions.
    ReadAccess,
    /// Change them, and rotate what signs for them.
    ManageAccess,
    /// Read the audit trail.
    ReadAudit,
}

impl Action {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::ReadModels,
        Self::ManageModels,
        Self::RunInference,
        Self::ReadCluster,
        Self::ManageCluster,
        Self::ReadNodes,
        Self::ManageNodes,
        Self::ReadMetrics,
        Self::ManageSystem,
        Self::ReadAccess,
        Self::ManageAccess,
        Self::ReadAudit,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadModels => "model:read",
            Self::ManageModels => "model:manage",
            Self::RunInference => "inference:run",
            Self::ReadCluster => "cluster:read",
            Self::ManageCluster => "cluster:manage",
            Self::ReadNodes => "node:read",
            Self::ManageNodes => "node:manage",
            Self::ReadMetrics => "metrics:read",
            Self::ManageSystem => "system:manage",
            Self::ReadAccess => "access:read",
            Self::ManageAccess => "access:manage",
            Self::ReadAudit => "audit:read",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Action {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|action| action.name() == text).ok_or(())
    }
}

/// What it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object<'a> {
    /// Nothing in particular yet: allowed when the action is allowed on anything at all. Whatever is then shown or changed is
    /// asked about by itself.
    Some,
    /// Everything there is of that kind.
    All,
    /// A model, by its full name.
    Model(&'a str),
    /// A worker, by its labels.
    Worker(&'a BTreeMap<String, String>),
    /// A named thing: a checkpoint, a role, an area of the administration.
    Named(&'a str),
}

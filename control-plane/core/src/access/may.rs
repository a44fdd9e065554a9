//! Whether somebody may do something.

use super::action::{Action, Object};
use super::grant::Grant;
use super::role::built_in;
use super::tables::Access;
use ollamamax_proto::limits;
use std::collections::BTreeSet;

/// Somebody whose identity has been proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The roles.
    pub roles: BTreeSet<String>,
    /// What a key or token may be used for, beside what its owner may do; `None`: all of that.
    pub scope: Option<BTreeSet<Grant>>,
}

/// What somebody may do, with all roles looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    granted: Vec<Grant>,
    scope: Option<Vec<Grant>>,
}

impl Permissions {
    /// Whether `action` on `object` is allowed: by a role, by the scope if there is one, and denied by neither.
    pub fn allow(&self, action: Action, object: Object<'_>) -> bool {
        allows(&self.granted, action, object)
            && self.scope.as_ref().is_none_or(|scope| allows(scope, action, object))
    }
}

fn allows(grants: &[Grant], action: Action, object: Object<'_>) -> bool {
    let mut allowed = false;
    for grant in grants.iter().filter(|grant| grant.fits(action, object)) {
        if grant.denies() {
            return false;
        }
        allowed = true;
    }
    allowed
}

impl Access {
    /// What `subject` may do as the tables are now.
    pub fn permissions(&self, subject: &Subject) -> Permissions {
        let mut granted = Vec::new();
        for role in self.inherited(&subject.roles) {
            match built_in(&role) {
                Some(grants) => granted.extend_from_slice(grants),
                None => granted.extend(
                    self.roles.get(&role).into_iter().flat_map(|r| r.grants.iter().cloned()),
                ),
            }
        }
        let scope = subject.scope.as_ref().map(|scope| scope.iter().cloned().collect());
        Permissions { granted, scope }
    }

    /// Whether `subject` may do `action` to `object`.
    pub fn may(&self, subject: &Subject, action: Action, object: Object<'_>) -> bool {
        self.permissions(subject).allow(action, object)
    }

    /// These roles and all they inherit from, each once; roles that are not there any more count for nothing.
    pub fn inherited(&self, roles: &BTreeSet<String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut next: Vec<&str> = roles.iter().map(String::as_str).collect();
        while let Some(role) = next.pop() {
            if found.len() < limits::ROLES_COUNT
                && found.insert(role.to_owned())
                && let Some(record) = self.roles.get(role)
            {
                next.extend(record.inherits.iter().map(String::as_str));
            }
        }
        found
    }
}

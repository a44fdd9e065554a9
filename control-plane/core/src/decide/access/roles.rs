//! Roles of one's own.

use super::{exists, label, name, push, unknown};
use crate::access::{AccessChange, RoleRecord, built_in};
use crate::decide::check;
use crate::decide::draft::Draft;
use crate::rejection::Rejection;
use ollamamax_proto::limits;

pub(super) fn put(draft: &mut Draft, role: &RoleRecord) -> Result<(), Rejection> {
    name("role.name", &role.name)?;
    label("role.description", &role.description)?;
    if built_in(&role.name).is_some() {
        return Err(exists("built-in role", &role.name));
    }
    let access = &draft.state().access;
    if !access.roles.contains_key(&role.name) && access.roles.len() >= limits::ROLES_COUNT {
        return Err(check::over("roles", limits::ROLES_COUNT));
    }
    if role.grants.len() > limits::GRANTS_COUNT {
        return Err(check::over("grants of a role", limits::GRANTS_COUNT));
    }
    super::users::check_roles(draft, &role.inherits)?;
    if access.inherited(&role.inherits).contains(&role.name) {
        let reason = format!("role `{}` would inherit from itself", role.name);
        return Err(check::invalid("role.inherits", reason));
    }
    push(draft, AccessChange::RolePut(role.clone()));
    Ok(())
}

pub(super) fn delete(draft: &mut Draft, role: &str) -> Result<(), Rejection> {
    let access = &draft.state().access;
    if !access.roles.contains_key(role) {
        return Err(unknown("role", role));
    }
    let user = access.users.values().find(|user| user.roles.contains(role)).map(|u| &u.name);
    let heir = access.roles.values().find(|other| other.inherits.contains(role)).map(|r| &r.name);
    if let Some(who) = user.or(heir) {
        let reason = format!("`{who}` has it; take it away there first");
        return Err(check::invalid("role", reason));
    }
    push(draft, AccessChange::RoleRemoved(role.to_owned()));
    Ok(())
}

//! Adopting servers of others, and letting them go.

use super::check;
use super::draft::Draft;
use super::orders;
use crate::adopted::AdoptedServer;
use crate::change::Change;
use crate::rejection::Rejection;
use ollamamax_proto::{WorkerId, limits};

pub(super) fn adopt(draft: &mut Draft, server: &AdoptedServer) -> Result<(), Rejection> {
    check::display_name("name", &server.name)?;
    check_url(&server.url)?;
    let sealed = server.key.as_ref().map_or(0, |key| key.0.len());
    if sealed > limits::ADOPTED_KEY_BYTES {
        return Err(check::over("bytes of a server's key", limits::ADOPTED_KEY_BYTES));
    }
    let most = limits::ADOPTED_PLACES_COUNT;
    if server.places == 0 || server.places > most {
        let reason = format!("{}, expected 1 to {most}", server.places);
        return Err(check::invalid("max_concurrent", reason));
    }
    let state = draft.state();
    let exists =
        |name: &str| Err(Rejection::Exists { kind: "worker".to_owned(), name: name.to_owned() });
    if state.adopted.contains_key(&server.id) || state.workers.contains_key(&server.id) {
        return exists(&server.id.to_string());
    }
    if let Some(same) = state.adopted.values().find(|known| known.url == server.url) {
        return exists(&format!("{} at {}", same.name, same.url));
    }
    let mut names = state.adopted.values().map(|known| &known.name);
    let mut own = state.workers.values().map(|worker| &worker.name);
    if names.any(|name| *name == server.name) || own.any(|name| *name == server.name) {
        return exists(&server.name);
    }
    if state.adopted.len() >= limits::ADOPTED_COUNT {
        return Err(check::over("adopted servers", limits::ADOPTED_COUNT));
    }
    let adopted_at = draft.now();
    draft.push(Change::AdoptedPut(Box::new(AdoptedServer { adopted_at, ..server.clone() })));
    Ok(())
}

pub(super) fn release(draft: &mut Draft, id: WorkerId) -> Result<(), Rejection> {
    if !draft.state().adopted.contains_key(&id) {
        return Err(Rejection::UnknownWorker(id));
    }
    orders::forget(draft, id);
    draft.push(Change::AdoptedRemoved(id));
    Ok(())
}

/// A URL that prints, with no place for credentials; who proposes has parsed it.
fn check_url(url: &str) -> Result<(), Rejection> {
    check::bytes("url", url, limits::ADOPTED_URL_BYTES)?;
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let sound = rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.ends_with('/')
            && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"@?#\\\"".contains(&byte))
    });
    if sound {
        return Ok(());
    }
    let reason = "expected `http://host[:port][/path]` or `https://...`, without credentials, query or a slash at the end";
    Err(check::invalid("url", reason))
}

//! The guard before every route, and the only way to make one: a route without a policy or a description does not compile.

use super::{NotGood, WHO};
use crate::edge::{self, ClientAddress};
use crate::error::{Failure, RefusedFor};
use crate::openapi::{Served, Sheet};
use crate::request::{Asker, RequestId};
use crate::{Gateway, adopted, shaped};
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use ollamamax_core::access::{Action, Object};
use ollamamax_proto::Millis;
use ollamamax_proto::audit::Note;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a route asks of who comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: it tells nobody anything, or checks by itself.
    Open,
    /// To be somebody: it shows and changes only what is the caller's own.
    Known,
    /// A permission, on something at least; the handler asks about what exactly, or shows only that.
    Needs(Action),
    /// A permission on everything of its kind: what is done is done to no single thing.
    All(Action),
}

/// One line of the inventory: what is served, and who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, as the router has it.
    pub path: &'static str,
    /// Who may ask.
    pub policy: Policy,
}

/// A router in the making, each route with its policy and its description.
pub struct Routes {
    gateway: Arc<Gateway>,
    router: Router<Arc<Gateway>>,
    inventory: Vec<Route>,
    sheet: Sheet,
}

impl Routes {
    /// Without any yet.
    pub fn new(gateway: Arc<Gateway>) -> Self {
        let (router, inventory) = (Router::new(), Vec::new());
        Self { gateway, router, inventory, sheet: Sheet::default() }
    }

    /// Serves `path` for `method` to whom `policy` lets.
    #[must_use]
    pub fn add(
        mut self,
        method: Method,
        path: &'static str,
        policy: Policy,
        (schemas, operations, handler): Served,
    ) -> Self {
        self.sheet.add(policy, schemas, &operations);
        self.serve(method, path, policy, handler)
    }

    /// Serves all below a path by one handler, as what comes before the end of the path may hold slashes; `described` are the
    /// operations it stands for.
    #[must_use]
    pub fn below<H, T>(
        mut self,
        method: Method,
        path: &'static str,
        policy: Policy,
        handler: H,
        described: impl IntoIterator<Item = Served>,
    ) -> Self
    where
        H: Handler<T, Arc<Gateway>>,
        T: 'static,
    {
        for (schemas, operations, _) in described {
            self.sheet.add(policy, schemas, &operations);
        }
        let filter =
            MethodFilter::try_from(method.clone()).expect("methods in the table are known");
        self.serve(method, path, policy, on(filter, handler))
    }

    fn serve(
        mut self,
        method: Method,
        path: &'static str,
        policy: Policy,
        handler: MethodRouter<Arc<Gateway>>,
    ) -> Self {
        let guarded = (Arc::clone(&self.gateway), policy);
        let route = handler.route_layer(from_fn_with_state(guarded, guard));
        self.router = self.router.route(path, route);
        self.inventory.push(Route { method, path, policy });
        self
    }

    /// `GET`, which answers `HEAD`, too.
    #[must_use]
    pub fn get(self, path: &'static str, policy: Policy, served: Served) -> Self {
        self.add(Method::GET, path, policy, served)
    }

    /// `POST`.
    #[must_use]
    pub fn post(self, path: &'static str, policy: Policy, served: Served) -> Self {
        self.add(Method::POST, path, policy, served)
    }

    /// `PUT`.
    #[must_use]
    pub fn put(self, path: &'static str, policy: Policy, served: Served) -> Self {
        self.add(Method::PUT, path, policy, served)
    }

    /// `DELETE`.
    #[must_use]
    pub fn delete(self, path: &'static str, policy: Policy, served: Served) -> Self {
        self.add(Method::DELETE, path, policy, served)
    }

    /// The router, what it serves, and the description of that.
    pub fn finish(self) -> (Router<Arc<Gateway>>, Vec<Route>, Value) {
        (self.router, self.inventory, self.sheet.finish())
    }
}

/// The address a request came from.
pub fn address(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<ClientAddress>().map(|address| address.0.to_canonical())
}

/// What somebody unknown is told. Ollama's own command line drops the words of a 401 and shows those of a 403; it has no way to
/// send a credential, so these are all it can learn.
fn nobody(headers: &HeaderMap) -> Failure {
    let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes);
    if agent.is_some_and(|agent| agent.starts_with(b"ollama/")) {
        return Failure::Forbidden(format!(
            "{WHO}. The `ollama` command cannot send one: `ollamamax login` and then `ollamamax` in its place can"
        ));
    }
    Failure::Unauthenticated(WHO)
}

/// Whether a request comes from a program on this machine, and through no proxy: by the connection itself, whatever headers say.
fn is_here(gateway: &Gateway, request: &Request) -> bool {
    /// What proxies add to what they pass on.
    const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let Some(peer) = peer.map(|peer| peer.0.ip().to_canonical()) else { return false };
    let is_passed_on = FORWARDED.iter().any(|name| request.headers().contains_key(*name));
    let proxies = &gateway.config.edge.trusted_proxies;
    peer.is_loopback() && !is_passed_on && !proxies.iter().any(|proxy| proxy.contains(peer))
}

/// Lets a request through to its handler, or refuses it. What is refused, here or by the handler, goes into the trail.
async fn guard(
    State((gateway, policy)): State<(Arc<Gateway>, Policy)>,
    mut request: Request,
    next: Next,
) -> Response {
    if policy == Policy::Open {
        return next.run(request).await;
    }
    if let Err(failure) = edge::no_form(&request) {
        return shaped(&request, failure);
    }
    let address = address(&request);
    let id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let anonymous = || Note {
        actor: "unknown".to_owned(),
        from: address.map(|address| address.to_string()).unwrap_or_default(),
        request: id.clone(),
        action: "access.refused".to_owned(),
        outcome: "refused: no credential, or none that is good".to_owned(),
        ..Note::default()
    };
    let here = is_here(&gateway, &request);
    let caller = match gateway.caller(request.headers(), address, here, &id, Millis::now()) {
        Ok(caller) => caller,
        Err(NotGood) => {
            // Good credentials pass whatever others at the same address try.
            let throttled = gateway.throttle.refuses(address);
            gateway.throttle.failed(address);
            gateway.refusals.add_unknown(anonymous());
            let failure = throttled.unwrap_or_else(|| nobody(request.headers()));
            return shaped(&request, failure);
        }
    };
    let refused = match policy {
        Policy::Open | Policy::Known => None,
        Policy::Needs(action) => caller.check(action, Object::Some, "").err(),
        Policy::All(action) => caller.check(action, Object::All, "").err(),
    };
    if let Some(failure) = refused {
        let note = caller.note("access.refused", format!("{method} {path}"));
        gateway.refusals.add(Note { outcome: format!("refused: {failure}"), ..note });
        return shaped(&request, failure);
    }
    if let Some(asker) = request.extensions_mut().get_mut::<Asker>() {
        caller.share().clone_into(&mut asker.caller);
        asker.payer = caller.payer();
        asker.by = caller.note("", "");
    }
    request.extensions_mut().insert(caller.clone());
    let mut response = adopted::door::through(&gateway, &caller, request, next).await;
    if policy == Policy::Needs(Action::RunInference) {
        gateway.tell_limits(&caller, response.headers_mut());
    }
    if let Some(RefusedFor(reason)) = response.extensions().get::<RefusedFor>() {
        let note = caller.note("access.refused", format!("{method} {path}"));
        gateway.refusals.add(Note { outcome: format!("refused: {reason}"), ..note });
    }
    response
}

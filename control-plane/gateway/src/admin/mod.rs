//! Our own endpoints under `/admin/v1/`, and who may ask for them.

pub mod adopted;
pub mod audit;
pub mod authorities;
pub mod checkpoints;
pub mod cluster;
pub mod joins;
pub mod keys;
pub mod models;
pub mod placement;
pub mod quotas;
pub mod requests;
pub mod roles;
mod shape;
pub mod signing;
mod trial;
pub mod users;
pub mod versions;
pub mod workers;

use crate::auth::guard::Policy::{All, Known, Needs};
use crate::auth::guard::Routes;
use crate::openapi::described;
use axum::http::Method;
use ollamamax_core::access::Action;

/// Adds all of them.
pub(crate) fn routes(routes: Routes) -> Routes {
    let models = Needs(Action::ManageModels);
    let (cluster, see_cluster) = (All(Action::ManageCluster), All(Action::ReadCluster));
    let (nodes, see_nodes) = (Needs(Action::ManageNodes), Needs(Action::ReadNodes));
    let system = Needs(Action::ManageSystem);
    let (access, see_access) = (Needs(Action::ManageAccess), All(Action::ReadAccess));
    routes
        .get("/admin/v1/cluster", see_cluster, described!(cluster::get))
        .delete("/admin/v1/cluster/nodes/{id}", cluster, described!(cluster::remove))
        .get("/admin/v1/join-tokens", cluster, described!(joins::list))
        .post("/admin/v1/join-tokens", cluster, described!(joins::create))
        .delete("/admin/v1/join-tokens/{id}", cluster, described!(joins::revoke))
        .get("/admin/v1/authorities", see_cluster, described!(authorities::list))
        .post("/admin/v1/authorities/rotate", cluster, described!(authorities::rotate))
        .get("/admin/v1/workers", see_nodes, described!(cluster::list_workers))
        .post("/admin/v1/workers", cluster, described!(adopted::adopt))
        .get("/admin/v1/workers/{id}", see_nodes, described!(workers::get))
        .delete("/admin/v1/workers/{id}", nodes, described!(workers::remove))
        .post("/admin/v1/workers/{id}/drain", nodes, described!(workers::drain))
        .post("/admin/v1/workers/{id}/resume", nodes, described!(workers::resume))
        .post("/admin/v1/workers/{id}/label", nodes, described!(workers::label))
        .get("/admin/v1/placement", see_cluster, described!(placement::show))
        .get("/admin/v1/placement/plan", see_cluster, described!(placement::plan))
        .get(
            "/admin/v1/placement/explain/{*model}",
            see_cluster,
            described!(placement::explanation),
        )
        .get("/admin/v1/requests", see_cluster, described!(requests::list))
        .get("/admin/v1/requests/{id}", see_cluster, described!(requests::get))
        .delete("/admin/v1/requests/{id}", cluster, described!(requests::end))
        .post("/admin/v1/rebalance", cluster, described!(placement::even_out))
        .below(
            Method::POST,
            "/admin/v1/models/{*rest}",
            models,
            models::post,
            [described!(models::deploy), described!(models::migrate)],
        )
        .below(
            Method::DELETE,
            "/admin/v1/models/{*rest}",
            models,
            models::clear,
            [described!(models::clear)],
        )
        .get("/admin/v1/checkpoints/{*name}", system, described!(checkpoints::get))
        .put("/admin/v1/checkpoints/{*name}", system, described!(checkpoints::put))
        .delete("/admin/v1/checkpoints/{*name}", system, described!(checkpoints::delete))
        .get("/admin/v1/users", see_access, described!(users::list))
        .post("/admin/v1/users", access, described!(users::create))
        .get("/admin/v1/users/{name}", see_access, described!(users::get))
        .add(Method::PATCH, "/admin/v1/users/{name}", access, described!(users::patch))
        .delete("/admin/v1/users/{name}", access, described!(users::delete))
        .put("/admin/v1/users/{name}/password", Known, described!(users::set_password))
        .post("/admin/v1/users/{name}/logout", Known, described!(users::log_out))
        .get("/admin/v1/keys", Known, described!(keys::list))
        .post("/admin/v1/keys", Known, described!(keys::create))
        .delete("/admin/v1/keys/{id}", Known, described!(keys::revoke))
        .get("/admin/v1/roles", see_access, described!(roles::list))
        .put("/admin/v1/roles/{name}", access, described!(roles::put))
        .delete("/admin/v1/roles/{name}", access, described!(roles::delete))
        .get("/admin/v1/quotas", see_access, described!(quotas::list))
        .put("/admin/v1/quotas/{*of}", access, described!(quotas::put))
        .delete("/admin/v1/quotas/{*of}", access, described!(quotas::delete))
        .get("/admin/v1/signing-keys", see_access, described!(signing::list))
        .post(
            "/admin/v1/signing-keys/rotate",
            All(Action::ManageAccess),
            described!(signing::rotate),
        )
        .get("/admin/v1/audit", All(Action::ReadAudit), described!(audit::get))
}

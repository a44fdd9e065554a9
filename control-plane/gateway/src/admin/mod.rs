//! Our own endpoints under `/admin/v1/`, and who may ask for them.

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
        .get("/admin/v1/cluster", see_cluster, cluster::get)
        .delete("/admin/v1/cluster/nodes/{id}", cluster, cluster::remove)
        .get("/admin/v1/join-tokens", cluster, joins::list)
        .post("/admin/v1/join-tokens", cluster, joins::create)
        .delete("/admin/v1/join-tokens/{id}", cluster, joins::revoke)
        .get("/admin/v1/authorities", see_cluster, authorities::list)
        .post("/admin/v1/authorities/rotate", cluster, authorities::rotate)
        .get("/admin/v1/workers", see_nodes, cluster::list_workers)
        .get("/admin/v1/workers/{id}", see_nodes, workers::get)
        .delete("/admin/v1/workers/{id}", nodes, workers::remove)
        .post("/admin/v1/workers/{id}/drain", nodes, workers::drain)
        .post("/admin/v1/workers/{id}/resume", nodes, workers::resume)
        .post("/admin/v1/workers/{id}/label", nodes, workers::label)
        .get("/admin/v1/placement", see_cluster, placement::show)
        .get("/admin/v1/placement/plan", see_cluster, placement::plan)
        .get("/admin/v1/placement/explain/{*model}", see_cluster, placement::explanation)
        .get("/admin/v1/requests", see_cluster, requests::list)
        .get("/admin/v1/requests/{id}", see_cluster, requests::get)
        .delete("/admin/v1/requests/{id}", cluster, requests::end)
        .post("/admin/v1/rebalance", cluster, placement::even_out)
        .post("/admin/v1/models/{*rest}", models, models::post)
        .delete("/admin/v1/models/{*rest}", models, models::clear)
        .get("/admin/v1/checkpoints/{*name}", system, checkpoints::get)
        .put("/admin/v1/checkpoints/{*name}", system, checkpoints::put)
        .delete("/admin/v1/checkpoints/{*name}", system, checkpoints::delete)
        .get("/admin/v1/users", see_access, users::list)
        .post("/admin/v1/users", access, users::create)
        .get("/admin/v1/users/{name}", see_access, users::get)
        .add(Method::PATCH, "/admin/v1/users/{name}", access, users::patch)
        .delete("/admin/v1/users/{name}", access, users::delete)
        .put("/admin/v1/users/{name}/password", Known, users::set_password)
        .post("/admin/v1/users/{name}/logout", Known, users::log_out)
        .get("/admin/v1/keys", Known, keys::list)
        .post("/admin/v1/keys", Known, keys::create)
        .delete("/admin/v1/keys/{id}", Known, keys::revoke)
        .get("/admin/v1/roles", see_access, roles::list)
        .put("/admin/v1/roles/{name}", access, roles::put)
        .delete("/admin/v1/roles/{name}", access, roles::delete)
        .get("/admin/v1/quotas", see_access, quotas::list)
        .put("/admin/v1/quotas/{*of}", access, quotas::put)
        .delete("/admin/v1/quotas/{*of}", access, quotas::delete)
        .get("/admin/v1/signing-keys", see_access, signing::list)
        .post("/admin/v1/signing-keys/rotate", All(Action::ManageAccess), signing::rotate)
        .get("/admin/v1/audit", All(Action::ReadAudit), audit::get)
}

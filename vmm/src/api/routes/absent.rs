//! Calls of Firecracker's that Aerostat does not have. Each is refused by a sentence that says so.

use axum::{
    Router,
    http::{Method, Uri},
    routing::{MethodFilter, on},
};

use super::{Api, Fault};

const GET: MethodFilter = MethodFilter::GET;
const PUT: MethodFilter = MethodFilter::PUT;
const PATCH: MethodFilter = MethodFilter::PATCH;
const DELETE: MethodFilter = MethodFilter::DELETE;

/// Path, verbs, and what they are for.
const CALLS: [(&str, MethodFilter, &str); 10] = [
    ("/cpu-config", PUT, "custom CPU templates"),
    ("/drives/{drive_id}", DELETE, "unplugging of disks"),
    ("/hotplug/memory", GET.or(PUT).or(PATCH), "memory hotplug"),
    ("/mmds", GET.or(PUT).or(PATCH), "MMDS"),
    ("/mmds/config", PUT, "MMDS"),
    ("/network-interfaces/{iface_id}", DELETE, "unplugging of network cards"),
    ("/pmem/{id}", PUT.or(PATCH).or(DELETE), "pmem devices"),
    ("/snapshot/create", PUT, "snapshots"),
    ("/snapshot/load", PUT, "snapshots"),
    ("/vsock", PUT, "vsock"),
];

/// Adds them to the routes.
pub(super) fn add_to(router: Router<Api>) -> Router<Api> {
    CALLS.into_iter().fold(router, |router, (path, verbs, what)| {
        let refuse = async move |verb: Method, uri: Uri| {
            let path = uri.path();
            Fault::bad_request(format!("{verb} {path} is refused: Aerostat does not have {what} yet."))
        };
        router.route(path, on(verbs, refuse))
    })
}

//! Calls of Firecracker's that Aerostat does not have. Each is refused by a sentence that says so.

use axum::{
    Router,
    http::{Method, Uri},
    routing::{MethodFilter, on},
};

use super::{Api, Fault};

const DELETE: MethodFilter = MethodFilter::DELETE;
/// All verbs of Firecracker's API. It does not take all of them everywhere, but whoever sends one asks for the same.
const ANY: MethodFilter = MethodFilter::GET.or(MethodFilter::PUT).or(MethodFilter::PATCH).or(DELETE);

/// Path, verbs, and what they are for.
const CALLS: [(&str, MethodFilter, &str); 11] = [
    ("/cpu-config", ANY, "custom CPU templates"),
    ("/drives/{drive_id}", DELETE, "unplugging of disks"),
    ("/hotplug/memory", ANY, "memory hotplug"),
    ("/mmds", ANY, "MMDS"),
    ("/mmds/config", ANY, "MMDS"),
    ("/network-interfaces/{iface_id}", DELETE, "unplugging of network cards"),
    ("/pmem", ANY, "pmem devices"),
    ("/pmem/{id}", ANY, "pmem devices"),
    ("/snapshot", ANY, "snapshots"),
    ("/snapshot/{*what}", ANY, "snapshots"),
    ("/vsock", ANY, "vsock"),
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

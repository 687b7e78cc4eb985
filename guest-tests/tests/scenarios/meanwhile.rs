//! Work of the operator and of the host while a guest works.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use guest_tests::{TestVm, http};
use serde_json::{Value, json};

/// Between two things that one of them does.
const PAUSE: Duration = Duration::from_millis(200);

/// The balloon goes up to so many MiB and down, the host compacts as fast as it can, and does something else besides, until
/// the guest has done its work.
pub(crate) fn all_at_once(
    vm: &mut TestVm,
    balloon_mib: u64,
    besides: impl Fn() + Sync,
    work: impl FnOnce(&mut TestVm) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (socket, stop) = (vm.control.socket()?.to_path_buf(), AtomicBool::new(false));
    let sizes = [balloon_mib, 0].map(|mib| json!({ "amount_mib": mib }));
    thread::scope(|scope| {
        let compact = scope.spawn(|| calls(&socket, &stop, "PUT", "/memory/compact", &[json!({})]));
        let balloon = scope.spawn(|| calls(&socket, &stop, "PATCH", "/balloon", &sizes));
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                besides();
                thread::sleep(PAUSE);
            }
        });
        let done = work(vm);
        stop.store(true, Ordering::Relaxed);
        for client in [compact, balloon] {
            let calls = client.join().map_err(|_| anyhow!("a client of the API failed"))??;
            ensure!(calls > 0, "a client of the API did nothing");
        }
        done
    })
}

/// Makes a call with each of these bodies in turn, until it is told to stop; says how many rounds it made.
fn calls(
    socket: &Path,
    stop: &AtomicBool,
    method: &str,
    path: &str,
    bodies: &[Value],
) -> anyhow::Result<u32> {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        for body in bodies {
            http::request(socket, method, path, Some(body))?.success()?;
            thread::sleep(PAUSE);
        }
        rounds += 1;
    }
    Ok(rounds)
}

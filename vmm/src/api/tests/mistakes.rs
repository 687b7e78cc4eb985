//! Requests that are refused, each with its sentence.

use serde_json::json;

use super::{Connection, serve};

#[test]
fn every_mistake_gets_400_and_one_sentence() {
    let served = serve();
    let mut client = Connection::open(&served);
    for (verb, path, body, sentence) in [
        ("GET", "/nope", "", "Invalid request method and/or path: GET /nope"),
        ("DELETE", "/balloon", "", "Invalid request method and/or path: DELETE /balloon"),
        ("PUT", "/drives", "{}", "Invalid request method and/or path: PUT /drives"),
        ("PUT", "/drives/%ff", "{}", "The id in the path is not valid text."),
        (
            "PUT",
            "/drives/a-b",
            r#"{"drive_id":"a-b","is_root_device":false,"path_on_host":"/d"}"#,
            "The id \"a-b\" in the path must be of letters, digits or underscores.",
        ),
        ("GET", "/", "{}", "A GET request cannot have a body: leave it out."),
        (
            "PATCH",
            "/machine-config",
            "{}",
            "PATCH /machine-config names no field: name one that is to change.",
        ),
        (
            "PATCH",
            "/machine-config",
            r#"{"smt":null}"#,
            "PATCH /machine-config names no field: name one that is to change.",
        ),
        ("PUT", "/vsock/", "{}", "PUT /vsock is refused: Aerostat does not have vsock yet."),
        ("GET", "/mmds/config", "", "GET /mmds/config is refused: Aerostat does not have MMDS yet."),
        ("PATCH", "/mmds/config/", "{}", "PATCH /mmds/config is refused: Aerostat does not have MMDS yet."),
        ("GET", "/pmem", "", "GET /pmem is refused: Aerostat does not have pmem devices yet."),
        ("PUT", "/snapshot", "{}", "PUT /snapshot is refused: Aerostat does not have snapshots yet."),
        (
            "PUT",
            "/snapshot/load-async/a",
            "{}",
            "PUT /snapshot/load-async/a is refused: Aerostat does not have snapshots yet.",
        ),
        ("PUT", "/pmem/a", "", "PUT /pmem/a is refused: Aerostat does not have pmem devices yet."),
        (
            "DELETE",
            "/drives/a",
            "",
            "DELETE /drives/a is refused: Aerostat does not have unplugging of disks yet.",
        ),
        ("POST", "/vsock", "{}", "Invalid request method and/or path: POST /vsock"),
        ("PUT", "/balloon", "", "The request has no body, but this call needs one."),
        ("PUT", "/balloon", "{", "The body of the request is not valid: EOF"),
        ("PUT", "/balloon", "{}", "The body of the request is not valid: missing field `amount_mib`"),
        (
            "PATCH",
            "/balloon",
            r#"{"amount_mib":1,"x":2}"#,
            "The body of the request is not valid: x: unknown field `x`",
        ),
        (
            "PATCH",
            "/balloon",
            r#"{"amount_mib":-1}"#,
            "The body of the request is not valid: amount_mib: invalid value: integer `-1`",
        ),
        (
            "PUT",
            "/actions",
            r#"{"action_type":"Fly"}"#,
            "The body of the request is not valid: action_type: unknown variant `Fly`",
        ),
        (
            "PUT",
            "/machine-config",
            r#"{"vcpu_count":33,"mem_size_mib":128}"#,
            "vcpu_count is 33, but must be 1 to 32.",
        ),
        (
            "PUT",
            "/boot-source",
            r#"{"kernel_image_path":"/nope"}"#,
            "The kernel image /nope cannot be opened: No such file",
        ),
        (
            "PUT",
            "/memory/watermarks",
            r#"{"min_kib":4,"low_kib":4,"high_kib":4,"x":1}"#,
            "The body of the request is not valid: x: unknown field `x`",
        ),
        (
            "PUT",
            "/memory/watermarks",
            r#"{"min_kib":8,"low_kib":4,"high_kib":4}"#,
            "The watermarks must rise (min <= low <= high), but are min 8 KiB, low 4 KiB, high 4 KiB.",
        ),
        (
            "PUT",
            "/memory/compaction",
            r#"{"policy":"fast"}"#,
            "The body of the request is not valid: policy: unknown variant `fast`",
        ),
        (
            "PUT",
            "/memory/compaction",
            r#"{"extfrag_threshold":1001}"#,
            "extfrag_threshold is 0 to 1000, and not 1001.",
        ),
        (
            "PUT",
            "/machine-config",
            r#"{"vcpu_count":1,"mem_size_mib":16776192}"#,
            "The guest's memory (mem_size_mib) is 16776192 MiB, but a guest has 15728640 MiB (15 TiB) at most.",
        ),
        ("PUT", "/swap", r#"{"size_mib":0}"#, "The swap device is of 0 MiB, but must be of 1 MiB to 1 TiB."),
        (
            "PUT",
            "/swap",
            r#"{"size_mib":64,"memory_mib":65}"#,
            "The swap device of 64 MiB is to have 65 MiB of memory, but must have 1 MiB at least",
        ),
        (
            "PUT",
            "/swap",
            r#"{"size_mib":64,"tiers":["/a","/b","/c","/d","/e"]}"#,
            "4 tiers are the most there can be.",
        ),
        (
            "PUT",
            "/swap",
            r#"{"size_mib":64,"tiers":["/a"],"tier_timeout":0}"#,
            "tier_timeout is 1 second at least.",
        ),
        (
            "PUT",
            "/swap",
            r#"{"size_mib":64,"tiers":["nbd://h/a","nbd://h:10809/a"]}"#,
            "nbd://h/a is named twice: an export can be one tier of one guest.",
        ),
        ("PUT", "/swap", r#"{"size_mib":64,"tiers":["file:"]}"#, "\"file:\" is no tier: give a directory as"),
        (
            "PUT",
            "/swap",
            r#"{"size_mib":64,"memory_mib":15,"tiers":["/a"]}"#,
            "A swap device with tiers needs 16 MiB of memory at least, and is no smaller: give it more.",
        ),
        (
            "PUT",
            "/swap",
            r#"{"size_mib":64,"x":1}"#,
            "The body of the request is not valid: x: unknown field `x`",
        ),
        (
            "PUT",
            "/swap",
            r#"{"size_mib":64,"compression":null}"#,
            "The body of the request is not valid: compression: expected value",
        ),
        ("GET", "/swap", "", "The requested operation is not supported before starting the microVM."),
        (
            "PUT",
            "/memory/compact",
            r#"{"x":1}"#,
            "The body of the request is not valid: x: unknown field `x`",
        ),
        (
            "PUT",
            "/memory/compact",
            "",
            "The requested operation is not supported before starting the microVM.",
        ),
        (
            "PUT",
            "/memory/reclaim",
            r#"{"mib":1}"#,
            "The requested operation is not supported before starting the microVM.",
        ),
        (
            "PUT",
            "/network-interfaces/eth0",
            r#"{"iface_id":"eth0"}"#,
            "The body of the request is not valid: missing field `host_dev_name`",
        ),
        (
            "PUT",
            "/network-interfaces/eth0",
            r#"{"iface_id":"eth1","host_dev_name":"tap0"}"#,
            "The path says interface \"eth0\", but the body says \"eth1\": make them the same.",
        ),
        (
            "PUT",
            "/network-interfaces/eth0",
            r#"{"iface_id":"eth0","host_dev_name":"lo"}"#,
            "lo is no TAP interface of one queue: make one with \"ip tuntap add",
        ),
        (
            "PATCH",
            "/network-interfaces/eth0",
            r#"{"iface_id":"eth0"}"#,
            "The requested operation is not supported before starting the microVM.",
        ),
        (
            "PATCH",
            "/vm",
            r#"{"state":"Paused"}"#,
            "The requested operation is not supported before starting the microVM.",
        ),
        (
            "PUT",
            "/machine-config",
            "[1, 256]",
            "The body of the request is not valid: it must be a JSON object.",
        ),
        ("GET", "/memory", "", "The requested operation is not supported before starting the microVM."),
        ("GET", "/memory/nope", "", "Invalid request method and/or path: GET /memory/nope"),
        ("POST", "/metrics", "", "Invalid request method and/or path: POST /metrics"),
    ] {
        let answer = client.call(verb, path, body);
        assert_eq!(answer.status, 400, "{verb} {path} {body}");
        let fault = answer.fault();
        assert!(fault.starts_with(sentence), "{verb} {path} {body}: {fault}");
    }
    let config = client.call("GET", "/vm/config", "").json();
    let firecrackers = json!({
        "balloon": null, "drives": [], "cpu-config": null, "entropy": null, "logger": null, "metrics": null, "mmds-config": null,
        "network-interfaces": [], "vsock": null, "pmem": [], "memory-hotplug": null,
        "boot-source": {"kernel_image_path": "", "initrd_path": null, "boot_args": null},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128, "smt": false, "track_dirty_pages": false,
            "huge_pages": "None"},
    });
    assert_eq!(config, firecrackers, "clients of Firecracker see what they know");
}

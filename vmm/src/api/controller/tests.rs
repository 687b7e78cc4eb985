//! The phases, and what each call needs.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::api::{
    fake,
    lines::tests::{pipe, read_all},
    sentence,
    types::{BalloonStatsUpdate, BalloonUpdate, HintingStart},
};

const PATIENCE: Duration = Duration::from_secs(60);
const AFTER: &str = "The requested operation is not supported after starting the microVM.";
const BEFORE: &str = "The requested operation is not supported before starting the microVM.";

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("fits")
}

/// A controller whose guest runs with this balloon.
fn started(dir: &std::path::Path, balloon: Value) -> (Controller, fake::Told) {
    let (mut controller, told) = fake::controller();
    controller
        .load(of(json!({"boot-source": {"kernel_image_path": fake::kernel(dir)}, "balloon": balloon})))
        .expect("loads");
    controller.start().expect("starts");
    (controller, told)
}

fn refused<T>(result: Result<T, ControlError>) -> String {
    sentence(&result.err().expect("refused"))
}

#[test]
fn nothing_of_a_running_guest_can_be_had_before_the_start() {
    let (mut controller, _) = fake::controller();
    assert_eq!(controller.info().state, InstanceState::NotStarted);
    assert_eq!(refused(controller.pause(PATIENCE)), BEFORE);
    assert_eq!(refused(controller.resume()), BEFORE);
    assert_eq!(refused(controller.act(ActionType::FlushMetrics)), BEFORE);
    assert_eq!(refused(controller.act(ActionType::SendCtrlAltDel)), BEFORE);
    assert_eq!(refused(controller.memory()), BEFORE);
    assert_eq!(refused(controller.balloon_stats()), BEFORE);
    assert_eq!(refused(controller.update_balloon(BalloonUpdate { amount_mib: 1.into() })), BEFORE);
    assert_eq!(refused(controller.hinting_start(HintingStart::default())), BEFORE);
    assert_eq!(refused(controller.start()), "There is no kernel to boot: set boot-source first.");
}

#[test]
fn a_swap_device_takes_the_place_of_the_one_before_and_a_wrong_one_does_not() {
    let (mut controller, _) = fake::controller();
    for size in [64, 128] {
        controller.set_swap(of(json!({"size_mib": size}))).expect("set");
    }
    let before = controller.config().clone();
    assert_eq!(before.swap.as_ref().map(|swap| swap.size_mib.0), Some(128));
    refused(controller.set_swap(of(json!({"size_mib": 0}))));
    let no_directory = refused(controller.set_swap(of(json!({"size_mib": 64, "tiers": ["/nope"]}))));
    assert!(
        no_directory.starts_with("A tier of the swap device cannot be used: no file can be made in /nope")
    );
    assert_eq!(controller.config(), &before);
}

#[test]
fn nothing_is_configured_after_the_start() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut controller, _) = started(dir.path(), json!(null));
    let before = controller.config().clone();
    // Files that are not there must not hide that it is too late.
    assert_eq!(refused(controller.set_boot_source(of(json!({"kernel_image_path": "/nope"})))), AFTER);
    assert_eq!(refused(controller.set_machine_config(MachineConfig::default())), AFTER);
    assert_eq!(refused(controller.update_machine_config(of(json!({"smt": true})))), AFTER);
    let drive = json!({"drive_id": "a", "is_root_device": false, "path_on_host": "/nope"});
    assert_eq!(refused(controller.set_drive("a", of(drive))), AFTER);
    let interface = json!({"iface_id": "a", "host_dev_name": "nope"});
    assert_eq!(refused(controller.set_network_interface("a", of(interface))), AFTER);
    let balloon = json!({"amount_mib": 0, "deflate_on_oom": false});
    assert_eq!(refused(controller.set_balloon_config(of(balloon))), AFTER);
    let watermarks = json!({"min_kib": 4, "low_kib": 4, "high_kib": 4});
    assert_eq!(refused(controller.set_watermarks(of(watermarks))), AFTER);
    assert_eq!(refused(controller.set_swap(of(json!({"size_mib": 64, "tiers": ["/nope"]})))), AFTER);
    assert_eq!(refused(controller.set_logger(LoggerConfig::default())), AFTER);
    assert_eq!(refused(controller.set_metrics(of(json!({"metrics_path": "/nope/x"})))), AFTER);
    assert_eq!(refused(controller.set_serial(SerialConfig::default())), AFTER);
    assert_eq!(refused(controller.act(ActionType::InstanceStart)), AFTER);
    assert_eq!(controller.config(), &before);
}

#[test]
fn a_guest_starts_pauses_goes_on_and_ends() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut controller, told) = started(dir.path(), json!(null));
    for _ in 0..2 {
        assert!(controller.pause(PATIENCE).expect("obeys"));
        assert_eq!(controller.info().state, InstanceState::Paused);
    }
    controller.give_up_pause().expect("it is paused");
    assert_eq!(controller.info().state, InstanceState::Paused);
    controller.resume().expect("obeys");
    assert_eq!(controller.info().state, InstanceState::Running);
    controller.act(ActionType::SendCtrlAltDel).expect("obeys");
    controller.shut_down().expect("ends");
    assert_eq!(*told.lock().expect("lock"), ["launch vm7", "resume", "ctrl-alt-del", "drop"]);
}

#[test]
fn a_refused_change_leaves_no_trace_and_a_failed_start_can_be_repeated() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut controller, _) = fake::controller();
    controller.set_boot_source(of(json!({"kernel_image_path": fake::kernel(dir.path())}))).expect("set");
    controller.set_balloon_config(of(json!({"amount_mib": 128, "deflate_on_oom": true}))).expect("set");
    controller.update_machine_config(of(json!({"mem_size_mib": 256}))).expect("set");
    let watermarks = json!({"min_kib": 1024, "low_kib": 2048, "high_kib": 131_072});
    controller.set_watermarks(of(watermarks)).expect("set");
    let before = controller.config().clone();
    let shrunk = controller.update_machine_config(of(json!({"mem_size_mib": 64})));
    assert_eq!(
        refused(shrunk),
        "The balloon of 128 MiB is larger than the guest's memory of 64 MiB: ask for less."
    );
    assert_eq!(
        refused(controller.update_machine_config(of(json!({"mem_size_mib": 128})))),
        "The high watermark of 131072 KiB is more than half of the guest's memory of 128 MiB: lower it."
    );
    let elsewhere = json!({"drive_id": "a", "is_root_device": false, "path_on_host": "/dev/null"});
    assert_eq!(
        refused(controller.set_drive("b", of(elsewhere))),
        "The path says drive \"b\", but the body says \"a\": make them the same."
    );
    assert_eq!(controller.config(), &before);

    controller.update_machine_config(of(json!({"mem_size_mib": 666}))).expect("set");
    assert_eq!(
        refused(controller.start()),
        "The microVM cannot be started: the host has not that much memory."
    );
    assert_eq!(controller.info().state, InstanceState::NotStarted);
    controller.update_machine_config(of(json!({"mem_size_mib": 256, "vcpu_count": 2}))).expect("set");
    controller.start().expect("starts now");
    assert_eq!(controller.config().machine_config.vcpu_count, 2);
}

#[test]
fn the_balloon_does_what_it_was_made_for() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let balloon = json!({"amount_mib": 0, "deflate_on_oom": false,
        "stats_polling_interval_s": 1, "free_page_hinting": true});
    let (mut controller, told) = started(dir.path(), balloon);
    controller.update_balloon(BalloonUpdate { amount_mib: 100.into() }).expect("fits");
    assert_eq!(
        refused(controller.update_balloon(BalloonUpdate { amount_mib: 129.into() })),
        "The balloon of 129 MiB is larger than the guest's memory of 128 MiB: ask for less."
    );
    assert_eq!(controller.balloon().expect("balloon").amount_mib, 100.into());
    let stats = controller.balloon_stats().expect("stats");
    assert_eq!((stats.target_pages, stats.actual_pages), (25_600, 25_600));
    assert_eq!((stats.actual_mib, stats.guest.free_memory), (100.into(), Some(4096)));
    let report = controller.memory().expect("memory");
    assert_eq!(report.balloon_device.map(|balloon| balloon.actual_mib), Some(100.into()));

    controller.update_balloon_stats(BalloonStatsUpdate { stats_polling_interval_s: 5 }).expect("set");
    let off = controller.update_balloon_stats(BalloonStatsUpdate { stats_polling_interval_s: 0 });
    assert!(refused(off).ends_with("stats_polling_interval_s cannot become 0."));
    assert_eq!(controller.balloon().expect("balloon").stats_polling_interval_s, 5);

    controller.hinting_start(of(json!({}))).expect("starts");
    controller.hinting_start(of(json!({"acknowledge_on_stop": false}))).expect("starts");
    assert_eq!(refused(controller.hinting_stop()), "The guest cannot be told: its queue is broken.");
    assert_eq!(
        *told.lock().expect("lock"),
        ["launch vm7", "balloon 100", "interval 5", "hinting true", "hinting false"]
    );
}

#[test]
fn the_balloon_does_not_do_what_it_was_not_made_for() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut controller, _) = started(dir.path(), json!({"amount_mib": 0, "deflate_on_oom": false}));
    assert!(refused(controller.balloon_stats()).starts_with("Statistics of the balloon are off"));
    let on = controller.update_balloon_stats(BalloonStatsUpdate { stats_polling_interval_s: 1 });
    assert!(refused(on).ends_with("stats_polling_interval_s must stay 0."));
    assert!(refused(controller.hinting_status()).starts_with("Free page hinting is off"));

    let (mut controller, _) = started(dir.path(), json!(null));
    assert!(refused(controller.balloon().cloned()).starts_with("The guest has no balloon"));
    let update = controller.update_balloon(BalloonUpdate { amount_mib: 1.into() });
    assert!(refused(update).starts_with("The guest has no balloon"));
    assert_eq!(controller.memory().expect("memory").balloon_device, None);
}

#[test]
fn limits_of_a_network_card_change_while_the_guest_runs() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut controller, told) = fake::controller();
    controller.set_boot_source(of(json!({"kernel_image_path": fake::kernel(dir.path())}))).expect("set");
    let loopback = json!({"iface_id": "eth0", "host_dev_name": "lo"});
    let refusal = refused(controller.set_network_interface("eth0", of(loopback)));
    assert!(refusal.starts_with("lo is no TAP interface"), "{refusal}");
    assert_eq!(controller.config().network_interfaces, []);
    let wrong = json!({"iface_id": "eth0", "host_dev_name": "lo", "mtu": 1});
    let refusal = refused(controller.set_network_interface("eth0", of(wrong)));
    assert!(refusal.starts_with("mtu is 1"), "what is wrong in itself is said first: {refusal}");

    controller.start().expect("starts");
    let update = json!({"iface_id": "eth0", "rx_rate_limiter": {"bandwidth": {"size": 5, "refill_time": 6}}});
    let unknown = refused(controller.update_network_interface("eth0", of(update.clone())));
    assert!(unknown.starts_with("The guest has no network interface \"eth0\""), "{unknown}");
    // A guest that has it: no TAP is needed for what the controller does.
    let ops = json!({"ops": {"size": 1, "refill_time": 2}});
    let interface = json!({"iface_id": "eth0", "host_dev_name": "tap0", "rx_rate_limiter": ops});
    controller.config.set_network_interface(of(interface));
    controller.update_network_interface("eth0", of(update)).expect("set");
    let mismatch = refused(controller.update_network_interface("eth1", of(json!({"iface_id": "eth0"}))));
    assert!(mismatch.starts_with("The path says interface \"eth1\""), "{mismatch}");
    assert_eq!(told.lock().expect("lock")[1..], ["limit eth0 Some(5) None"]);
    let shown = serde_json::to_value(&controller.config().network_interfaces[0]).expect("JSON");
    let both = json!({"bandwidth": {"size": 5, "one_time_burst": null, "refill_time": 6},
        "ops": {"size": 1, "one_time_burst": null, "refill_time": 2}});
    assert_eq!((&shown["rx_rate_limiter"], &shown["tx_rate_limiter"]), (&both, &json!(null)));
}

#[test]
fn metrics_are_written_at_the_start_on_demand_and_at_the_end() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("metrics");
    let (mut controller, _) = fake::controller();
    let metrics = json!({"metrics_path": path, "emit_id": true, "properties": {"a": "b"}});
    controller.set_metrics(of(metrics)).expect("set");
    controller.set_startup(Startup { wall_us: 7, cpu_us: 8 });
    controller.set_boot_source(of(json!({"kernel_image_path": fake::kernel(dir.path())}))).expect("set");
    let drive = json!({"drive_id": "root", "is_root_device": true, "path_on_host": fake::kernel(dir.path())});
    controller.set_drive("root", of(drive)).expect("set");
    controller.requests().count("PUT", "/drives/root").expect("counted").fails.inc();
    controller.start().expect("starts");
    controller.requests().count("PUT", "/actions/").expect("counted");
    controller.act(ActionType::FlushMetrics).expect("flushes");
    controller.shut_down().expect("ends");
    let text = std::fs::read_to_string(path).expect("metrics");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [first, second, third] = lines.as_slice() else { panic!("three lines: {text}") };
    for line in [first, second, third] {
        assert!(line["utc_timestamp_ms"].is_u64());
        assert_eq!((&line["id"], &line["properties"]), (&json!("vm7"), &json!({"a": "b"})));
        let startup = json!({"process_startup_time_us": 7, "process_startup_time_cpu_us": 8});
        assert_eq!(line["api_server"], startup, "it stays what it is");
        assert_eq!(line["vcpu"]["exit_io_in_agg"], json!({"min_us": 0, "max_us": 0, "sum_us": 0}));
        // Ours, since the start.
        assert_eq!(
            (&line["aerostat"]["exits"], &line["aerostat"]["block_root"]["reads"]),
            (&json!(7), &json!(5))
        );
    }
    // Firecracker's, since the line before.
    let block = |line: &Value, group: &str| {
        [&line[group]["read_count"], &line[group]["write_bytes"]].map(|count| count.as_u64().expect("number"))
    };
    for group in ["block", "block_root"] {
        assert_eq!([block(first, group), block(second, group)], [[5, 4096], [0, 0]], "{group}");
    }
    let calls = |line: &Value| {
        let group = &line["put_api_requests"];
        ["drive_count", "drive_fails", "actions_count"].map(|name| group[name].as_u64().expect("number"))
    };
    assert_eq!([calls(first), calls(second), calls(third)], [[1, 1, 0], [0, 0, 1], [0, 0, 0]]);
}

/// A line that a pipe has no room for is told of by the next that it has room for.
#[test]
fn lines_of_metrics_that_are_missed_are_counted() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, reader) = pipe(dir.path());
    let (mut controller, _) = fake::controller();
    controller.set_metrics(of(json!({"metrics_path": path}))).expect("set");
    controller.set_boot_source(of(json!({"kernel_image_path": fake::kernel(dir.path())}))).expect("set");
    controller.start().expect("starts");
    let mut missed = 0;
    while missed < 3 {
        if controller.act(ActionType::FlushMetrics).is_err() {
            missed += 1;
        }
    }
    let begun = read_all(&reader);
    for _ in 0..2 {
        controller.act(ActionType::FlushMetrics).expect("there is room");
    }
    let text = String::from_utf8([begun, read_all(&reader)].concat()).expect("text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told = lines.iter().map(|line| line["logger"]["missed_metrics_count"].as_u64().expect("a number"));
    let told: Vec<u64> = told.collect();
    assert!(told.ends_with(&[3, 0]), "each line tells of those since the one before: {told:?}");
    assert_eq!(told.iter().sum::<u64>(), 3);
    assert_eq!(lines[0]["logger"]["missed_log_count"], 0);
}

#[test]
fn a_drive_is_changed_while_the_guest_runs_and_its_configuration_with_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let [old, new] = ["old", "new"].map(|name| {
        let path = dir.path().join(name);
        std::fs::write(&path, [0; 512]).expect("written");
        path
    });
    let (mut controller, told) = fake::controller();
    controller.set_boot_source(of(json!({"kernel_image_path": fake::kernel(dir.path())}))).expect("set");
    let limits = json!({"ops": {"size": 1, "refill_time": 1}, "bandwidth": {"size": 2, "refill_time": 2}});
    let drive =
        json!({"drive_id": "d", "is_root_device": false, "path_on_host": old, "rate_limiter": limits});
    controller.set_drive("d", of(drive)).expect("set");
    let path = |path: &std::path::Path| of(json!({"drive_id": "d", "path_on_host": path}));
    assert_eq!(refused(controller.update_drive("d", path(&new))), BEFORE);
    controller.start().expect("starts");

    let other = of(json!({"drive_id": "e"}));
    assert!(refused(controller.update_drive("d", other)).starts_with("The path says drive \"d\""));
    let unknown = of(json!({"drive_id": "e"}));
    assert!(refused(controller.update_drive("e", unknown)).starts_with("The guest has no drive \"e\""));
    let missing = refused(controller.update_drive("d", path(&dir.path().join("nope"))));
    assert!(missing.starts_with("The disk ") && missing.contains("nope"), "{missing}");
    assert_eq!(controller.config().drives[0].path_on_host, old);

    controller.update_drive("d", path(&new)).expect("changed");
    let faster = json!({"drive_id": "d", "rate_limiter": {"bandwidth": {"size": 7, "refill_time": 2}}});
    controller.update_drive("d", of(faster)).expect("changed");
    controller.update_drive("d", of(json!({"drive_id": "d"}))).expect("nothing is to be changed");
    let drive = &controller.config().drives[0];
    assert_eq!(drive.path_on_host, new);
    let limits = serde_json::to_value(drive.rate_limiter).expect("JSON");
    assert_eq!((&limits["ops"]["size"], &limits["bandwidth"]["size"]), (&json!(1), &json!(7)));
    let new = format!("drive d Some({new:?}) None");
    assert_eq!(
        *told.lock().expect("lock"),
        ["launch vm7", &new, "drive d None Some(7)", "drive d None None"]
    );
}

#[test]
fn two_drives_have_one_file_only_if_both_just_read_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let [disk, link] = ["disk", "link"].map(|name| dir.path().join(name));
    std::fs::write(&disk, [0; 512]).expect("written");
    std::fs::hard_link(&disk, &link).expect("linked");
    let drive = |id: &str, path: &std::path::Path, reads: bool| json!({"drive_id": id, "is_root_device": false, "path_on_host": path, "is_read_only": reads});
    let (mut controller, _) = fake::controller();
    controller.set_drive("a", of(drive("a", &disk, true))).expect("set");
    let said = refused(controller.set_drive("b", of(drive("b", &link, false))));
    assert_eq!(
        said,
        format!(
            "Drives \"a\" and \"b\" have the same disk {}: give each its own, or make both read-only.",
            link.display()
        )
    );
    assert_eq!(controller.config().drives.len(), 1);
    controller.set_drive("b", of(drive("b", &link, true))).expect("both only read");
    controller.set_boot_source(of(json!({"kernel_image_path": fake::kernel(dir.path())}))).expect("set");

    // A link may lead elsewhere since.
    let other = dir.path().join("other");
    std::fs::write(&other, [0; 512]).expect("written");
    controller.set_drive("b", of(drive("b", &other, false))).expect("another file");
    std::fs::remove_file(&other).and_then(|()| std::fs::hard_link(&disk, &other)).expect("linked");
    let said = refused(controller.start());
    assert!(said.starts_with("Drives \"a\" and \"b\" have the same disk"), "{said}");
    let both = [drive("a", &disk, false), drive("b", &link, false)];
    let said = refused(fake::controller().0.load(of(json!({"drives": both}))));
    assert!(said.starts_with("Drives \"a\" and \"b\" have the same disk"), "{said}");
}

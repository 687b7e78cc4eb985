use memsvc::core::compact::{PolicyKind, Tuning};
use memsvc::core::watermark::Choice;
use serde_json::json;

use super::*;

fn parse(value: serde_json::Value) -> Result<VmConfig, String> {
    let config: VmConfig = serde_json::from_value(value).map_err(|e| e.to_string())?;
    config.validate().map_err(|e| e.to_string())?;
    Ok(config)
}

fn drive(id: &str, root: bool) -> serde_json::Value {
    json!({"drive_id": id, "is_root_device": root, "path_on_host": "/nowhere"})
}

#[test]
fn a_full_configuration_survives_a_round_trip() {
    let value = json!({
        "boot-source": {"kernel_image_path": "/k", "initrd_path": "/i", "boot_args": "quiet"},
        "machine-config": {"vcpu_count": 4, "mem_size_mib": 6144, "smt": true,
            "track_dirty_pages": true, "huge_pages": "2M"},
        "drives": [{"drive_id": "root", "is_root_device": true, "path_on_host": "/d",
            "is_read_only": true, "partuuid": "0eaa91a0-01", "cache_type": "Writeback",
            "io_engine": "Async", "rate_limiter": {"bandwidth": null, "ops": {"size": 5, "one_time_burst": null, "refill_time": 100}}, "socket": null}],
        "balloon": {"amount_mib": 6144, "deflate_on_oom": true, "stats_polling_interval_s": 1,
            "free_page_hinting": true, "free_page_reporting": true},
        "memory": {"watermarks": {"min_kib": 0, "low_kib": 4096, "high_kib": 3145728},
            "compaction": {"policy": "scanner", "extfrag_threshold": 1000, "proactiveness": 0}},
        "network-interfaces": [{"iface_id": "eth-0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02",
            "mtu": 68, "rx_rate_limiter": {"bandwidth": {"size": 1, "one_time_burst": 2, "refill_time": 3}, "ops": null},
            "tx_rate_limiter": {"bandwidth": null, "ops": {"size": 0, "one_time_burst": null, "refill_time": 0}}},
            {"iface_id": "eth1", "host_dev_name": "tap1", "guest_mac": null, "mtu": null, "rx_rate_limiter": null,
            "tx_rate_limiter": null}],
        "entropy": {"rate_limiter": {"bandwidth": {"size": 1000, "one_time_burst": 0, "refill_time": 100}, "ops": null}},
        "logger": {"log_path": "/l", "level": "Warning", "show_level": true,
            "show_log_origin": false, "module": "vmm"},
        "metrics": {"metrics_path": "/m", "emit_id": true, "properties": {"a": "b"}},
        "serial": {"serial_out_path": "/s",
            "rate_limiter": {"size": 1, "one_time_burst": null, "refill_time": 3}},
        "cpu-config": null, "memory-hotplug": null, "mmds-config": null, "pmem": [], "vsock": null,
    });
    let config = parse(value.clone()).expect("valid");
    assert_eq!(config.kernel_command_line().expect("words"), "quiet pci=off root=PARTUUID=0eaa91a0-01 ro");
    assert_eq!(serde_json::to_value(&config).expect("serializes"), value);
}

#[test]
fn words_for_the_kernel_stand_before_those_for_init() {
    let line = |boot_args: Option<&str>| {
        let boot = json!({"kernel_image_path": "/k", "boot_args": boot_args});
        let config = json!({"boot-source": boot, "drives": [drive("root", true)]});
        parse(config).expect("valid").kernel_command_line().expect("words")
    };
    assert_eq!(line(None), format!("{DEFAULT_BOOT_ARGS} pci=off root=/dev/vda rw"));
    assert_eq!(line(Some("")), "pci=off root=/dev/vda rw");
    assert_eq!(line(Some(" quiet  -- -v a=b -- c")), "quiet pci=off root=/dev/vda rw -- -v a=b -- c");
    assert_eq!(line(Some(r#"x=" -- " --y"#)), r#"x=" -- " --y pci=off root=/dev/vda rw"#);
}

#[test]
fn memory_is_rounded_up_to_what_a_guest_can_have() {
    let rounded = |mib: u64| {
        let machine = json!({"vcpu_count": 1, "mem_size_mib": mib});
        let mut machine: MachineConfig = serde_json::from_value(machine).expect("fits");
        machine.round_up();
        machine.mem_size_mib.0
    };
    for (asked, given) in [(0, 0), (1, 64), (63, 64), (64, 64), (65, 66), (128, 128), (u64::MAX, u64::MAX)] {
        assert_eq!(rounded(asked), given);
    }
}

#[test]
fn null_is_taken_where_firecracker_takes_it() {
    let drive = json!({"drive_id": "a", "is_root_device": false, "path_on_host": "/d", "is_read_only": null,
        "partuuid": null, "io_engine": null, "rate_limiter": null, "socket": null});
    let card = json!({"iface_id": "a", "host_dev_name": "tap0", "guest_mac": null, "mtu": null, "rx_rate_limiter": null,
        "tx_rate_limiter": {"bandwidth": null, "ops": {"size": 1, "one_time_burst": null, "refill_time": 1}}});
    let config = parse(json!({"drives": [drive], "network-interfaces": [card],
        "boot-source": {"kernel_image_path": "/k", "initrd_path": null, "boot_args": null},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128, "cpu_template": null},
        "logger": {"log_path": null, "level": null, "show_level": null, "show_log_origin": null, "module": null},
        "metrics": {"metrics_path": "/m", "properties": null},
        "serial": {"serial_out_path": null, "rate_limiter": null}}));
    assert!(config.is_ok(), "{config:?}");
    let wrong = parse(json!({"machine-config": {"vcpu_count": 1, "mem_size_mib": 128, "smt": null}}));
    assert!(wrong.expect_err("refused").starts_with("invalid type: null"));
}

#[test]
fn what_is_left_out_has_firecrackers_defaults() {
    let config = parse(json!({"entropy": null})).expect("valid");
    assert_eq!(config, VmConfig::default());
    assert_eq!((config.machine_config.vcpu_count, config.machine_config.mem_size_mib), (1, Mib(128)));
    assert!(matches!(config.require_boot_source(), Err(ConfigError::NoBootSource)));
}

#[test]
fn each_mistake_has_its_sentence() {
    let machine =
        |vcpus: u64, mib: u64| json!({"machine-config": {"vcpu_count": vcpus, "mem_size_mib": mib}});
    let machine_with = |field: &str, value: serde_json::Value| json!({"machine-config": {"vcpu_count": 1, "mem_size_mib": 128, field: value}});
    let drive_with = |field: &str, value: serde_json::Value| {
        let mut drive = drive("a", false);
        drive[field] = value;
        json!({"drives": [drive]})
    };
    let watermarks = |min: u64, low: u64, high: u64| json!({"memory": {"watermarks": {"min_kib": min, "low_kib": low, "high_kib": high}}});
    let compaction = |field: &str, value: u64| json!({"memory": {"compaction": {field: value}}});
    // Interfaces that are right but for what is said of them.
    let network = |fields: &[serde_json::Value]| {
        let interfaces = fields.iter().enumerate().map(|(i, fields)| {
            let mut interface = json!({"iface_id": format!("n{i}"), "host_dev_name": format!("tap{i}")});
            interface.as_object_mut().expect("object").extend(fields.as_object().expect("object").clone());
            interface
        });
        json!({"network-interfaces": interfaces.collect::<Vec<_>>()})
    };
    let cases = [
        (machine(0, 128), "vcpu_count is 0, but must be 1 to 32."),
        (machine(33, 128), "vcpu_count is 33, but must be 1 to 32."),
        (
            machine(1, 0),
            "The guest's memory (mem_size_mib) is 0, but a guest needs some: give it 128, or more.",
        ),
        (
            machine(1, 1 << 60),
            "The guest's memory (mem_size_mib) is 1152921504606846976 MiB, but a guest has 15728640 MiB (15 TiB) at most.",
        ),
        // 16 TiB less 1 GiB.
        (
            machine(1, 16_776_192),
            "The guest's memory (mem_size_mib) is 16776192 MiB, but a guest has 15728640 MiB",
        ),
        (
            json!({"machine-config": {"vcpu_count": 3, "mem_size_mib": 128, "smt": true}}),
            "vcpu_count is 3, but must be 1 or even with smt: two vCPUs make a core.",
        ),
        (machine_with("huge_pages", json!("1G")), "unknown variant `1G`"),
        (
            machine_with("cpu_template", json!("T2")),
            "cpu_template is set to T2, which Aerostat does not offer: leave it out.",
        ),
        (machine_with("ht_enabled", json!(true)), "unknown field `ht_enabled`"),
        (
            json!({"drives": [drive("a", false), drive("a", false)]}),
            "Two drives have the id \"a\": give each its own.",
        ),
        (
            json!({"drives": [drive("a", true), drive("b", true)]}),
            "Both \"a\" and \"b\" are root devices: a guest has only one.",
        ),
        (json!({"drives": [drive("", true)]}), "A drive has an empty id: name it."),
        (
            drive_with("partuuid", json!("x y")),
            "Drive \"a\" has a partuuid with a space, which no partition has",
        ),
        (drive_with("path_on_host", json!(null)), "Drive \"a\" has no path_on_host: name a disk image"),
        (
            drive_with("socket", json!("/s")),
            "Drive \"a\" has a socket, but Aerostat does not have vhost-user disks: give path_on_host instead.",
        ),
        (
            json!({"balloon": {"amount_mib": 129, "deflate_on_oom": false}}),
            "The balloon of 129 MiB is larger than the guest's memory of 128 MiB: ask for less.",
        ),
        (
            watermarks(2048, 1024, 4096),
            "The watermarks must rise (min <= low <= high), but are min 2048 KiB, low 1024 KiB, high 4096 KiB.",
        ),
        (watermarks(1024, 4096, 2048), "The watermarks must rise"),
        (
            watermarks(1024, 2050, 4096),
            "The watermark low_kib is 2050 KiB, but must be a multiple of 4 KiB, the size of a frame.",
        ),
        (
            watermarks(1024, 2048, 65_540),
            "The high watermark of 65540 KiB is more than half of the guest's memory of 128 MiB: lower it.",
        ),
        (json!({"memory": {"watermarks": {"min_kib": 0, "low_kib": 0}}}), "missing field `high_kib`"),
        (
            json!({"memory": {"min_free_kib": 6}}),
            "min_free_kib is 6 KiB, but must be a multiple of 4 KiB, and at most a quarter of the guest's memory of 128 MiB.",
        ),
        (json!({"memory": {"min_free_kib": 32_772}}), "min_free_kib is 32772 KiB, but must be"),
        (
            json!({"memory": {"min_free_kib": 0, "watermarks": {"min_kib": 0, "low_kib": 0, "high_kib": 0}}}),
            "The memory section has min_free_kib and watermarks, which both say what stays free: leave one out.",
        ),
        (
            json!({"memory": {"limit_mib": 133}}),
            "The memory limit of 133 MiB is too low for a guest of 128 MiB: it must be 134 MiB at least, which is the guest's memory and what stays free.",
        ),
        (json!({"memory": {"limit_mib": 130, "min_free_kib": 0}}), "The memory limit of 130 MiB is too low"),
        (json!({"memory": {"watermark": {}}}), "unknown field `watermark`"),
        (json!({"memory": {"allow_host_swap": 1}}), "invalid type: integer `1`, expected a boolean"),
        (compaction("extfrag_threshold", 1001), "extfrag_threshold is 0 to 1000, and not 1001."),
        (compaction("proactiveness", 101), "proactiveness is 0 to 100, and not 101."),
        (compaction("order", 9), "unknown field `order`"),
        (network(&[json!({"mtu": 67})]), "mtu is 67, but must be at least 68, which IPv4 needs."),
        (network(&[json!({"mtu": 65536})]), "invalid value: integer `65536`, expected u16"),
        (network(&[json!({"iface_id": ""})]), "A network interface has an empty id: name it."),
        (
            network(&[json!({"host_dev_name": "tap%d"})]),
            "\"tap%d\" is no name of a network interface: it has 1 to 15 letters",
        ),
        (network(&[json!({"guest_mac": "2"})]), "\"2\" is no MAC address: write six octets"),
        (network(&[json!({"guest_mac": "01:00:00:00:00:00"})]), "\"01:00:00:00:00:00\" is no address that"),
        (network(&[json!({"allow_mmds_requests": true})]), "unknown field `allow_mmds_requests`"),
        (network(&[json!({"tx_rate_limiter": {"size": 1}})]), "unknown field `size`"),
        (
            network(&[json!({}), json!({"iface_id": "n0"})]),
            "Two network interfaces have the id \"n0\": give each its own.",
        ),
        (
            network(&[json!({}), json!({"host_dev_name": "tap0"})]),
            "Two network interfaces have the host_dev_name tap0: give each a TAP interface of its own.",
        ),
        (
            network(&[json!({"guest_mac": "02:00:00:00:00:0A"}), json!({"guest_mac": "02:00:00:00:00:0a"})]),
            "Two network interfaces have the guest_mac 02:00:00:00:00:0a: give each its own.",
        ),
        (
            {
                let mut config = network(&[json!({"guest_mac": "02:53:57:41:50:02"})]);
                config["swap"] = json!({"size_mib": 64});
                config
            },
            "The guest_mac 02:53:57:41:50:02 is that of the swap device's own network card: give the interface another.",
        ),
        (
            json!({"swap": {"size_mib": 64, "tier_timeout": 9}}),
            "tier_timeout is a server's, and there is no tier: name one, or leave it out.",
        ),
        (
            {
                let mut config = network(&[json!({"iface_id": "swap-link"})]);
                config["swap"] = json!({"size_mib": 64});
                config
            },
            "The iface_id \"swap-link\" is that of the swap device's own network card: give the interface another.",
        ),
        (
            boot_args(2047 - "pci=off virtio_mmio.device=4K@0xd0000000:5".len()),
            "The kernel command line has 2048 bytes, with root= and with words for 1 devices, and a kernel takes 2047: shorten boot_args.",
        ),
        (
            json!({"boot-source": {"kernel_image_path": "/k", "boot_args": "a\nb"}}),
            "boot_args holds a NUL or line",
        ),
    ];
    for (value, sentence) in cases {
        let error = parse(value.clone()).expect_err(&value.to_string());
        assert!(error.starts_with(sentence), "{value}: {error}");
    }
}

/// A configuration with so many bytes of `boot_args`.
fn boot_args(len: usize) -> serde_json::Value {
    json!({"boot-source": {"kernel_image_path": "/k", "boot_args": "x".repeat(len)}})
}

#[test]
fn the_command_line_has_room_for_words_of_all_devices() {
    let words = |devices: &str| 2047 - format!(" pci=off {devices}").len();
    let longest = boot_args(words("virtio_mmio.device=4K@0xd0000000:5"));
    parse(longest.clone()).expect("a kernel takes it");
    for (section, more) in [
        ("drives", json!([drive("data", false)])),
        ("balloon", json!({"amount_mib": 0, "deflate_on_oom": false})),
        ("swap", json!({"size_mib": 64})),
    ] {
        let mut config = longest.clone();
        config[section] = more;
        let error = parse(config).expect_err(section);
        assert!(error.contains(&format!("has {} bytes", 2047 + " virtio_mmio.device=4K@0xd0001000:6".len())));
    }
}

/// Nothing else is called so where the swap device is a disk.
#[test]
fn a_network_card_may_be_named_as_that_of_a_swap_device_that_has_none() {
    let card = json!({"iface_id": "swap-link", "host_dev_name": "tap0", "guest_mac": "02:53:57:41:50:02"});
    let swap = json!({"size_mib": 64, "front": "blk"});
    parse(json!({"network-interfaces": [card], "swap": swap})).expect("it is the only one");
}

#[test]
fn the_reserve_is_one_of_three_choices() {
    let choice = |memory: serde_json::Value| {
        let memory: MemoryConfig = serde_json::from_value(memory).expect("valid");
        memory.validate(Mib(128)).expect("valid");
        memory.watermark_choice(Mib(128)).expect("fit")
    };
    assert_eq!(choice(json!({"limit_mib": 134})), Choice::Formula);
    assert_eq!(choice(json!({"min_free_kib": 0, "limit_mib": 132})), Choice::Min(0));
    assert_eq!(choice(json!({"min_free_kib": 32_768})), Choice::Min(8192));
    let marks = choice(json!({"watermarks": {"min_kib": 4, "low_kib": 8, "high_kib": 12}}));
    assert!(matches!(marks, Choice::Exactly(marks) if (marks.min, marks.low, marks.high) == (1, 2, 3)));
}

#[test]
fn watermarks_reach_the_allocator_in_frames() {
    let config = WatermarksConfig { min_kib: Kib(4), low_kib: Kib(4096), high_kib: Kib(65_536) };
    let marks = config.watermarks(Mib(128)).expect("fit");
    assert_eq!((marks.min, marks.low, marks.high), (1, 1024, 16_384));
}

#[test]
fn compaction_is_tuned_as_far_as_it_is_said() {
    let config: CompactionConfig = serde_json::from_value(json!({"proactiveness": 50})).expect("valid");
    let default = Tuning::default();
    assert_eq!(config.tuning(), Tuning { proactiveness: 50, ..default });
    let off = CompactionConfig { policy: Some(PolicyKind::Off), ..CompactionConfig::default() };
    let changed = config.changed_by(off);
    assert_eq!(changed.tuning(), Tuning { policy: PolicyKind::Off, proactiveness: 50, ..default });
}

#[test]
fn the_root_device_is_vda_whenever_it_comes() {
    let mut config = VmConfig::default();
    for (id, root) in [("data", false), ("root", true), ("more", false), ("data", false)] {
        config.set_drive(serde_json::from_value(drive(id, root)).expect("drive"));
    }
    let ids: Vec<&str> = config.drives.iter().map(|drive| drive.drive_id.as_str()).collect();
    assert_eq!(ids, ["root", "data", "more"]);
    let line = config.kernel_command_line().expect("words");
    assert_eq!(line, format!("{DEFAULT_BOOT_ARGS} pci=off root=/dev/vda rw"));
}

#[test]
fn files_are_looked_at_when_they_are_set() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("kernel");
    let boot = |path: &std::path::Path| BootSource {
        kernel_image_path: path.to_owned(),
        initrd_path: None,
        boot_args: None,
    };
    let missing = boot(&file).check_files().expect_err("missing");
    assert_eq!(missing.to_string(), format!("The kernel image {} cannot be opened", file.display()));
    let directory = boot(dir.path()).check_files().expect_err("directory");
    assert!(directory.to_string().ends_with("is not a regular file."), "{directory}");
    std::fs::write(&file, "").expect("write");
    let empty = boot(&file).check_files().expect_err("empty");
    assert!(empty.to_string().ends_with("is empty."), "{empty}");
    std::fs::write(&file, "x").expect("write");
    boot(&file).check_files().expect("a file is there");

    let mut disk: Drive = serde_json::from_value(drive("d", false)).expect("drive");
    assert!(matches!(disk.check_file(), Err(ConfigError::File { what: "disk", .. })));
    disk.path_on_host = dir.path().to_owned();
    assert!(matches!(disk.check_file(), Err(ConfigError::NotAFile { .. })));
    disk.path_on_host = file;
    disk.check_file().expect("a file is there");
}

#[test]
fn there_are_as_many_devices_as_slots() {
    let mut config = VmConfig::default();
    let interface = |id: &str, tap: &str| -> NetworkInterface {
        serde_json::from_value(json!({"iface_id": id, "host_dev_name": tap})).expect("interface")
    };
    for (id, tap) in [("a", "tap0"), ("b", "tap1"), ("a", "tap2")] {
        config.set_network_interface(interface(id, tap));
    }
    assert_eq!(config.network_interfaces, [interface("a", "tap2"), interface("b", "tap1")]);
    for number in 2..MAX_DEVICES {
        config.set_drive(serde_json::from_value(drive(&format!("d{number}"), false)).expect("drive"));
    }
    config.validate().expect("as many as there may be");
    config.set_drive(serde_json::from_value(drive("more", false)).expect("drive"));
    let error = config.validate().expect_err("one too many").to_string();
    assert!(error.starts_with(&format!("There are {} drives and 2 network", MAX_DEVICES - 1)), "{error}");
}

#[test]
fn a_network_card_has_the_address_and_limits_that_are_said_or_its_own() {
    let interface =
        |value: serde_json::Value| -> NetworkInterface { serde_json::from_value(value).expect("valid") };
    let plain = interface(json!({"iface_id": "a", "host_dev_name": "tap0"}));
    let device = plain.device("vm-1");
    assert_eq!((device.mac, device.mtu), (MacAddress::derive("vm-1", "tap0").octets(), None));
    assert_eq!((device.rx_limits, device.tx_limits), Default::default());
    let full = interface(json!({"iface_id": "a", "host_dev_name": "tap0", "guest_mac": "02:00:00:00:00:01",
        "mtu": 9000, "tx_rate_limiter": {"bandwidth": {"size": 7, "refill_time": 8}}}));
    let device = full.device("vm-1");
    assert_eq!((device.mac, device.mtu), ([2, 0, 0, 0, 0, 1], Some(9000)));
    let limit = device.tx_limits.bandwidth.expect("limit");
    assert_eq!((limit.size, limit.one_time_burst, limit.refill_time.as_millis()), (7, 0, 8));
    assert_eq!(device.tx_limits.ops, None);
}

//! Arguments and what they come to, and the errors about wrong ones.

mod json;

use serde_json::{Value, json};

use super::{
    args::{BenchCommand, ServeArgs},
    *,
};
use crate::{
    api::{logger::Logger, metrics::Startup},
    vm::config::{LoggerConfig, SerialConfig, VmConfig},
};

fn arguments(line: &str) -> Vec<OsString> {
    std::iter::once("aerostat").chain(line.split_whitespace()).map(OsString::from).collect()
}

fn refused(line: &str) -> String {
    let args = arguments(line);
    mistake::sentence(&Cli::try_parse_from(&args).expect_err(line), &args)
}

/// The configuration that `aerostat run …` starts.
fn configured(line: &str) -> Value {
    let args = ["aerostat", "run"].into_iter().chain(line.split_whitespace());
    let Some(Command::Run(args)) = Cli::try_parse_from(args).expect(line).command else {
        panic!("not run: {line}")
    };
    let config = run::config(&args).expect(line);
    config.validate().expect(line);
    serde_json::to_value(config).expect("JSON")
}

#[test]
fn flags_become_a_configuration() {
    let config = configured(
        "--kernel /k --initrd /i --append quiet --memory 1G --cpus 2 --disk /a --disk /b,ro \
         --balloon 256 --balloon-stats 1 --balloon-deflate-on-oom --balloon-hinting --serial /s \
         --watermarks 512K,2,3M --compaction scanner --extfrag-threshold 1000 --proactiveness 0 \
         --net tap=tap0 --net mtu=9000,mac=02:00:00:00:00:0F,tap=tap1 \
         --swap 1G,tier=/t,compression=zstd,memory=256M,front=blk,timeout=5,tier=nbd://h/e",
    );
    let disk = |id: &str, path: &str, read_only: bool| {
        json!({"drive_id": id, "is_root_device": false, "path_on_host": path,
            "is_read_only": read_only, "partuuid": null, "cache_type": "Writeback", "io_engine": "Sync",
            "rate_limiter": null, "socket": null})
    };
    let card = |id: &str, tap: &str, mac: Value, mtu: Value| {
        json!({"iface_id": id, "host_dev_name": tap, "guest_mac": mac, "mtu": mtu, "rx_rate_limiter": null,
            "tx_rate_limiter": null})
    };
    assert_eq!(
        config,
        json!({
            "cpu-config": null,
            "entropy": null, "logger": null, "metrics": null, "mmds-config": null, "vsock": null, "pmem": [],
            "memory-hotplug": null,
            "boot-source": {"kernel_image_path": "/k", "initrd_path": "/i", "boot_args": "quiet"},
            "machine-config": {"vcpu_count": 2, "mem_size_mib": 1024, "smt": false,
                "track_dirty_pages": false, "huge_pages": "None"},
            "drives": [disk("disk0", "/a", false), disk("disk1", "/b", true)],
            "balloon": {"amount_mib": 256, "deflate_on_oom": true, "stats_polling_interval_s": 1,
                "free_page_hinting": true, "free_page_reporting": false},
            "memory": {"watermarks": {"min_kib": 512, "low_kib": 2048, "high_kib": 3072},
                "compaction": {"policy": "scanner", "extfrag_threshold": 1000, "proactiveness": 0}},
            "network-interfaces": [card("net0", "tap0", json!(null), json!(null)),
                card("net1", "tap1", json!("02:00:00:00:00:0f"), json!(9000))],
            "serial": {"serial_out_path": "/s"},
            "swap": {"size_mib": 1024, "memory_mib": 256, "compression": "zstd", "front": "blk", "tiers": ["/t", "nbd://h/e"],
                "tier_timeout": 5},
        })
    );
}

#[test]
fn a_flag_for_the_reserve_takes_the_place_of_what_a_file_says() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("vm.json");
    let file = json!({"boot-source": {"kernel_image_path": "/k"},
        "memory": {"limit_mib": 200, "watermarks": {"min_kib": 4, "low_kib": 8, "high_kib": 12}}});
    std::fs::write(&path, file.to_string()).expect("written");
    let memory = |flags: &str| {
        configured(&format!("--config-file {} --memory 128 {flags}", path.display()))["memory"].clone()
    };
    let watermarks = json!({"min_kib": 4, "low_kib": 8, "high_kib": 12});
    assert_eq!(memory(""), json!({"limit_mib": 200, "watermarks": watermarks}));
    assert_eq!(memory("--min-free 512K --memory-limit 150M"), json!({"limit_mib": 150, "min_free_kib": 512}));
    assert_eq!(memory("--min-free 0"), json!({"limit_mib": 200, "min_free_kib": 0}));
}

#[test]
fn a_guest_of_run_has_512_mib_and_an_empty_balloon() {
    let config = configured("--kernel /k");
    assert_eq!(config["machine-config"]["mem_size_mib"], 512);
    assert_eq!(config["balloon"]["amount_mib"], 0);
}

#[test]
fn the_first_disk_is_the_root_only_if_nothing_else_can_be() {
    let root = |line: &str| configured(line)["drives"][0]["is_root_device"].clone();
    assert_eq!(root("--kernel /k --disk /a"), true);
    assert_eq!(root("--kernel /k --disk /a --append root=/dev/vda2"), false);
    assert_eq!(root("--kernel /k --disk /a --initrd /i"), false);
}

#[test]
fn a_disk_is_named_by_its_path_or_by_parts() {
    let disk = |value: &str| {
        let drive = configured(&format!("--kernel /k --disk {value}"))["drives"][0].clone();
        (drive["path_on_host"].as_str().expect("a path").to_owned(), drive["is_read_only"] == true)
    };
    for (value, path, read_only) in [
        ("/a", "/a", false),
        ("/a,ro", "/a", true),
        ("/a,rw", "/a", false),
        ("/a,readonly=on", "/a", true),
        ("/a,readonly=off", "/a", false),
        ("/a,b,ro", "/a,b", true),
        ("path=/a", "/a", false),
        ("path=/a,readonly=on", "/a", true),
        ("path=/a,readonly=off", "/a", false),
        ("readonly=on,path=/a", "/a", true),
    ] {
        assert_eq!(disk(value), (path.to_owned(), read_only), "{value}");
    }
}

#[test]
fn a_size_may_have_a_point() {
    let config = configured("--kernel /k --memory 1.5G --balloon 0.5GiB --swap 1.5G,memory=512MiB");
    assert_eq!(config["machine-config"]["mem_size_mib"], 1536);
    assert_eq!(config["balloon"]["amount_mib"], 512);
    assert_eq!((&config["swap"]["size_mib"], &config["swap"]["memory_mib"]), (&json!(1536), &json!(512)));
}

#[test]
fn flags_change_what_a_file_says() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("vm.json");
    let file = json!({"boot-source": {"kernel_image_path": "/k", "initrd_path": "/i"},
        "machine-config": {"vcpu_count": 4, "mem_size_mib": 256},
        "memory": {"watermarks": {"min_kib": 4, "low_kib": 8, "high_kib": 12},
            "compaction": {"policy": "off", "proactiveness": 1}}});
    std::fs::write(&path, file.to_string()).expect("written");
    let config = configured(&format!("--config-file {} --memory 2G", path.display()));
    assert_eq!(config["boot-source"]["kernel_image_path"], "/k");
    assert_eq!(config["machine-config"]["vcpu_count"], 4);
    assert_eq!(config["machine-config"]["mem_size_mib"], 2048);
    assert_eq!(config["memory"]["watermarks"]["high_kib"], 12);
    assert_eq!(config["memory"]["compaction"], json!({"policy": "off", "proactiveness": 1}));
    assert_eq!(config["balloon"], json!(null));
    assert_eq!(config["boot-source"]["boot_args"], "console=ttyS0 reboot=k panic=-1");
    let config = configured(&format!(
        "--config-file {} --kernel /other --append quiet --watermarks 1,1,1 --proactiveness 2",
        path.display()
    ));
    assert_eq!(config["memory"]["watermarks"]["high_kib"], 1024);
    assert_eq!(config["memory"]["compaction"], json!({"policy": "off", "proactiveness": 2}));
    assert_eq!(
        config["boot-source"],
        json!({"kernel_image_path": "/other", "initrd_path": "/i", "boot_args": "quiet"})
    );
}

#[test]
fn a_wrong_swap_device_is_said_part_by_part() {
    for (device, sentence) in [
        ("0", "with 0 nothing can be stored"),
        ("1G,timeout=5", "timeout is a server's: name one with tier=NBD-URI"),
        ("abc", "\"abc\" is not a size"),
        (
            "1G,tier",
            "\"tier\" is not known, or given twice: write memory=SIZE, compression=lz4, zstd or none, front=net or blk, or timeout=SECONDS",
        ),
        ("1G,memory=1M,memory=2M", "\"memory=2M\" is not known, or given twice"),
        ("1G,front=scsi", "\"front=scsi\" is not known, or given twice"),
        ("1G,front=net,front=blk", "\"front=blk\" is not known, or given twice"),
        ("1G,compression=gzip", "gzip"),
        ("1G,tier=/t,timeout=x", "seconds"),
    ] {
        let said = refused(&format!("run --kernel k --swap {device}"));
        assert!(said.contains(&format!("Invalid value '{device}' for '--swap")), "{said}");
        assert!(said.contains(sentence), "{said}");
    }
}

#[test]
fn each_mistake_has_its_sentence() {
    for (line, sentence) in [
        (
            "run",
            "The following required arguments were not provided: --kernel <PATH>; see aerostat run --help.",
        ),
        (
            "run --kernel k --memory abc",
            "Invalid value 'abc' for '--memory <SIZE>': \"abc\" is not a size: write 512M, 1.5G, or a number of MiB; see aerostat run --help.",
        ),
        (
            "run --kernel k --memory 0",
            "Invalid value '0' for '--memory <SIZE>': a guest needs memory: write 512M, 1.5G, or a number of MiB; see aerostat run --help.",
        ),
        (
            "run --kernel k --memory -1",
            "Invalid value '-1' for '--memory <SIZE>': \"-1\" is not a size: write 512M, 1.5G, or a number of MiB; see aerostat run --help.",
        ),
        (
            "run --kernel k --watermarks 1,2",
            "Invalid value '1,2' for '--watermarks <MIN,LOW,HIGH>': \"1,2\" is not three sizes: write 4M,5M,6M for min, low and high; see aerostat run --help.",
        ),
        (
            "run --kernel k --compaction fast",
            "Invalid value 'fast' for '--compaction <POLICY>': \"fast\" is no policy: write occupancy, scanner or off; see aerostat run --help.",
        ),
        (
            "run --kernel k --extfrag-threshold 1001",
            "Invalid value '1001' for '--extfrag-threshold <N>': write a number from 0 to 1000; see aerostat run --help.",
        ),
        (
            "memory compaction --proactiveness -1",
            "Invalid value '-1' for '--proactiveness <N>': write a number from 0 to 100; see aerostat memory compaction --help.",
        ),
        (
            "memory reclaim 0",
            "Invalid value '0' for '<SIZE>': nothing would come back: write 512M, 1.5G, or a number of MiB; see aerostat memory reclaim --help.",
        ),
        (
            "run --kernel k --cpus abc",
            "Invalid value 'abc' for '--cpus <N>': a guest has 1 to 32 vCPUs; see aerostat run --help.",
        ),
        (
            "run --kernel k --cpus 33",
            "Invalid value '33' for '--cpus <N>': a guest has 1 to 32 vCPUs; see aerostat run --help.",
        ),
        (
            "run --kernel k --balloon-stats 1s",
            "Invalid value '1s' for '--balloon-stats <SECONDS>': write a number of seconds from 0 to 65535; see aerostat run --help.",
        ),
        (
            "balloon set 99999999999999T",
            "Invalid value '99999999999999T' for '<SIZE>': \"99999999999999T\" is more memory than any machine can have; see aerostat balloon set --help.",
        ),
        (
            "run --kernel k --net tap0",
            "Invalid value 'tap0' for '--net <tap=NAME[,...]>': \"tap0\" is not known: write tap=NAME, mac=MAC or mtu=BYTES, each once; see aerostat run --help.",
        ),
        (
            "run --kernel k --net mtu=1500",
            "Invalid value 'mtu=1500' for '--net <tap=NAME[,...]>': name a TAP interface of the host: write tap=NAME; see aerostat run --help.",
        ),
        (
            "run --kernel k --net tap=a,mtu=x",
            "Invalid value 'tap=a,mtu=x' for '--net <tap=NAME[,...]>': write a number of bytes from 68 to 65535 for mtu; see aerostat run --help.",
        ),
        ("frobnicate", "Unrecognized subcommand 'frobnicate'; see aerostat --help."),
        (
            "--no-api",
            "The following required arguments were not provided: --config-file <FILE>; see aerostat --help.",
        ),
        (
            "--id a/b",
            "Invalid value 'a/b' for '--id <ID>': an id has 1 to 64 letters, digits or hyphens; see aerostat --help.",
        ),
        ("balloon", "A command is missing after aerostat balloon: write set, get or stats."),
        (
            "memory",
            "A command is missing after aerostat memory: write show, buddy, types, zone, slabs, compaction, compact or reclaim.",
        ),
        ("swap", "A command is missing after aerostat swap: write show or serve."),
        ("bench", "A command is missing after aerostat bench: write hugepages."),
        (
            "run --kernal k",
            "Unexpected argument '--kernal' found: write --kernel, or see aerostat run --help.",
        ),
        (
            "swap serve --size 1G",
            "The following required arguments were not provided: <--socket <PATH>|--listen <ADDRESS:PORT>>; see aerostat swap serve --help.",
        ),
        (
            "swap serve --size 1G --socket /s --listen 127.0.0.1:1",
            "The argument '--socket <PATH>' cannot be used with '--listen <ADDRESS:PORT>'; see aerostat swap serve --help.",
        ),
        ("baloon set 1", "Unrecognized subcommand 'baloon': write balloon, or see aerostat --help."),
        ("balloon sett 1", "Unrecognized subcommand 'sett': write set, or see aerostat balloon --help."),
        (
            "balloon set 1 --wait=hosts",
            "Invalid value 'hosts' for '--wait[=<WHOM>]' [possible values: guest, host]: write host, or see aerostat balloon set --help.",
        ),
        (
            "--kernel k",
            "Unexpected argument '--kernel' found: write aerostat run --kernel, or see aerostat --help.",
        ),
        ("--api-sok s", "Unexpected argument '--api-sok' found: write --api-sock, or see aerostat --help."),
        (
            "run --kernel k --disk path=/a,cache=none",
            "Invalid value 'path=/a,cache=none' for '--disk <PATH[,ro]>': \"cache=none\" is not known, or given twice: write path=PATH, and readonly=on or readonly=off, each once; see aerostat run --help.",
        ),
        (
            "run --kernel k --disk ,ro",
            "Invalid value ',ro' for '--disk <PATH[,ro]>': name a disk image or a block device: write PATH, or path=PATH; see aerostat run --help.",
        ),
        (
            "run --kernel k --disk x,foo",
            "Invalid value 'x,foo' for '--disk <PATH[,ro]>': \"foo\" is not known: write PATH, or PATH,ro for a read-only disk; see aerostat run --help.",
        ),
        (
            "run --kernel k --memory 99999G",
            "Invalid value '99999G' for '--memory <SIZE>': \"99999G\" is more than a guest can have, which is 15T; see aerostat run --help.",
        ),
        (
            "stop --timeout -1",
            "Invalid value '-1' for '--timeout <SECONDS>': write a number of seconds from 0 to 65535; see aerostat stop --help.",
        ),
        (
            "stop --id=",
            "Invalid value '' for '--id <ID>': name a guest as aerostat list shows it; see aerostat stop --help.",
        ),
        ("help bogus", "Unrecognized subcommand 'bogus'; see aerostat --help."),
        ("help baloon", "Unrecognized subcommand 'baloon': write balloon, or see aerostat --help."),
        (
            "balloon set",
            "The following required arguments were not provided: <SIZE>; see aerostat balloon set --help.",
        ),
        ("list --api-sock /s", "Unexpected argument '--api-sock' found; see aerostat list --help."),
    ] {
        assert_eq!(refused(line), sentence);
    }
}

#[test]
fn firecrackers_arguments_need_no_command() {
    let line = ["aerostat", "--api-sock", "/a", "--id", "vm-1", "--config-file", "/c", "--no-api"];
    let cli = Cli::try_parse_from(line).expect("parses");
    assert!(cli.command.is_none() && cli.serve.no_api);
    assert_eq!((cli.serve.id.as_str(), cli.serve.api_sock.to_str()), ("vm-1", Some("/a")));
}

#[test]
fn the_sockets_mode_is_the_owners_unless_it_is_said() {
    let mode = |line: &str| {
        let cli = Cli::try_parse_from(line.split_whitespace()).expect(line);
        match cli.command {
            Some(Command::Run(args)) => args.api_sock_mode.to_string(),
            _ => cli.serve.api_sock_mode.to_string(),
        }
    };
    assert_eq!(mode("aerostat --api-sock /a"), "600");
    assert_eq!(mode("aerostat --api-sock /a --api-sock-mode 660"), "660");
    assert_eq!(mode("aerostat run --kernel /k"), "600");
    assert_eq!(mode("aerostat run --kernel /k --api-sock /a --api-sock-mode 0606"), "606");
    assert_eq!(
        refused("run --kernel /k --api-sock /a --api-sock-mode rw"),
        "Invalid value 'rw' for '--api-sock-mode <MODE>': \"rw\" is no mode: write permission bits in octal, say \
         660; see aerostat run --help."
    );
    assert!(refused("run --kernel /k --api-sock-mode 660").contains("--api-sock <PATH>"));
}

#[test]
fn the_examples_are_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs");
    let readme = std::fs::read_to_string(format!("{folder}/README.md")).expect("README.md");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("configs") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        count += 1;
        let config = serve::read_config(&path).unwrap_or_else(|error| panic!("{path:?}: {error:#}"));
        config.validate().unwrap_or_else(|error| panic!("{path:?}: {error}"));
        config.require_boot_source().unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        assert!(readme.contains(&name), "README.md does not explain {name}");
        // Every field that an example uses is explained.
        let value: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
        for (section, fields) in value.as_object().expect("object") {
            let fields = fields.as_array().and_then(|all| all.first()).unwrap_or(fields);
            for field in fields.as_object().into_iter().flat_map(|fields| fields.keys()) {
                assert!(
                    readme.contains(&format!("`{field}`")),
                    "README.md does not explain {section} {field}"
                );
            }
        }
    }
    assert_eq!(count, 5);
}

#[test]
fn a_configuration_file_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("vm.json");
    let read = || format!("{:#}", serve::read_config(&path).expect_err("refused"));
    assert!(read().contains("cannot be read: No such file"), "{}", read());
    std::fs::write(&path, r#"{"boot-source": {"kernel": "/k"}}"#).expect("written");
    assert!(read().contains("is not valid: boot-source.kernel: unknown field `kernel`"), "{}", read());
    std::fs::write(&path, r#"[{"kernel_image_path": "/k"}]"#).expect("written");
    assert!(read().ends_with("is not valid: it must be a JSON object."), "{}", read());
    std::fs::write(&path, r#"{"drives": [], "swap": [64]}"#).expect("written");
    assert!(read().ends_with("is not valid: swap must be a JSON object."), "{}", read());
    for (section, value) in [
        ("vsock", r#"{"guest_cid": 3}"#),
        ("mmds-config", r#"{"network_interfaces": ["eth0"]}"#),
        ("cpu-config", r#""/template""#),
        ("pmem", r#"[{"id": "a"}]"#),
        ("memory-hotplug", r#"{"total_size_mib": 1}"#),
    ] {
        std::fs::write(&path, format!(r#"{{"{section}": {value}}}"#)).expect("written");
        let refused = format!("{section}: Aerostat does not have this section yet: remove it");
        assert!(read().contains(&refused), "{}", read());
    }
    std::fs::write(&path, " ".repeat((1 << 20) + 1)).expect("written");
    assert!(read().ends_with("is longer than 1 MiB."), "{}", read());
}

#[test]
fn sections_without_anything_are_taken_and_unknown_ones_are_said_in_the_log() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (path, log) = (dir.path().join("vm.json"), dir.path().join("log"));
    let file = json!({
        "balloon": null, "drives": null, "machine-config": null, "network-interfaces": [], "logger": {}, "metrics": null,
        "vsock": {}, "mmds-config": null, "cpu-config": {"kvm_capabilities": []}, "pmem": [], "memory-hotplug": {},
        "memory": null, "swap": null, "serial": {}, "x\ny": [1], "gdb": {"socket": "/s"}
    });
    std::fs::write(&path, file.to_string()).expect("written");
    let logger = Logger::new("vm7");
    logger
        .configure(&LoggerConfig { log_path: Some(log.clone()), ..LoggerConfig::default() })
        .expect("a log");
    let config =
        tracing::subscriber::with_default(logger.subscriber(), || serve::read_config(&path)).expect("read");
    let all = VmConfig {
        logger: Some(LoggerConfig::default()),
        serial: Some(SerialConfig::default()),
        ..VmConfig::default()
    };
    assert_eq!(config, all);
    let said = std::fs::read_to_string(log).expect("log");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        said.contains("a section \"gdb\", which nobody knows") && said.contains(r#"a section "x\ny""#),
        "{said}"
    );
}

#[test]
fn every_section_is_known_by_its_name() {
    let all = json!({"swap": {"size_mib": 1}, "serial": {}, "memory": {"limit_mib": 1}});
    let config: VmConfig = serde_json::from_value(all).expect("fits");
    let Value::Object(sections) = serde_json::to_value(config).expect("JSON") else { panic!("an object") };
    assert_eq!(sections.len(), 16);
    assert!(sections.keys().all(|section| VmConfig::has_section(section)));
}

/// What `aerostat …` without a command is told.
fn told(line: &str) -> ServeArgs {
    Cli::try_parse_from(std::iter::once("aerostat").chain(line.split_whitespace())).expect(line).serve
}

#[test]
fn all_of_firecrackers_flags_are_taken() {
    let args = told(
        "--api-sock /a --id vm-1 --no-seccomp --start-time-us 1 --start-time-cpu-us 2 --parent-cpu-time-us 3 \
         --boot-timer --level debug --log-path /l --module vmm --show-level --show-log-origin --metrics-path /m \
         --http-api-max-payload-size 100000 --mmds-size-limit 7",
    );
    assert_eq!(args.http_api_max_payload_size, 100_000);
    assert_eq!(args.absent.refusal(), None);
    let logger = args.outputs.logger().expect("a log is asked for");
    assert_eq!(
        serde_json::to_value(logger).expect("JSON"),
        json!({"log_path": "/l", "level": "Debug", "show_level": true, "show_log_origin": true, "module": "vmm"})
    );
    let metrics = args.outputs.metrics().expect("metrics are asked for");
    assert_eq!(serde_json::to_value(metrics).expect("JSON"), json!({"metrics_path": "/m", "emit_id": false}));
    let startup = args.started.until_now();
    assert!(startup.wall_us > 3 && startup.cpu_us > 3, "{startup:?}");

    let none = told("--seccomp-filter /f");
    assert_eq!((none.outputs.logger(), none.outputs.metrics()), (None, None));
    assert_eq!(none.http_api_max_payload_size, 51_200);
    assert_eq!(none.started.until_now(), Startup::default());
}

#[test]
fn flags_for_what_is_not_there_have_a_sentence() {
    for (line, sentence) in [
        ("--metadata /m", "--metadata asks for MMDS, which"),
        ("--enable-pci", "--enable-pci asks for a PCI bus, which"),
        ("--snapshot-version", "--snapshot-version asks for the format of snapshots, which"),
        ("--describe-snapshot /s", "--describe-snapshot asks what is in a snapshot, which"),
    ] {
        let refusal = told(line).absent.refusal().expect(line);
        assert!(refusal.starts_with(sentence), "{refusal}");
    }
}

#[test]
fn who_names_a_command_is_told_of_mistakes_as_is_usual() {
    for (line, names) in
        [("run --x", true), ("balloon", true), ("frobnicate", true), ("--x", false), ("--x run", false)]
    {
        assert_eq!(!mistake::is_of_firecracker(&arguments(line)), names, "{line}");
    }
}

#[test]
fn the_first_line_of_the_version_is_firecrackers() {
    let (version, ours) = (mistake::version(), env!("CARGO_PKG_VERSION"));
    let first = version.lines().next().expect("a line");
    let numbers: Vec<_> = first.strip_prefix("Firecracker v").expect(first).split('.').collect();
    assert!(numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok()), "{first}");
    assert!(version.contains(&format!("Aerostat v{ours}")), "{version}");
}

#[test]
fn a_benchmark_takes_lists_and_says_what_may_be_in_them() {
    let args = |line: &str| {
        let args = ["aerostat", "bench", "hugepages"].into_iter().chain(line.split_whitespace());
        let Some(Command::Bench(args)) = Cli::try_parse_from(args).expect(line).command else {
            panic!("not bench: {line}")
        };
        let BenchCommand::Hugepages(args) = args.command;
        args
    };
    let default = args("");
    assert_eq!((default.memory.0, default.unmovable, default.policy.len()), (1024, vec![0, 1, 5], 4));
    let some = args("--policy kernel,off --unmovable 2 --pattern half,every --memory 256M");
    assert_eq!(some.policy.iter().map(ToString::to_string).collect::<Vec<_>>(), ["kernel", "off"]);
    assert_eq!(some.pattern.iter().map(ToString::to_string).collect::<Vec<_>>(), ["half", "every"]);
    assert!(refused("bench hugepages --policy x").contains("write off, scanner, occupancy or kernel"));
    assert!(refused("bench hugepages --unmovable 51").contains("a whole percentage from 0 to 50"));
}

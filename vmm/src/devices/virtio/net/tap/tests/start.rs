//! A start of a guest that fails when its network card is there already.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

use super::has_a_network;
use crate::api::controller::{ControlError, Controller};
use crate::api::{logger::Logger, sentence};
use crate::arch::kernel::tests::elf;
use crate::vm::{exit::ExitSlot, kvm, machine::KvmLauncher};

/// Where [`elf`] is entered.
const ENTRY: usize = 0x840;
/// `hlt`, again and again.
const IDLE: [u8; 3] = [0xF4, 0xEB, 0xFD];

fn run(command: &str) -> String {
    let said = Command::new("sh").args(["-c", command]).output().expect("sh");
    assert!(said.status.success(), "{command}: {said:?}");
    String::from_utf8(said.stdout).expect("text")
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("fits")
}

#[test]
fn an_interface_and_its_address_outlive_a_start_that_fails() {
    if !has_a_network("start::an_interface_and_its_address_outlive_a_start_that_fails") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let kernel = dir.path().join("kernel");
    fs::write(&kernel, "This is none, which is seen when all devices are there.").expect("written");
    let exit = Arc::new(ExitSlot::default());
    let mut controller = Controller::new("vm7".to_owned(), Arc::new(KvmLauncher), Logger::new("vm7"), exit);
    controller.set_boot_source(of(json!({"kernel_image_path": kernel}))).expect("set");
    controller.set_serial(of(json!({"serial_out_path": dir.path().join("console")}))).expect("set");
    // One that is made, and one that was there.
    for name in ["tap1", "tap0"] {
        let card = json!({"iface_id": name, "host_dev_name": name});
        controller.set_network_interface(name, of(card)).expect("set");
    }
    run("ip addr add 10.1.0.1/24 dev tap1 && ip link set tap1 up");
    let look = || run("ip -4 -o addr show dev tap0 && ip -4 -o addr show dev tap1");
    let before = look();
    assert!(before.contains("10.0.0.1/24") && before.contains("10.1.0.1/24"), "{before}");

    let refused = |start: Result<(), ControlError>| sentence(&start.expect_err("refused"));
    for _ in 0..2 {
        let said = refused(controller.start());
        assert!(said.contains("is neither") || kvm::open().is_err(), "{said}");
        assert_eq!(look(), before);
    }
    let mut idle = elf(b"Xen\0", 0x800, 0x1000);
    idle[ENTRY..ENTRY + IDLE.len()].copy_from_slice(&IDLE);
    fs::write(&kernel, idle).expect("written");
    match kvm::open() {
        Ok(_) => controller.start().expect("it has all that it needs now"),
        Err(error) => assert!(refused(controller.start()).contains(&sentence(&error))),
    }
    assert_eq!(look(), before);
    controller.shut_down().expect("it ends");
}

//! Images that are not raw are refused wherever a disk is named, with the command that makes them raw.

use std::fs;

use serde_json::json;
use tempfile::TempDir;
use vmm::api::client::ClientError;

use super::{super::monitor::Monitor, aerostat};

/// A kernel that is none, and an image.
fn files(magic: &[u8]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let mut image = magic.to_vec();
    image.resize(64 << 10, 0);
    fs::write(directory.path().join("x.img"), image).expect("written");
    fs::write(directory.path().join("kernel"), "k").expect("written");
    directory
}

#[test]
fn an_image_that_is_not_raw_is_refused_with_the_command_that_converts_it() {
    let directory = files(b"QFI\xfb\0\0\0\x03");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (kernel, image) = (path("kernel"), path("x.img"));
    let sentence = format!(
        "The disk {image} looks like a qcow2 image, but disks are raw: convert it \
         (qemu-img convert -O raw {image} {}), unless its own guest may have made it look so (docs/operate.md).",
        path("x.raw")
    );

    for disk in [image.clone(), format!("path={image},readonly=on")] {
        let said = aerostat(["run", "--kernel", &kernel, "--disk", &disk]);
        assert_eq!((said.code, said.err.trim_end()), (Some(1), format!("aerostat: {sentence}").as_str()));
    }

    let drive = json!({"drive_id": "d", "path_on_host": image, "is_root_device": true});
    let config = json!({"boot-source": {"kernel_image_path": kernel}, "drives": [drive]});
    fs::write(path("vm.json"), config.to_string()).expect("written");
    let (file, socket) = (path("vm.json"), path("sock"));
    let said = aerostat(["--api-sock", &socket, "--config-file", &file]);
    assert_eq!((said.code, said.err.trim_end()), (Some(1), format!("aerostat: {sentence}").as_str()));

    let monitor = Monitor::start(&["env"], &[]);
    let answer = monitor.client().put::<()>("/drives/d", &drive);
    assert!(matches!(&answer, Err(ClientError::Refused(why)) if *why == sentence), "{answer:?}");
    monitor.finish();
}

#[test]
fn a_raw_disk_is_taken() {
    let directory = files(b"\xeb\x63\x90");
    let monitor = Monitor::start(&["env"], &[]);
    let drive =
        json!({"drive_id": "d", "path_on_host": directory.path().join("x.img"), "is_root_device": true});
    monitor.client().put::<()>("/drives/d", &drive).expect("a raw disk");
    monitor.finish();
}

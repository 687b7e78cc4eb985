//! Answers of `--json` have a version, and the fields that `docs/json.md` lists for the command.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{super::monitor::Monitor, aerostat, said};

/// Fields that the page lists under a heading.
fn listed(heading: &str) -> BTreeSet<String> {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/json.md")).expect("the page");
    let (_, part) =
        page.split_once(&format!("\n### {heading}\n\n```text\n")).unwrap_or_else(|| panic!("no {heading}"));
    let (block, _) = part.split_once("```").expect("the end of the block");
    block.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Paths of all fields of a value.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(all) => {
            for (name, value) in all {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                found.insert(path.clone());
                fields(value, &path, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

/// The text is an answer with these fields, none of them missing.
fn check(heading: &str, text: &str) {
    let answer: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{heading}: {error}: {text}"));
    let mut found = BTreeSet::new();
    fields(&answer, "", &mut found);
    assert_eq!(answer["version"], 1, "{heading}: {text}");
    assert!(text.trim_start_matches(['{', ' ', '\n']).starts_with("\"version\""), "{heading}: {text}");
    assert_eq!(found, listed(heading), "{heading}: {text}");
}

#[test]
fn answers_have_the_fields_of_the_page() {
    check("aerostat check", &said("check --json").out);
    check("A command that fails", &said("balloon get --json --api-sock /nowhere").err);
    check("A command that fails", &said("balloon set x --json").err);
    let bench = "bench hugepages --json --memory 128M --policy occupancy,kernel --unmovable 0";
    check("aerostat bench hugepages", &said(bench).out);
}

#[test]
fn answers_of_a_guest_have_them_too() {
    let monitor = Monitor::start(&["env"], &[]);
    let socket = monitor.directory().join("api.sock");
    let balloon = json!({"amount_mib": 0, "deflate_on_oom": false});
    monitor.client().put::<()>("/balloon", &balloon).expect("a balloon");
    let said = aerostat(["balloon", "get", "--json", "--api-sock", &socket.display().to_string()]);
    check("aerostat balloon get", &said.out);
    monitor.finish();

    let monitor = Monitor::start(&["env"], &["--json"]);
    monitor.signal(Signal::TERM);
    check("aerostat", &monitor.end());
}

#[test]
fn a_device_that_is_served_says_where() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aerostat"));
    command.args(["swap", "serve", "--json", "--listen", "127.0.0.1:0", "--size", "16M"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("aerostat");
    let mut text = String::new();
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
    while !text.ends_with("}\n") && lines.read_line(&mut text).expect("a line") > 0 {}
    kill_process(Pid::from_child(&child), Signal::TERM).expect("a signal");
    child.wait().expect("its end");
    check("aerostat swap serve", &text);
}

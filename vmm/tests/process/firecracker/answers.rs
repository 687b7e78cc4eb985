//! The monitor answers as the description says.

use std::process::Command;

use hyper::Method;
use serde_json::{Map, Value, json};
use vmm::api::client::ClientError;

use super::{Api, Call, Field, Flag, Is, Section, When, api, with_files};
use crate::monitor::Monitor;

const BEFORE: &str = "The requested operation is not supported before starting the microVM.";
const NONSENSE: &str = "The body of the request is not valid";

/// What a call came to.
#[derive(Debug, PartialEq)]
enum Answer {
    /// What was given, `null` if nothing.
    Given(Value),
    /// Why not.
    Refused(String),
}

/// A monitor that is asked for a call.
struct Asked<'a> {
    call: &'a Call,
    monitor: Monitor,
}

impl<'a> Asked<'a> {
    fn new(call: &'a Call) -> Self {
        let asked = Self { call, monitor: Monitor::start(&["env"], &[]) };
        std::fs::write(asked.monitor.directory().join("file"), "a file").expect("written");
        for (call, body) in &call.first {
            let (verb, path) = call.split_once(' ').expect("verb and path");
            assert_eq!(asked.send(verb, path, Some(body)), Answer::Given(Value::Null), "{call}");
        }
        asked
    }

    fn send(&self, verb: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(|body| with_files(body, self.monitor.directory()).to_string());
        let verb = Method::from_bytes(verb.as_bytes()).expect("a verb");
        match self.monitor.client().call(verb, path, body.unwrap_or_default().into_bytes()) {
            Ok(answer) => Answer::Given(answer),
            Err(ClientError::Refused(sentence)) => Answer::Refused(sentence),
            Err(ClientError::NotStarted) => Answer::Refused(BEFORE.to_owned()),
            Err(error) => panic!("{}: {error:?}", self.call.call),
        }
    }

    /// Makes the call that is described, with this body.
    fn call(&mut self, body: Option<&Value>) -> Answer {
        if self.call.once {
            self.monitor = Self::new(self.call).monitor;
        }
        let (verb, path) = self.call.call.split_once(' ').expect("verb and path");
        self.send(verb, self.call.path.as_deref().unwrap_or(path), body)
    }

    /// What the configuration shows of a field.
    fn shown(&self, field: &str) -> Option<Value> {
        let Answer::Given(config) = self.send("GET", "/vm/config", None) else { panic!("no configuration") };
        config.pointer(self.call.seen.as_deref()?)?.get(field).cloned()
    }

    /// Whether that is what should come of something right.
    fn is_accepted(&self, answer: &Answer) -> bool {
        match (self.call.when, answer) {
            (When::Always, Answer::Given(_)) | (When::Host, Answer::Given(Value::Null)) => true,
            (When::After, Answer::Refused(sentence)) => sentence == BEFORE,
            (When::Host, Answer::Refused(sentence)) => !sentence.starts_with(NONSENSE),
            _ => false,
        }
    }
}

/// The body with this field.
fn with(body: &Map<String, Value>, name: &str, value: &Value) -> Value {
    let mut body = body.clone();
    body.insert(name.to_owned(), value.clone());
    Value::Object(body)
}

fn check_call(call: &Call) {
    let mut asked = Asked::new(call);
    let name = &call.call;
    let body = call.body.clone().map(Value::Object);
    let answer = asked.call(body.as_ref());
    if call.is == Is::No {
        let Answer::Refused(sentence) = answer else { panic!("{name}: {answer:?}") };
        return assert!(sentence.starts_with(&call.answer), "{name}: {sentence}");
    }
    assert!(asked.is_accepted(&answer), "{name}: {answer:?}");
    let Some(body) = &call.body else { return check_given(call, &answer) };
    if !name.starts_with("GET") && call.when == When::Always {
        assert_eq!(answer, Answer::Given(Value::Null), "{name} answers something");
    }
    let unknown = asked.call(Some(&with(body, "nobody_knows", &json!(1))));
    assert!(is_nonsense(&unknown, "unknown field `nobody_knows`"), "{name}: {unknown:?}");
    for field in &call.fields {
        check_field(&mut asked, body, field);
    }
}

fn is_nonsense(answer: &Answer, why: &str) -> bool {
    matches!(answer, Answer::Refused(sentence) if sentence.starts_with(NONSENSE) && sentence.contains(why))
}

fn check_field(asked: &mut Asked<'_>, body: &Map<String, Value>, field: &Field) {
    let name = format!("{}: {} {}", asked.call.call, field.name, field.value);
    let answer = asked.call(Some(&with(body, &field.name, &field.value)));
    match (&field.answer, &answer) {
        (Some(begin), Answer::Refused(sentence)) => {
            assert!(sentence.starts_with(begin), "{name}: {sentence}")
        }
        (None, _) if field.is != Is::No => {
            assert!(asked.is_accepted(&answer), "{name}: {answer:?}");
            check_shown(asked, field, field.shown.as_ref().unwrap_or(&field.value));
        }
        _ => panic!("{name}: {answer:?}"),
    }
    let answer = asked.call(Some(&with(body, &field.name, &Value::Null)));
    if field.null {
        assert!(asked.is_accepted(&answer), "{name}, null: {answer:?}");
        check_shown(asked, field, &field.null_shown);
    } else if !asked.call.fields.iter().any(|other| other.name == field.name && other.null) {
        // Of a field with several values one says whether it may be null.
        assert!(!asked.is_accepted(&answer), "{name}, null: {answer:?}");
    }
    if field.required {
        let mut without = body.clone();
        without.remove(&field.name);
        let answer = asked.call(Some(&Value::Object(without)));
        assert!(!asked.is_accepted(&answer), "{name} is required: {answer:?}");
    }
}

fn check_shown(asked: &Asked<'_>, field: &Field, value: &Value) {
    if asked.call.seen.is_none() {
        return;
    }
    let shown = asked.shown(&field.name).unwrap_or_default();
    let value = with_files(value, asked.monitor.directory());
    // What may be left out of an object is shown as null.
    let is_same = match (&shown, &value) {
        (Value::Object(shown), Value::Object(value)) => {
            value.iter().all(|(name, value)| shown.get(name).unwrap_or(&Value::Null) == value)
        }
        _ => shown == value,
    };
    assert!(is_same, "{}: {} is shown as {shown}, and not {value}", asked.call.call, field.name);
}

/// Fields of an answer are there, or would be: then our own description has them.
fn check_given(call: &Call, answer: &Answer) {
    let description: Value = serde_json::from_str(vmm::api::openapi::CHECKED_IN).expect("our description");
    for field in &call.gives {
        let name = format!("{}: {}", call.call, field.name);
        if let Answer::Given(given) = answer {
            assert_eq!(given.get(&field.name).is_some(), field.is != Is::No, "{name} in {given}");
            if let Some(value) = &field.value {
                assert_eq!(given.get(&field.name), Some(value), "{name}");
            }
        } else {
            assert!(gives(&description, &call.call, &field.name), "{name} is not described");
        }
    }
}

/// Whether the answer of a call has a field, as our description has it.
fn gives(description: &Value, call: &str, field: &str) -> bool {
    let (verb, path) = call.split_once(' ').expect("verb and path");
    let answer = &description["paths"][path][verb.to_ascii_lowercase()]["responses"]["200"];
    has_field(description, &answer["content"]["application/json"]["schema"], field)
}

fn has_field(description: &Value, schema: &Value, field: &str) -> bool {
    let referred = schema["$ref"].as_str().and_then(|at| description.pointer(at.trim_start_matches('#')));
    let parts = schema["allOf"].as_array().into_iter().flatten().chain(referred);
    schema["properties"].get(field).is_some()
        || parts.into_iter().any(|part| has_field(description, part, field))
}

#[test]
fn every_call_of_firecrackers_is_answered_as_described() {
    let Api { calls, .. } = api();
    calls.iter().for_each(check_call);
}

/// Starts the monitor with these arguments, which end it; its exit code, and what it said.
fn ended(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_aerostat")).args(args).output().expect("the monitor runs");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code(), text.concat())
}

#[test]
fn every_section_of_a_configuration_file_is_taken_as_described() {
    let check = |section: &Section| {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::write(directory.path().join("file"), "no kernel").expect("written");
        let key = section.key.as_ref().unwrap_or(&section.name);
        // A kernel that is none ends the monitor when all else is right.
        let boot = json!({"kernel_image_path": "$FILE"});
        let file = with_files(&json!({"boot-source": boot, key.as_str(): section.value}), directory.path());
        let path = directory.path().join("vm.json");
        std::fs::write(&path, file.to_string()).expect("written");
        let (code, said) = ended(&["--no-api", "--config-file", &path.display().to_string()]);
        assert_eq!(code, Some(1), "{key}: {said}");
        assert!(said.contains(&section.answer), "{key}: {said}");
        let is_refused = said.contains("is not valid") || said.contains("nobody knows");
        assert_eq!(is_refused, section.is == Is::No, "{key}: {said}");
    };
    let Api { sections, .. } = api();
    sections.iter().for_each(check);
}

#[test]
fn every_flag_of_firecrackers_is_taken_as_described() {
    let check = |Flag { flag, value, is, answer, .. }: &Flag| {
        let directory = tempfile::tempdir().expect("temporary directory");
        let value = value.as_ref().map(|value| with_files(&json!(value), directory.path()));
        let mut args = vec![flag.as_str()];
        args.extend(value.as_ref().and_then(Value::as_str));
        match (flag.as_str(), is) {
            // Other tests start the monitor with these.
            ("--api-sock" | "--config-file" | "--no-api" | "--version", _) => {}
            (_, Is::No) => {
                let (code, said) = ended(&args);
                assert_eq!((code, said), (Some(153), format!("aerostat: {answer}\n")), "{flag}");
            }
            _ => Monitor::start(&["env"], &args).finish(),
        }
    };
    let Api { flags, .. } = api();
    flags.iter().for_each(check);
}

#[test]
fn the_first_line_of_the_version_is_what_the_api_says() {
    let (code, said) = ended(&["--version"]);
    let monitor = Monitor::start(&["env"], &[]);
    let version: Value = monitor.client().get("/version").expect("answers");
    let version = version["firecracker_version"].as_str().expect("text");
    assert_eq!(code, Some(0));
    assert_eq!(said.lines().next(), Some(format!("Firecracker v{version}").as_str()));
    monitor.finish();
}

#[test]
fn wrong_arguments_end_with_firecrackers_code_unless_a_command_is_named() {
    for (args, code) in [
        (&["--nobody-knows"][..], 153),
        (&["--id", "a/b"], 153),
        (&["--no-api"], 153),
        (&["--level", "loud"], 153),
        (&["--no-seccomp", "--seccomp-filter", "/f"], 153),
        (&["--no-seccomp", "--no-seccomp"], 153),
        (&["run", "--nobody-knows"], 2),
        (&["balloon", "set"], 2),
    ] {
        let (ended, said) = ended(args);
        assert_eq!(ended, Some(code), "{args:?}: {said}");
        assert!(said.starts_with("aerostat: ") && said.lines().count() == 1, "{args:?}: {said}");
    }
}

#[test]
fn the_longest_body_is_as_long_as_it_is_said() {
    let monitor = Monitor::start(&["env"], &["--http-api-max-payload-size", "100"]);
    let call = |length: usize| {
        let body = format!("{{{}}}", " ".repeat(length - 2));
        monitor.client().call(Method::PUT, "/serial", body.into_bytes())
    };
    assert!(call(100).is_ok());
    let refused = call(101).expect_err("refused").to_string();
    assert_eq!(refused, "The body of the request is longer than 100 bytes.");
    monitor.finish();
}

#[test]
fn outputs_can_be_set_by_flags() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (log, metrics) = (path("log"), path("metrics"));
    let args = ["--log-path", &log, "--level", "info", "--show-log-origin", "--metrics-path", &metrics];
    let monitor = Monitor::start(&["env"], &args);
    let again =
        monitor.client().call(Method::PUT, "/metrics", json!({"metrics_path": metrics}).to_string().into());
    assert!(again.expect_err("refused").to_string().starts_with("Metrics were configured before"));
    let logger = monitor.client().call(Method::PUT, "/logger", json!({"level": "Info"}).to_string().into());
    logger.expect("a client may still say where the log goes");
    monitor.finish();
    let said = std::fs::read_to_string(log).expect("log");
    assert!(said.contains(" INFO [vmm/src/cli/session.rs:") && said.contains("The end: "), "{said}");
    assert_eq!(
        std::fs::read_to_string(metrics).expect("metrics"),
        "",
        "a guest that never was counts nothing"
    );
}

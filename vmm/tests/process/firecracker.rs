//! Firecracker's API as `firecracker.json` describes it: that the monitor answers as it says, and that `docs/firecracker.md`
//! says the same.

mod answers;
mod page;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

/// The description.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Api {
    /// Version of Firecracker's own description that this is of.
    swagger: String,
    calls: Vec<Call>,
    sections: Vec<Section>,
    flags: Vec<Flag>,
    /// Counters of the metrics file that stay 0, by group, or "all". A test of the library's compares them with what is counted.
    silent: BTreeMap<String, Vec<String>>,
}

/// Whether something of Firecracker's is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Is {
    /// It does what it does in Firecracker, or what the note says.
    Yes,
    /// It is accepted and shown again, and has no effect.
    Kept,
    /// It is refused, or ignored, with a sentence.
    No,
}

/// When the monitor can answer a call as it is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    #[default]
    Always,
    /// When a guest runs. Before, what is right is refused for that.
    After,
    /// It depends on the host. Where that cannot do it, what is right is refused for another reason than that it makes no sense.
    Host,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    /// Verb and path as they are described.
    call: String,
    /// Path as it is called, if there is an id in it.
    path: Option<String>,
    is: Is,
    #[serde(default)]
    note: String,
    #[serde(default)]
    when: When,
    /// Whether it can be done once.
    #[serde(default)]
    once: bool,
    /// Calls to make before.
    #[serde(default)]
    first: Vec<(String, Value)>,
    /// The least that may be sent.
    body: Option<Map<String, Value>>,
    /// What a refusal begins with.
    #[serde(default)]
    answer: String,
    /// Where `GET /vm/config` shows it.
    seen: Option<String>,
    #[serde(default)]
    fields: Vec<Field>,
    /// Fields of the answer.
    #[serde(default)]
    gives: Vec<Given>,
}

/// A field of a body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    name: String,
    is: Is,
    #[serde(default)]
    note: String,
    value: Value,
    #[serde(default)]
    required: bool,
    /// Whether it may be `null`.
    #[serde(default)]
    null: bool,
    /// What is shown of the value, if that is something else.
    #[serde(default, deserialize_with = "some")]
    shown: Option<Value>,
    /// The same of `null`.
    #[serde(default)]
    null_shown: Value,
    /// What a refusal begins with.
    answer: Option<String>,
}

/// A field of an answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    name: String,
    is: Is,
    #[serde(default)]
    note: String,
    #[serde(default, deserialize_with = "some")]
    value: Option<Value>,
}

/// A section of a configuration file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    name: String,
    /// Its name in the file, if that is another.
    key: Option<String>,
    is: Is,
    value: Value,
    #[serde(default)]
    note: String,
    #[serde(default)]
    answer: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flag {
    flag: String,
    value: Option<String>,
    is: Is,
    #[serde(default)]
    note: String,
    #[serde(default)]
    answer: String,
}

/// A value that is there, though it may be `null`.
fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

fn api() -> Api {
    serde_json::from_str(include_str!("firecracker.json")).expect("the description is as it should be")
}

/// Puts files in `directory` in the place of `$FILE`, which is there, and `$NEW`, which is not.
fn with_files(value: &Value, directory: &Path) -> Value {
    match value {
        Value::String(text) => {
            let path = |name: &str| directory.join(name).display().to_string();
            text.replace("$FILE", &path("file")).replace("$NEW", &path("new")).into()
        }
        Value::Array(items) => items.iter().map(|item| with_files(item, directory)).collect(),
        Value::Object(fields) => {
            let with = |(name, field): (&String, &Value)| (name.clone(), with_files(field, directory));
            Value::Object(fields.iter().map(with).collect())
        }
        other => other.clone(),
    }
}

//! `docs/json.md` lists what each command answers with `--json`: the fields that the types of the answers have.

#[path = "../../../tests/process/made.rs"]
mod made;

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::{Command, CommandFactory};
use memsvc::stats::{BuddyInfo, Compacted, CompactionInfo, Reclaimed, SlabInfo, TypeInfo, ZoneInfo};
use serde_json::Value;
use utoipa::ToSchema;

use super::super::{
    args::Cli, balloon::Balloon, check::CheckReport, list::Listed, output, state::Done, stop::Stopped,
    swap::Served,
};
use crate::{
    api::types::{BalloonProgress, BalloonStats, MemoryReport, SwapReport},
    bench::Report,
};

/// A line before the lists, and one after them.
const BEGIN: &str = "<!-- The lists are made by a test from the types of the answers. -->\n";
const END: &str = "<!-- End of the lists. -->\n";

/// Commands and what they answer, as schemas; without a name the program itself.
fn answers() -> BTreeMap<&'static str, Schema> {
    BTreeMap::from([
        ("", Schema::of::<output::End>()),
        ("run", Schema::of::<output::End>()),
        ("list", Schema::of::<Listed>()),
        ("pause", Schema::of::<Done>()),
        ("resume", Schema::of::<Done>()),
        ("stop", Schema::of::<Stopped>()),
        ("balloon set", Schema::of::<BalloonProgress>()),
        ("balloon get", Schema::of::<Balloon>()),
        ("balloon stats", Schema::of::<BalloonStats>()),
        ("memory show", Schema::of::<MemoryReport>()),
        ("memory buddy", Schema::of::<BuddyInfo>()),
        ("memory types", Schema::of::<TypeInfo>()),
        ("memory zone", Schema::of::<ZoneInfo>()),
        ("memory slabs", Schema::of::<SlabInfo>()),
        ("memory compaction", Schema::of::<CompactionInfo>()),
        ("memory compact", Schema::of::<Compacted>()),
        ("memory reclaim", Schema::of::<Reclaimed>()),
        ("swap show", Schema::of::<SwapReport>()),
        ("swap serve", Schema::of::<Served>()),
        ("check", Schema::of::<CheckReport>()),
        ("bench hugepages", Schema::of::<Report>()),
    ])
}

#[test]
fn the_page_of_json_lists_what_commands_answer() {
    let answers = answers();
    let mut text = String::new();
    // `console` prints what the guest says; its errors alone are JSON.
    for command in with_json(&Cli::command(), "").into_iter().filter(|name| name != "console") {
        let answer = answers.get(command.as_str()).unwrap_or_else(|| {
            panic!("aerostat {command} answers in JSON: add the type of the answer to `answers`")
        });
        list(&mut text, &format!("aerostat {command}"), answer);
    }
    list(&mut text, "A command that fails", &Schema::of::<output::Failure>());
    made::check("json.md", [BEGIN, END], &text, "--lib the_page_of_json");
}

/// Names of the commands that take `--json`.
fn with_json(command: &Command, name: &str) -> Vec<String> {
    let takes_it = command.get_arguments().any(|arg| arg.get_long() == Some("json"));
    let below = command.get_subcommands().flat_map(|sub| {
        let space = if name.is_empty() { "" } else { " " };
        with_json(sub, &format!("{name}{space}{}", sub.get_name()))
    });
    takes_it.then(|| name.to_owned()).into_iter().chain(below).collect()
}

/// A heading and a block of lines: field, type, what it is.
fn list(text: &mut String, heading: &str, answer: &Schema) {
    let version = Field {
        name: "version".to_owned(),
        kind: "integer".to_owned(),
        meaning: output::JSON_VERSION.to_string(),
    };
    let fields: Vec<_> = std::iter::once(version).chain(answer.fields()).collect();
    let width = |of: fn(&Field) -> &str| fields.iter().map(|field| of(field).len()).max().unwrap_or(0);
    let (names, kinds) = (width(|field| &field.name), width(|field| &field.kind));
    // Writing to a string does not fail.
    let _ = writeln!(text, "\n### {}\n\n```text", heading.trim());
    for Field { name, kind, meaning } in &fields {
        let _ = writeln!(text, "{}", format!("{name:names$}  {kind:kinds$}  {meaning}").trim_end());
    }
    text.push_str("```\n");
}

/// A field by its path.
struct Field {
    name: String,
    kind: String,
    meaning: String,
}

/// A schema with those it refers to.
struct Schema {
    root: Value,
    named: BTreeMap<String, Value>,
}

impl Schema {
    fn of<T: ToSchema>() -> Self {
        let mut named = Vec::new();
        T::schemas(&mut named);
        let json = |schema| serde_json::to_value(schema).expect("a schema");
        Self {
            root: json(T::schema()),
            named: named.into_iter().map(|(name, schema)| (name, json(schema))).collect(),
        }
    }

    fn fields(&self) -> Vec<Field> {
        let mut fields = Vec::new();
        self.add_below(&self.root, "", &mut fields);
        fields
    }

    /// Adds what is below this path: the fields of an object, or of the elements of an array.
    fn add_below(&self, schema: &Value, path: &str, fields: &mut Vec<Field>) {
        let schema = self.meant(schema);
        parts(schema).for_each(|part| self.add_below(part, path, fields));
        if let Some(items) = schema.get("items") {
            self.add_below(items, &format!("{path}[]"), fields);
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let dot = if path.is_empty() { "" } else { "." };
            let name = format!("{path}{dot}{name}");
            fields.push(Field { name: name.clone(), kind: self.kind(field), meaning: self.meaning(field) });
            self.add_below(field, &name, fields);
        }
    }

    /// The schema itself, or the one that it refers to.
    fn meant<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let name = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
        name.map_or(schema, |name| self.named.get(name).expect("a schema that is there"))
    }

    /// The type of a value, or the words that it may be.
    fn kind(&self, schema: &Value) -> String {
        let schema = self.meant(schema);
        let words =
            |values: &[Value], word: fn(&Value) -> String| values.iter().map(word).collect::<Vec<_>>();
        let words = match (&schema["enum"], &schema["type"]) {
            (Value::Array(values), _) => words(values, Value::to_string),
            (_, Value::Array(types)) => words(types, |word| word.as_str().unwrap_or_default().to_owned()),
            (_, Value::String(word)) => vec![word.clone()],
            _ if schema["allOf"].is_array() => vec!["object".to_owned()],
            _ => parts(schema).map(|part| self.kind(part)).collect(),
        };
        words.join(" or ")
    }

    /// The first sentence of what is said of a value, or of its type.
    fn meaning(&self, schema: &Value) -> String {
        let said = |schema: &Value| schema["description"].as_str().map(str::to_owned);
        let of_type = || said(self.meant(schema));
        let text = said(schema).or_else(|| parts(schema).find_map(said)).or_else(of_type).unwrap_or_default();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        text.split_once(". ").map_or(text.clone(), |(first, _)| format!("{first}."))
    }
}

/// Schemas of which one is made.
fn parts(schema: &Value) -> impl Iterator<Item = &Value> {
    ["allOf", "oneOf", "anyOf"].into_iter().filter_map(|of| schema[of].as_array()).flatten()
}

//! The tables of `docs/firecracker.md` are made of the description.

use std::fmt::Write;

use super::{super::made, Api, Call, Is, When, api};

/// A line before the tables, and one after them.
const BEGIN: &str = "<!-- The tables are made by a test from vmm/tests/process/firecracker.json. -->\n";
const END: &str = "<!-- End of the tables. -->\n";

#[test]
fn the_page_says_what_the_description_says() {
    made::check("firecracker.md", [BEGIN, END], &tables(&api()), "--test process the_page");
}

/// The tables, each with its heading.
fn tables(api: &Api) -> String {
    let mut text = format!("\n## Calls of {}\n\n| call, field | | |\n| --- | --- | --- |\n", api.swagger);
    api.calls.iter().for_each(|call| call_rows(&mut text, call));
    text.push_str("\n## Configuration file\n\n| section | | |\n| --- | --- | --- |\n");
    for section in &api.sections {
        row(&mut text, &code(&section.name), section.is, &section.note);
    }
    text.push_str("\n## Flags\n\n| flag | | |\n| --- | --- | --- |\n");
    for flag in &api.flags {
        row(&mut text, &code(&flag.flag), flag.is, &flag.note);
    }
    text.push_str("\n## Counters that stay 0\n\n| group of the metrics file | counters |\n| --- | --- |\n");
    for (group, counters) in &api.silent {
        let named = |counter: &String| if counter == "all" { counter.clone() } else { code(counter) };
        let counters: Vec<String> = counters.iter().map(named).collect();
        let _ = writeln!(text, "| {} | {} |", code(group), counters.join(", "));
    }
    text.push('\n');
    text
}

fn call_rows(text: &mut String, call: &Call) {
    let mut notes = vec![call.note.clone()];
    if call.when == When::After {
        notes.push("while the guest runs".to_owned());
    }
    if call.is == Is::No {
        let fields = call.body.iter().flatten().map(|(name, _)| code(name)).collect::<Vec<_>>();
        notes.push(fields.join(", "));
    }
    notes.retain(|note| !note.is_empty());
    row(text, &format!("**{}**", code(&call.call)), call.is, &notes.join("; "));
    for field in &call.fields {
        let is_one_of_some = call.fields.iter().filter(|other| other.name == field.name).count() > 1;
        let name = match &field.value {
            value if is_one_of_some => code(&format!("{}: {value}", field.name)),
            _ => code(&field.name),
        };
        row(text, &name, field.is, &field.note);
    }
    for field in &call.gives {
        row(text, &code(&field.name), field.is, &field.note);
    }
}

fn row(text: &mut String, name: &str, is: Is, note: &str) {
    let is = match is {
        Is::Yes => "yes",
        Is::Kept => "kept",
        Is::No => "no",
    };
    // Writing to a string does not fail.
    let _ = writeln!(text, "| {name} | {is} | {note} |");
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

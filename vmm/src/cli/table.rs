//! Text that people read, made of JSON: names to the left, numbers in a column to the right,
//! sections indented.
//!
//! ```text
//! blocks
//!   free            12
//!   huge         1,024
//! ```

use std::fmt::Write;

use serde_json::{Map, Value};

/// The text of an object, each line ended.
pub(super) fn render(object: &Map<String, Value>) -> String {
    let mut text = String::new();
    section(&mut text, object, 0);
    text
}

/// Lines of a name and what is said of it, in two columns.
pub(super) fn pairs(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines.iter().fold(String::new(), |mut text, (name, said)| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:width$}  {said}");
        text
    })
}

/// A number with commas between thousands.
pub(super) fn grouped(digits: &str) -> String {
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", digits),
    };
    let mut text = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Plain values first, in one column, then each section under its name.
fn section(text: &mut String, object: &Map<String, Value>, depth: usize) {
    let indent = "  ".repeat(depth);
    let plain: Vec<(String, String)> = object
        .iter()
        .filter(|(_, value)| !value.is_object() && !is_table(value))
        .map(|(name, value)| (name.replace('_', " "), cell(value)))
        .collect();
    let names = plain.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let cells = plain.iter().map(|(_, cell)| cell.chars().count()).max().unwrap_or(0);
    for (name, cell) in plain {
        let _ = writeln!(text, "{indent}{name:names$}  {cell:>cells$}");
    }
    for (name, value) in object {
        let name = name.replace('_', " ");
        match value {
            Value::Object(inner) => {
                let _ = writeln!(text, "{indent}{name}");
                section(text, inner, depth + 1);
            }
            Value::Array(rows) if is_table(value) => {
                let _ = writeln!(text, "{indent}{name}");
                for row in rows.iter().filter_map(Value::as_object) {
                    let cells: Vec<String> =
                        row.iter().map(|(key, value)| format!("{key} {}", cell(value))).collect();
                    let _ = writeln!(text, "{indent}  {}", cells.join("  "));
                }
            }
            _ => {}
        }
    }
}

fn is_table(value: &Value) -> bool {
    value.as_array().is_some_and(|rows| rows.first().is_some_and(Value::is_object))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) if number.is_f64() => number.to_string(),
        Value::Number(number) => grouped(&number.to_string()),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Object(_) => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_indented_and_numbers_line_up() {
        let value = serde_json::json!({
            "arena_mib": 512,
            "moves": {"harvest": 1234567, "ok": true, "deeper": {"x": null}},
            "orders": [{"order": 0, "free": 1000}, {"order": 9, "free": 2}],
        });
        let text = render(value.as_object().expect("object"));
        assert_eq!(
            text,
            "arena mib  512\n\
             moves\n  harvest  1,234,567\n  ok             yes\n  deeper\n    x  -\n\
             orders\n  free 1,000  order 0\n  free 2  order 9\n"
        );
    }

    #[test]
    fn thousands_are_grouped() {
        let all = ["0", "999", "1000", "-1234567"].map(grouped);
        assert_eq!(all, ["0", "999", "1,000", "-1,234,567"]);
    }
}

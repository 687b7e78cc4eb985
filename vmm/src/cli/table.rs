//! Text that people read: names to the left, what is said of them to the right.

use std::fmt::Write;

/// Lines of a name and what is said of it, in two columns.
pub(super) fn pairs(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines.iter().fold(String::new(), |mut text, (name, said)| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:width$}  {said}");
        text
    })
}

/// Text behind its name, on as many lines as a terminal of so many columns needs; on one line elsewhere.
pub(super) fn wrapped(name: &str, text: &str, columns: Option<usize>) -> String {
    let indent = name.chars().count();
    let mut lines = name.to_owned();
    let mut at = indent;
    for word in text.split(' ') {
        let width = word.chars().count();
        if at > indent && columns.is_some_and(|columns| at + 1 + width > columns) {
            let _ = write!(lines, "\n{:indent$}", "");
            at = indent;
        } else if at > indent {
            lines.push(' ');
            at += 1;
        }
        lines.push_str(word);
        at += width;
    }
    lines + "\n"
}

/// A column of a table: its head, and where its text stands.
#[derive(Clone, Copy)]
pub(super) enum Column<'a> {
    /// Words.
    Left(&'a str),
    /// Numbers.
    Right(&'a str),
}

/// A table with a line of heads. A cell that is missing at the end of a row is empty.
pub(super) fn columns(header: &[Column<'_>], rows: &[Vec<String>]) -> String {
    let heads: Vec<_> =
        header.iter().map(|(Column::Left(head) | Column::Right(head))| head.to_string()).collect();
    let lines = || std::iter::once(&heads).chain(rows);
    let width = |at| lines().filter_map(|line| line.get(at)).map(|cell: &String| cell.chars().count()).max();
    let widths: Vec<_> = (0..header.len()).map(|at| width(at).unwrap_or(0)).collect();
    lines().fold(String::new(), |mut text, line| {
        let cells = header.iter().zip(&widths).zip(line).map(|((column, &width), cell)| match column {
            Column::Left(_) => format!("{cell:width$}"),
            Column::Right(_) => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
        text
    })
}

/// A number with commas between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let all = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(all, ["0", "999", "1,000", "1,234,567"]);
    }
}

//! One event as one line of text.

use std::fmt::{self, Write};

use tracing::{
    Event,
    field::{Field, Visit},
};
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
};

/// The line of `event`, with its line break; breaks within are escaped, so that a guest's or
/// operator's text cannot pretend to be a line of ours.
pub(super) fn format(event: &Event<'_>, id: &str, show_level: bool, show_origin: bool) -> String {
    let mut text = Text(String::with_capacity(128));
    // Writing to a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text.0));
    let meta = event.metadata();
    let _ = write!(text.0, " [{id}]");
    if show_level {
        let _ = write!(text.0, " {}", super::name(*meta.level()));
    }
    if let (true, Some(file), Some(line)) = (show_origin, meta.file(), meta.line()) {
        let _ = write!(text.0, " [{file}:{line}]");
    }
    event.record(&mut text);
    let mut line = text.0.replace('\n', "\\n").replace('\r', "\\r");
    line.push('\n');
    line
}

/// The message first as it is, then each field with its name.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

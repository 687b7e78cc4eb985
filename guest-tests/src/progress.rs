//! One line for each long step: a bar on a terminal, plain words elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A step that is under way. It says how it ended when it is told, or that it failed when it is dropped.
#[derive(Debug)]
pub struct Progress {
    name: String,
    start: Instant,
    bar: Option<ProgressBar>,
    ended: bool,
}

impl Progress {
    /// Says what begins.
    #[must_use]
    pub fn start(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length().with_message(name.to_owned());
            bar.set_style(style("  {spinner} {msg:48} {elapsed}"));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            eprint!("  {name:48} ");
            let _ = std::io::stderr().flush();
        }
        Self { name: name.to_owned(), start: Instant::now(), bar, ended: false }
    }

    /// Says how far it is.
    pub fn at(&self, done: u64, all: u64) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(all) {
                bar.set_length(all);
                bar.set_style(style("  {spinner} {msg:48} {bar:24} {percent:>3} %"));
            }
            bar.set_position(done);
        }
    }

    /// Ends the line with the time taken and a few words; gives the time.
    pub fn done(mut self, words: &str) -> Duration {
        let taken = self.start.elapsed();
        self.end(&format!("{:6.1} s  {words}", taken.as_secs_f64()));
        taken
    }

    fn end(&mut self, words: &str) {
        self.ended = true;
        match &self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("  {:48} {words}", self.name);
            }
            None => eprintln!("{words}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.ended {
            self.end("failed");
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

//! The log: a `tracing` layer whose target, level and form `PUT /logger` can change at any time.
//!
//! A line is `TIME [ID] LEVEL [file:line] message field=value …`. Until an operator asks for
//! more, warnings and errors go to standard error.

mod line;

use std::{
    io::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt},
};

use super::lines::Lines;
use crate::vm::config::{ConfigError, LogLevel, LoggerConfig};

/// A handle on the log; clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Logger(Arc<RwLock<Settings>>);

#[derive(Debug)]
struct Settings {
    id: String,
    /// Standard error if there is none.
    lines: Option<Mutex<Lines>>,
    level: LevelFilter,
    module: Option<String>,
    show_level: bool,
    show_origin: bool,
}

impl Logger {
    /// A log for the instance `id`. It receives nothing until it is installed.
    pub fn new(id: &str) -> Self {
        Self(Arc::new(RwLock::new(Settings {
            id: id.to_owned(),
            lines: None,
            level: LevelFilter::WARN,
            module: None,
            show_level: true,
            show_origin: false,
        })))
    }

    /// The log of the process, for the instance `id`. The first one stays: a later one receives nothing.
    pub fn of_process(id: &str) -> Self {
        let logger = Self::new(id);
        // An error says that another log is installed already, which then stays.
        let _ = tracing::subscriber::set_global_default(logger.subscriber());
        logger
    }

    /// The log as a subscriber.
    pub fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
        Registry::default().with(LogLayer(self.clone()))
    }

    /// Lines that could not be written to the file or pipe.
    pub(super) fn missed(&self) -> u64 {
        let settings = self.0.read().unwrap_or_else(PoisonError::into_inner);
        settings.lines.as_ref().map_or(0, |lines| lock(lines).missed())
    }

    /// Does what `PUT /logger` asks for; what it leaves out stays, except that a log that is asked
    /// for is at `Info`.
    pub fn configure(&self, config: &LoggerConfig) -> Result<(), ConfigError> {
        let lines = config.log_path.as_deref().map(|path| Lines::open("log file", path));
        let lines = lines.transpose()?;
        let mut settings = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(lines) = lines {
            settings.lines = Some(Mutex::new(lines));
        }
        settings.level = filter(config.level.unwrap_or_default());
        settings.module = config.module.clone().or(settings.module.take());
        settings.show_level = config.show_level.unwrap_or(settings.show_level);
        settings.show_origin = config.show_log_origin.unwrap_or(settings.show_origin);
        drop(settings);
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }
}

fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

struct LogLayer(Logger);

impl<S: Subscriber> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let settings = self.0.0.read().unwrap_or_else(PoisonError::into_inner);
        let module = settings.module.as_deref().unwrap_or_default();
        *metadata.level() <= settings.level && metadata.module_path().unwrap_or_default().starts_with(module)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.0.read().unwrap_or_else(PoisonError::into_inner).level)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let settings = self.0.0.read().unwrap_or_else(PoisonError::into_inner);
        let line = line::format(event, &settings.id, settings.show_level, settings.show_origin);
        // A log that cannot be written has nowhere to say so but in its count; the guest goes on.
        let _ = match &settings.lines {
            Some(lines) => lock(lines).write(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_find_no_room_are_left_out_whole_and_counted() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (path, reader) = super::super::lines::tests::pipe(dir.path());
        let logger = Logger::new("vm7");
        logger
            .configure(&LoggerConfig { log_path: Some(path), ..LoggerConfig::default() })
            .expect("configures");
        let long = "x".repeat(9000);
        tracing::subscriber::with_default(logger.subscriber(), || {
            (0..20).for_each(|number| tracing::warn!(number, "{long}"));
        });
        let missed = logger.missed();
        // The rest of the last one comes with the next.
        let mut log = super::super::lines::tests::read_all(&reader);
        tracing::subscriber::with_default(logger.subscriber(), || tracing::warn!(number = 20, "{long}"));
        log.extend(super::super::lines::tests::read_all(&reader));
        let log = String::from_utf8(log).expect("text");
        assert!(log.lines().all(|line| line.contains(&long) && line.contains(" number=")));
        assert_eq!((log.lines().count() as u64 + missed, missed > 5), (21, true));
    }

    #[test]
    fn level_module_and_form_can_change_while_it_runs() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        let logger = Logger::new("vm7");
        let configure = |config: &str| {
            let mut config: LoggerConfig = serde_json::from_str(config).expect("configuration");
            config.log_path = Some(path.clone());
            logger.configure(&config).expect("configures");
        };
        tracing::subscriber::with_default(logger.subscriber(), || {
            configure(r#"{"level": "warn"}"#);
            tracing::info!("not this");
            tracing::warn!(count = 3, "but this\nand this");
            configure(r#"{"level": "Debug", "show_level": false, "show_log_origin": true}"#);
            tracing::debug!("where");
            configure(r#"{"module": "elsewhere"}"#);
            tracing::error!("not from here");
        });
        let log = std::fs::read_to_string(&path).expect("log");
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines[0].ends_with("Z [vm7] WARN but this\\nand this count=3"), "{log}");
        assert!(lines[1].contains("[vm7] [vmm/src/api/logger.rs:"), "{log}");
        assert!(lines[1].ends_with("] where"), "{log}");
    }
}

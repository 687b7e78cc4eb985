//! Arguments that do not parse: help and version are answers, and a mistake is one sentence that says what to write.

use std::{ffi::OsString, io::Write, process::ExitCode};

use clap::{
    Command, CommandFactory, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{args::Cli, output};
use crate::api::controller::{API_VERSION, VERSION};

/// Exit code for wrong arguments of Firecracker's form; its clients know it.
pub(super) const BAD_ARGUMENTS: u8 = 153;
/// The same for a command, as is usual.
pub(super) const BAD_USAGE: u8 = 2;

/// Help and version go to standard output; the help that was not asked for and the sentence to standard error.
pub(super) fn answer(error: &clap::Error, args: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp => {
            // Nobody to tell if standard output is closed.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        ErrorKind::DisplayVersion => {
            let _ = output::print(&version());
            return ExitCode::SUCCESS;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print().and_then(|()| writeln!(std::io::stderr()));
        }
        _ => {}
    }
    let json = args.iter().any(|arg| arg == "--json");
    output::failure(anyhow::anyhow!(sentence(error, args)).as_ref(), json);
    ExitCode::from(if is_of_firecracker(args) { BAD_ARGUMENTS } else { BAD_USAGE })
}

/// What `--version` says. Clients read the version of Firecracker off the first line, in which nothing else may be.
pub(super) fn version() -> String {
    format!(
        "Firecracker v{API_VERSION}\n\nAerostat v{VERSION}, with the API of that version of Firecracker\n"
    )
}

/// Whether the arguments are in Firecracker's form: flags, and no command before them.
pub(super) fn is_of_firecracker(args: &[OsString]) -> bool {
    args.get(1).is_none_or(|arg| arg.as_encoded_bytes().starts_with(b"-"))
}

/// The mistake, and the right form.
pub(super) fn sentence(error: &clap::Error, args: &[OsString]) -> String {
    // `aerostat help balloon` is about the same command as `aerostat balloon`, for which clap has suggestions.
    if let [program, help, rest @ ..] = args
        && (help.as_os_str(), error.kind()) == ("help".as_ref(), ErrorKind::InvalidSubcommand)
    {
        let args = [std::slice::from_ref(program), rest].concat();
        if let Err(error) = Cli::try_parse_from(&args) {
            return sentence(&error, &args);
        }
    }
    let command = command(args);
    let name = command.get_bin_name().unwrap_or("aerostat");
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let all: Vec<_> = command.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
        return format!("A command is missing after {name}: write {}.", one_of(&all));
    }
    let (what, help) = (first_paragraph(error), format!("see {name} --help"));
    match of_subcommand(error, &command).or_else(|| suggestion(error)) {
        Some(near) => format!("{what}: write {near}, or {help}."),
        None => format!("{what}; {help}."),
    }
}

/// The command that the arguments name, as far as they do.
fn command(args: &[OsString]) -> Command {
    let mut command = Cli::command();
    command.build();
    for arg in args.iter().skip(1) {
        match command.find_subcommand(arg) {
            Some(sub) => command = sub.clone(),
            None => break,
        }
    }
    command
}

/// Names with commas and an "or".
fn one_of(commands: &[&Command]) -> String {
    let names: Vec<_> = commands.iter().map(|command| command.get_name()).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// The flag that is not known, where a command below has it.
fn of_subcommand(error: &clap::Error, command: &Command) -> Option<String> {
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = given.strip_prefix("--")?;
    let has_it = |sub: &&Command| sub.get_arguments().any(|arg| arg.get_long() == Some(flag));
    let sub = command.get_subcommands().find(has_it)?;
    Some(format!("{} {given}", sub.get_bin_name()?))
}

/// The word that was probably meant, where one is near.
fn suggestion(error: &clap::Error) -> Option<String> {
    let kinds = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue];
    match kinds.into_iter().find_map(|kind| error.get(kind))? {
        ContextValue::String(near) => Some(near.clone()),
        // The nearest is the last.
        ContextValue::Strings(all) => all.last().cloned(),
        _ => None,
    }
}

/// The first paragraph of clap's message, as the begin of a sentence.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let mut sentence = first.chars().take(1).flat_map(char::to_uppercase).collect::<String>();
    sentence.extend(first.chars().skip(1));
    for line in lines {
        sentence.push(' ');
        sentence.push_str(line);
    }
    sentence.truncate(sentence.trim_end_matches('.').len());
    sentence
}

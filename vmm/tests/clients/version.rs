//! Programs read the output of `--version`, each in its own way.

use std::process::Command;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;

use super::trial;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("the_version_is_found_as_clients_look_for_it", found)]
}

fn found() -> anyhow::Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_aerostat")).arg("--version").output()?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().next().context("--version prints nothing")?;

    // Kata's Go runtime (fc.go): the second word of the first line, less its v, is a version of three numbers.
    let word = line.split(' ').nth(1).with_context(|| format!("one word: {line}"))?;
    let kata = word.trim().trim_start_matches('v');
    let numbers = kata.split('.').map(str::parse::<u32>).collect::<Result<Vec<_>, _>>();
    let numbers = numbers.with_context(|| format!("no numbers: {line}"))?;
    ensure!(numbers.len() == 3 && numbers > vec![0, 21, 0], "{kata}: Kata wants 0.21.1 or newer");

    // nomad-driver-firecracker (fingerprint.go): the first three numbers with dots between them, wherever they stand.
    let nomad =
        text.split(|c: char| !c.is_ascii_digit() && c != '.').find(|word| word.split('.').count() == 3);
    ensure!(nomad == Some(kata), "the first version in {text:?} is not {kata}");
    ensure!(line.starts_with("Firecracker v") && text.contains("Aerostat"), "{text}");
    Ok(())
}

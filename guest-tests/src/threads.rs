//! States of a process's threads, for the error message about a monitor whose guest has fallen silent. The
//! process is gone before anybody could look.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use crate::host;

/// Time over which work is counted.
const SPAN: Duration = Duration::from_secs(1);
/// Kernel functions of a stack that are told, the innermost first.
const DEPTH: usize = 4;

/// One line for each thread: its state, its CPU, what it did within a second, and where in the kernel it is.
/// A thread that is said to run (`R`) and does nothing is the host's fault.
///
/// # Errors
/// The process is gone.
pub fn report(pid: u32) -> anyhow::Result<String> {
    let before = host::threads(pid)?;
    std::thread::sleep(SPAN);
    let mut text = String::new();
    for now in host::threads(pid)? {
        let was = before.iter().find(|was| was.id == now.id);
        let ran = now.time.saturating_sub(was.map_or(Duration::ZERO, |was| was.time));
        let in_guest = now.guest.saturating_sub(was.map_or(Duration::ZERO, |was| was.guest));
        let (name, state, cpu, place) = (&now.name, now.state, now.cpu, place(pid, now.id));
        let call = read(pid, now.id, "syscall");
        let call = call.split_whitespace().next().unwrap_or("unknown");
        let _ = writeln!(
            text,
            "  {name} {state} on CPU {cpu}: ran {ran:?} of {SPAN:?} ({in_guest:?} in the guest), system call {call}, in {place}",
        );
    }
    Ok(text)
}

/// The innermost functions of the thread's kernel stack, which only root may read; else the one it sleeps in.
fn place(pid: u32, thread: u32) -> String {
    let stack = read(pid, thread, "stack");
    let functions: Vec<&str> =
        stack.lines().filter_map(|line| line.split(' ').nth(1)?.split('+').next()).take(DEPTH).collect();
    if functions.is_empty() {
        return read(pid, thread, "wchan");
    }
    functions.join(" < ")
}

/// A file that may be gone by now, or forbidden: empty then.
fn read(pid: u32, thread: u32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{thread}/{name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;
    use std::thread::Builder;

    use super::*;

    #[test]
    fn a_busy_thread_is_told_from_one_that_waits() -> anyhow::Result<()> {
        let (sender, receiver) = channel::<()>();
        let waits = Builder::new().name("wai) ts".into()).spawn(move || receiver.recv().is_err())?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let busy =
            Builder::new().name("busy".into()).spawn(move || while !ended.load(Ordering::Relaxed) {})?;
        let text = report(std::process::id());
        end.store(true, Ordering::Relaxed);
        drop(sender);
        let text = text?;
        let has =
            |start: &str, part: &str| text.lines().any(|line| line.starts_with(start) && line.contains(part));
        assert!(has("  wai) ts S on CPU ", "futex"), "{text}");
        assert!(has("  busy R on CPU ", ": ran "), "{text}");
        assert!(waits.join().is_ok_and(|woken| woken) && busy.join().is_ok());
        Ok(())
    }
}

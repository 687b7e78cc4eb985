//! `aerostat console` on a terminal, which is as it was when the console has ended.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, Termios, tcgetattr};

use super::super::fake_guest::{AtKeys, FakeGuest, PROMPT};
use super::pty::pair;

/// A console whose terminal shows the guest's prompt.
struct Console {
    process: Child,
    keyboard: File,
    terminal: OwnedFd,
    before: Termios,
    _guest: FakeGuest,
}

impl Console {
    fn attach() -> Self {
        let guest = FakeGuest::start(AtKeys::RunsOn);
        let (ours, terminal) = pair(80);
        let before = tcgetattr(&terminal).expect("a terminal");
        let of_terminal = || terminal.try_clone().expect("a terminal");
        // A test may run where signals of the keyboard are ignored.
        let process = Command::new("env")
            .args([
                "--default-signal",
                env!("CARGO_BIN_EXE_aerostat"),
                "console",
                "--api-sock",
                &guest.socket(),
            ])
            .stdin(of_terminal())
            .stdout(of_terminal())
            .stderr(of_terminal())
            .spawn()
            .expect("aerostat");
        let (mut keyboard, mut screen) = (File::from(ours), String::new());
        while !screen.ends_with(PROMPT) {
            let mut chunk = [0; 256];
            let count = keyboard.read(&mut chunk).expect("the screen");
            screen.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
        assert!(!is_cooked(&terminal), "{screen}");
        Self { process, keyboard, terminal, before, _guest: guest }
    }

    /// Its end, at which the terminal is as it was.
    fn end(mut self) -> ExitStatus {
        let status = self.process.wait().expect("its end");
        let after = tcgetattr(&self.terminal).expect("a terminal");
        assert!(is_cooked(&self.terminal));
        assert_eq!(
            (after.local_modes, after.input_modes, after.output_modes),
            (self.before.local_modes, self.before.input_modes, self.before.output_modes)
        );
        status
    }
}

fn is_cooked(terminal: impl AsFd) -> bool {
    tcgetattr(terminal).expect("a terminal").local_modes.contains(LocalModes::ICANON | LocalModes::ECHO)
}

#[test]
fn a_signal_that_ends_a_console_is_its_exit_code_and_gives_the_terminal_back() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let console = Console::attach();
        kill_process(Pid::from_child(&console.process), signal).expect("a signal");
        assert_eq!(console.end().code(), Some(128 + signal.as_raw()), "{signal:?}");
    }
}

#[test]
fn a_console_that_is_left_ends_well_and_gives_the_terminal_back() {
    let mut console = Console::attach();
    console.keyboard.write_all(b"\x1D").expect("typed");
    assert_eq!(console.end().code(), Some(0));
}

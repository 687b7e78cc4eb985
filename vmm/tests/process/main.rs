//! The monitor as a process: what it takes over from who starts it, and what it does not; what it answers. No guest, hence no KVM.

mod command_line;
mod fake_guest;
mod firecracker;
mod guests;
mod made;
mod monitor;

use rustix::process::Signal;

use monitor::Monitor;

#[test]
fn the_socket_is_the_owners_alone_whatever_the_umask() {
    for umask in ["000", "022", "777"] {
        let starter = ["sh", "-c", &format!("umask {umask}; exec \"$0\" \"$@\"")];
        for (arguments, mode) in [(&[][..], 0o600), (&["--api-sock-mode", "666"], 0o666)] {
            let monitor = Monitor::start(&starter, arguments);
            assert_eq!(monitor.mode(), mode, "umask {umask}, {arguments:?}");
            monitor.signal(Signal::TERM);
            monitor.end();
        }
    }
}

#[test]
fn signals_that_are_ignored_at_the_start_stay_ignored() {
    for (name, signal) in [("HUP", Signal::HUP), ("INT", Signal::INT), ("QUIT", Signal::QUIT)] {
        let monitor = Monitor::start(&["env", &format!("--ignore-signal={name}")], &[]);
        monitor.signal(signal);
        monitor.signal(Signal::TERM);
        let said = monitor.end();
        assert!(said.contains("signal 15."), "{name}: {said}");
    }
}

#[test]
fn a_signal_that_nobody_ignores_ends_it() {
    let monitor = Monitor::start(&["env"], &[]);
    monitor.signal(Signal::HUP);
    let said = monitor.end();
    assert!(said.contains("signal 1."), "{said}");
}

#[test]
fn signals_that_are_blocked_at_the_start_end_it_as_ever() {
    let monitor = Monitor::start(&["env", "--block-signal=HUP,INT,QUIT,TERM,RTMIN"], &[]);
    monitor.signal(Signal::TERM);
    let said = monitor.end();
    assert!(said.contains("signal 15."), "{said}");
}

//! Init of the test guest: mounts, loads modules, then does what the host asks over the serial port.
//!
//! ```text
//! kernel ─▶ boot: mounts, modules ─▶ serial: "ready" ─▶ loop { line ─▶ serve ─▶ line } ─▶ power
//! ```
//!
//! It is process 1, so it must never end by itself: a request that fails, or even panics, is answered
//! with an error. On a Debian disk it is a service instead: another init has mounted and loaded everything,
//! and powers off when the agent asks it to.

mod block;
mod boot;
mod child;
mod churn;
mod flood;
mod hogs;
mod kernel;
mod nbd_device;
mod net;
mod netlink;
mod ping;
mod power;
mod region;
mod serial;
mod serve;
mod swap;

use guest_agent::{Answer, Ready, Reply};

fn main() {
    kernel::quiet_console();
    let modules = if power::is_init() { boot::run() } else { boot::Modules::default() };
    let mut port = match serial::Port::open() {
        Ok(port) => port,
        Err(error) => {
            eprintln!("guest agent: cannot open the serial port /dev/ttyS0: {error}");
            power::off()
        }
    };
    let ready = Ready {
        uptime_ms: kernel::uptime_ms(),
        kernel: kernel::release(),
        modules: modules.loaded,
        failed: modules.failed,
    };
    port.send(&Reply { id: 0, answer: Answer::Ready(ready) });

    let mut state = serve::State::default();
    loop {
        let Some(line) = port.receive() else {
            std::thread::sleep(std::time::Duration::from_millis(10));
            continue;
        };
        let (reply, then) = serve::line(&mut state, &line);
        port.send(&reply);
        if let Some(ending) = then {
            port.drain();
            ending.run();
        }
    }
}

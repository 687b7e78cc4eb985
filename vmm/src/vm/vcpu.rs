//! The guest's CPUs: one thread each, and how all of them are paused and ended.
//!
//! ```text
//!             resume                      pause (kick)
//!   Paused ─────────────▶ Running ───────────────────────▶ Paused   (acknowledged by each CPU)
//!      │                     │  guest ends: sink is told
//!      └───────── end ───────┴──────────▶ Ending ─▶ thread returns
//! ```
//! A CPU that waits for a device or for memory acknowledges nothing meanwhile, so whoever pauses waits so long at the most.
//! The wish is one value under a lock; each thread looks at it before every entry into the guest. A
//! kick is a signal whose handler sets `immediate_exit` of that thread's CPU, so a kick that arrives
//! between the look and the entry still counts. An entry may take long where the memory service has
//! to find memory first.
#![allow(unsafe_code)] // The signal handler's byte and two fields of `kvm_run`; argued below.

use std::cell::Cell;
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use memsvc::guard::Guard;
use thiserror::Error;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler, unblock_signal};

use super::bus::Bus;
use super::exits::{self, Exits};
use super::kvm::{KvmError, Vm};
use crate::arch::cpuid::Template;
use crate::arch::kernel::Entry;
use crate::arch::{lapic, msrs, regs};
use crate::devices::legacy::Power;

/// Bytes of stack of a CPU's thread; devices run on it.
const STACK: usize = 256 << 10;

/// Why CPUs cannot be made or started.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// CPUID.
    #[error(transparent)]
    Cpuid(#[from] crate::arch::cpuid::CpuidError),
    /// Model specific registers.
    #[error(transparent)]
    Msrs(#[from] msrs::MsrError),
    /// Registers.
    #[error(transparent)]
    Regs(#[from] regs::RegsError),
    /// The kick's signal.
    #[error("cannot install the signal handler that pauses CPUs")]
    Signal(#[source] vmm_sys_util::errno::Error),
    /// No thread.
    #[error("cannot start a thread for CPU {cpu}")]
    Thread {
        /// Which CPU.
        cpu: u8,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What CPUs are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Run the guest.
    Running,
    /// Stand still outside the guest.
    Paused,
    /// Leave for good.
    Ending,
}

/// Where CPUs find devices and say how the guest ended.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Ports.
    pub ports: Arc<Bus>,
    /// Memory addresses of devices.
    pub mmio: Arc<Bus>,
    /// Told when the guest ends.
    pub power: Arc<Power>,
}

/// All CPUs of a guest. Dropping it ends them.
#[derive(Debug)]
pub struct Vcpus {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    exits: Vec<Arc<Exits>>,
}

#[derive(Debug)]
struct Shared {
    wish: Mutex<Wish>,
    /// The wish or a count changed.
    changed: Condvar,
}

#[derive(Debug)]
struct Wish {
    state: State,
    /// CPUs that stand outside the guest and have seen the wish to.
    out: usize,
}

impl Wish {
    /// How many of so many CPUs are to pause, and have not.
    fn waits_for(&self, cpus: usize) -> usize {
        if self.state == State::Paused { cpus.saturating_sub(self.out) } else { 0 }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, wish: MutexGuard<'a, Wish>) -> MutexGuard<'a, Wish> {
        self.changed.wait(wish).unwrap_or_else(PoisonError::into_inner)
    }

    /// Stands still until something else is wished.
    fn stand_still(&self) -> State {
        let mut wish = self.lock();
        wish.out += 1;
        self.changed.notify_all();
        while wish.state == State::Paused {
            wish = self.wait(wish);
        }
        wish.out -= 1;
        wish.state
    }

    /// All are to leave for good.
    fn end(&self) {
        self.lock().state = State::Ending;
        self.changed.notify_all();
    }

    fn resume(&self) {
        let mut wish = self.lock();
        if wish.state == State::Paused {
            wish.state = State::Running;
            self.changed.notify_all();
        }
    }

    /// Wishes that all `cpus` pause, kicks them, and waits until they have, at most this long. How many have not:
    /// each of those waits for a device or for memory.
    fn pause(&self, cpus: usize, kick: impl FnOnce(), limit: Duration) -> usize {
        let mut wish = self.lock();
        if wish.state == State::Running {
            wish.state = State::Paused;
        }
        kick();
        let waited = self.changed.wait_timeout_while(wish, limit, |wish| wish.waits_for(cpus) > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.waits_for(cpus)
    }
}

impl Vcpus {
    /// Makes `cpuid`'s CPUs and a thread for each, paused. The first enters at `entry` once
    /// [`Vcpus::resume`]d.
    pub fn start(
        vm: &Vm,
        cpus: u8,
        cpuid: &Template,
        memory: &vm_memory::GuestMemoryMmap<()>,
        entry: Entry,
        surroundings: &Surroundings,
        guard: &Guard,
    ) -> Result<Self, VcpuError> {
        register_signal_handler(SIGRTMIN(), on_kick).map_err(VcpuError::Signal)?;
        let mut fds = Vec::with_capacity(cpus.into());
        for cpu in 0..cpus {
            let fd = vm.fd().create_vcpu(cpu.into()).map_err(KvmError::step("create a CPU"))?;
            fd.set_cpuid2(&cpuid.for_cpu(cpu)?).map_err(KvmError::step("set a CPU's features"))?;
            msrs::set(&fd)?;
            lapic::set_lint(&fd).map_err(KvmError::step("wire a local interrupt controller"))?;
            if cpu == 0 {
                regs::set_boot_cpu(&fd, memory, entry)?;
            }
            fds.push(fd);
        }
        let wish = Mutex::new(Wish { state: State::Paused, out: 0 });
        let shared = Arc::new(Shared { wish, changed: Condvar::new() });
        // Who pauses waits for no CPU that has failed.
        let guard = guard.and({
            let shared = Arc::clone(&shared);
            move || shared.end()
        });
        let exits: Vec<Arc<Exits>> = fds.iter().map(|_| Arc::default()).collect();
        let mut vcpus = Self { shared, threads: Vec::with_capacity(fds.len()), exits: exits.clone() };
        for ((cpu, fd), exits) in (0u8..).zip(fds).zip(exits) {
            let shared = Arc::clone(&vcpus.shared);
            let vcpu = Vcpu { fd, shared, surroundings: surroundings.clone(), exits, cpu };
            let live = move || {
                vcpu.live();
                Ok(())
            };
            let thread =
                guard.spawn(format!("vcpu{cpu}"), STACK, "a CPU of the guest does not run any more", live);
            let thread = thread.map_err(|source| VcpuError::Thread { cpu, source })?;
            vcpus.threads.push(thread);
        }
        Ok(vcpus)
    }

    /// Lets all CPUs run.
    pub fn resume(&self) {
        self.shared.resume();
    }

    /// Stops all CPUs; returns when none is in the guest, or after this time. How many there are still: they stop
    /// as soon as they can, or go on at [`Self::resume`].
    pub fn pause(&self, limit: Duration) -> usize {
        self.shared.pause(self.threads.len(), || self.kick(), limit)
    }

    /// Whether all CPUs stand still.
    pub fn is_paused(&self) -> bool {
        let wish = self.shared.lock();
        wish.state == State::Paused && wish.waits_for(self.threads.len()) == 0
    }

    /// How often they left the guest, and for what.
    pub fn exits(&self) -> serde_json::Value {
        exits::total(self.exits.iter().map(AsRef::as_ref))
    }

    /// Ends all CPUs and waits for their threads. Called by drop; not to be called from a CPU's
    /// thread.
    pub fn end(&mut self) {
        self.shared.end();
        self.kick();
        for thread in self.threads.drain(..) {
            // A panic was told.
            let _ = thread.join();
        }
    }

    fn kick(&self) {
        for thread in &self.threads {
            // It fails only for a thread that has ended, which needs no kick.
            let _ = thread.kill(SIGRTMIN());
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.end();
    }
}

thread_local! {
    /// `immediate_exit` of this thread's CPU, null outside CPU threads. Constant initialization and
    /// no destructor: a signal handler may use it.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let byte = IMMEDIATE_EXIT.get();
    if !byte.is_null() {
        // SAFETY: not null means that this thread's `Vcpu` is alive (see `Vcpu::live`), and with it
        // the mapping of `kvm_run` that the byte is in. Only this thread writes it; the kernel
        // reads it. A handler runs in the middle of other code, hence volatile.
        unsafe { byte.write_volatile(1) };
    }
}

struct Vcpu {
    fd: VcpuFd,
    shared: Arc<Shared>,
    surroundings: Surroundings,
    exits: Arc<Exits>,
    cpu: u8,
}

impl Vcpu {
    /// The thread: one method per state.
    fn live(mut self) {
        IMMEDIATE_EXIT.set(&raw mut self.fd.get_kvm_run().immediate_exit);
        // Who started the process may have blocked it. Fails only for what is no signal.
        let _ = unblock_signal(SIGRTMIN());
        let mut state = State::Paused;
        loop {
            state = match state {
                State::Running => self.running(),
                State::Paused => self.shared.stand_still(),
                State::Ending => break,
            };
        }
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }

    /// Runs the guest until something else is wished.
    fn running(&mut self) -> State {
        // The guest's clock stood still while it was paused: its watchdogs are not to bark. Fails
        // for a guest that has no kvm-clock yet, which has no watchdog either.
        if self.fd.kvmclock_ctrl().is_err() {
            self.exits.clock_errors.inc();
        }
        loop {
            let wished = self.shared.lock().state;
            if wished != State::Running {
                return wished;
            }
            while self.enter() == Next::Enter {}
            self.fd.set_kvm_immediate_exit(0);
        }
    }

    /// Enters the guest once and does what it left for.
    fn enter(&mut self) -> Next {
        let (Surroundings { ports, mmio, power }, exits) = (&self.surroundings, &self.exits);
        let problem = match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                exits.io_out.inc();
                let data = ptr::from_ref(data);
                let width = io_width(self.fd.get_kvm_run());
                // SAFETY: the data lie in the pages of `kvm_run`, which are mapped as long as `self.fd` lives; the kernel
                // and this thread leave them alone until the next entry.
                ports.write_port(port, width, unsafe { &*data });
                return if power.ended() { self.leave() } else { Next::Enter };
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                exits.io_in.inc();
                let data = ptr::from_mut(data);
                let width = io_width(self.fd.get_kvm_run());
                // SAFETY: as above, and nobody else has them now.
                ports.read_port(port, width, unsafe { &mut *data });
                return Next::Enter;
            }
            Ok(VcpuExit::MmioRead(addr, data)) => {
                exits.mmio_read.inc();
                mmio.read(addr, data);
                return Next::Enter;
            }
            Ok(VcpuExit::MmioWrite(addr, data)) => {
                exits.mmio_write.inc();
                mmio.write(addr, data);
                return Next::Enter;
            }
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => return Next::Look,
            Err(e) if e.errno() == libc::EINTR => return Next::Look,
            Err(e) if e.errno() == libc::EAGAIN => return Next::Enter,
            Ok(VcpuExit::SystemEvent(kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
                power.power_off();
                return self.leave();
            }
            Ok(VcpuExit::SystemEvent(kvm_bindings::KVM_SYSTEM_EVENT_RESET, _)) => {
                power.reset();
                return self.leave();
            }
            Ok(VcpuExit::Shutdown) => "the guest took a triple fault".to_owned(),
            Ok(VcpuExit::InternalError) => self.internal_error(),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                format!("the hardware refused to enter the guest (reason {reason:#x})")
            }
            Ok(VcpuExit::MemoryFault { gpa, .. }) => {
                format!("guest memory at {gpa:#x} could not be provided")
            }
            Ok(VcpuExit::Hlt) => "the guest halted without an interrupt controller".to_owned(),
            Ok(other) => format!("KVM left the guest for an unknown reason ({other:?})"),
            Err(e) if e.errno() == libc::EFAULT => "guest memory could not be provided".to_owned(),
            Err(e) => format!("KVM could not run the guest ({e})"),
        };
        self.exits.failures.inc();
        let at = self.fd.get_regs().map_or_else(|_| String::new(), |r| format!(" at RIP {:#x}", r.rip));
        self.surroundings.power.failed(format!("CPU {}: {problem}{at}", self.cpu));
        self.leave()
    }

    /// The guest has ended by this CPU's doing, and this CPU ends with it. The others do when they
    /// look at the wish, at the latest in [`Vcpus::end`].
    fn leave(&self) -> Next {
        self.shared.end();
        Next::Look
    }

    /// Says what KVM could not do.
    fn internal_error(&mut self) -> String {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, so `internal` is the union's field;
        // it is made of integers only.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        describe_internal_error(internal.suberror)
    }
}

/// Bytes in each unit of a port access that `run` left the guest for.
fn io_width(run: &kvm_bindings::kvm_run) -> usize {
    // SAFETY: the exit reason is KVM_EXIT_IO, so `io` is the union's field; it is made of integers only.
    usize::from(unsafe { run.__bindgen_anon_1.io.size })
}

/// A sentence for the suberror of `KVM_EXIT_INTERNAL_ERROR`.
pub(crate) fn describe_internal_error(suberror: u32) -> String {
    let what = match suberror {
        1 => {
            "KVM met an instruction of the guest that it cannot emulate, as KVM without hardware behind it does"
        }
        2 => "KVM met an exception while it delivered one",
        3 => "KVM could not deliver an event to the guest",
        4 => "KVM left the guest for an unexpected reason",
        _ => "KVM met an internal error",
    };
    format!("{what} (suberror {suberror})")
}

/// What to do after an exit.
#[derive(PartialEq, Eq)]
enum Next {
    /// Enter the guest again.
    Enter,
    /// Look at the wish first.
    Look,
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_cpu_that_waits_for_a_device_does_not_keep_who_pauses() {
        let wish = Mutex::new(Wish { state: State::Running, out: 0 });
        let shared = Shared { wish, changed: Condvar::new() };
        let (shared, (went_on, goes_on)) = (&shared, channel());
        let ((kicked, kick), (device, served)) = (channel(), channel::<()>());
        thread::scope(|scope| {
            let cpu = went_on.clone();
            scope.spawn(move || {
                kick.recv().expect("a kick");
                cpu.send(shared.stand_still()).expect("heard");
            });
            assert_eq!(shared.pause(2, || kicked.send(()).expect("heard"), Duration::from_millis(50)), 1);
            // It can also take its time.
            scope.spawn(move || {
                served.recv().expect("the device is there again");
                went_on.send(shared.stand_still()).expect("heard");
            });
            assert_eq!(shared.pause(2, || (), Duration::ZERO), 1);
            device.send(()).expect("heard");
            assert_eq!(shared.pause(2, || (), PATIENCE), 0);
            shared.resume();
            for _ in 0..2 {
                assert_eq!(goes_on.recv_timeout(PATIENCE), Ok(State::Running));
            }
        });
        assert_eq!(shared.lock().out, 0);
    }
}

//! The throttle: a fair queue of those who may wait, while half the reserve is gone.
//!
//! ```text
//!                       tail                     head
//!   wait ──▶  ticket 9 │ ticket 8 │ ticket 6 │ ticket 5 ──▶ Back
//!                                      │          ▲  ready?
//!                               TimedOut          └── baton: wake, or who was head before
//! ```
//!
//! Only the head looks whether the reserve is back, and only when it holds the *baton*. There is one:
//! [`wake`](Throttle::wake) hands it to the head, and whoever leaves the head's place, served or timed
//! out, hands it to the next. The baton stays where it is put until a head takes it up, so none is lost
//! between a look and the sleep after it. One thread wakes at a time, and who comes while others wait
//! goes behind them.
//!
//! What makes the free path cheap is a contract: see [`Throttle::wait`].

use std::collections::VecDeque;
use std::time::Duration;

use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Condvar, Mutex, Timer, lock};
use crate::stats::ReserveInfo;

/// Tickets sleep on the condition variable of their number, modulo this: with no more waiters than this,
/// a wake-up reaches one thread. As many as there are per-CPU lists; one under loom, so that all share it.
const BEDS: u64 = if cfg!(memsvc_loom) { 1 } else { super::units::CpuId::MAX as u64 };

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The reserve is back.
    Back,
    /// The stated time was over first.
    TimedOut,
}

/// Where requesters wait for the reserve, first come, first served.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Length of the queue, for those who do not have its lock.
    waiting: AtomicU64,
    queue: Mutex<Queue>,
    beds: Box<[Condvar]>,
}

#[derive(Debug)]
struct Queue {
    tickets: VecDeque<u64>,
    /// The head is to look, and has not yet.
    baton: bool,
    next_ticket: u64,
    throttled: u64,
    timed_out: u64,
    waited: Duration,
}

impl Queue {
    /// Takes up the baton, if it is for this ticket.
    fn take_baton(&mut self, ticket: u64) -> bool {
        self.tickets.front() == Some(&ticket) && std::mem::take(&mut self.baton)
    }
}

impl Default for Throttle {
    /// Nobody waits.
    fn default() -> Self {
        Self {
            waiting: AtomicU64::new(0),
            queue: Mutex::new(Queue {
                tickets: VecDeque::with_capacity(BEDS as usize),
                baton: false,
                next_ticket: 0,
                throttled: 0,
                timed_out: 0,
                waited: Duration::ZERO,
            }),
            beds: (0..BEDS).map(|_| Condvar::new()).collect(),
        }
    }
}

impl Throttle {
    /// Waits until `ready` says true and all who came before are gone, or until `limit` is over. At once
    /// when nobody waits and `ready` says true.
    ///
    /// `ready` is called without a lock of the throttle, by one thread at a time of those that wait. So
    /// that no wake-up is lost it must take the lock under which frees are counted (or read their counter
    /// with a read-modify-write, if they are counted by one), and [`wake`](Self::wake) must follow the
    /// count: then either `ready` sees what was freed, or who freed it sees that somebody waits.
    pub(crate) fn wait(&self, limit: Duration, ready: impl Fn() -> bool) -> Waited {
        if !self.is_waiting() && ready() {
            return Waited::Back;
        }
        self.enter(Timer::start(limit)).wait(ready)
    }

    /// The reserve may be back: frees call this after they were counted. One relaxed load when nobody
    /// waits. May be called under any lock.
    #[inline]
    pub(crate) fn wake(&self) {
        if self.is_waiting() {
            self.pass_baton(&mut lock(&self.queue));
        }
    }

    /// True when somebody waits: who may wait then goes behind, whatever is free.
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// How many wait, how often that was, and how long: of those who wait now nothing yet.
    pub(crate) fn info(&self) -> ReserveInfo {
        let queue = lock(&self.queue);
        ReserveInfo {
            waiting: queue.tickets.len() as u64,
            throttled: queue.throttled,
            timed_out: queue.timed_out,
            waited_us: u64::try_from(queue.waited.as_micros()).unwrap_or(u64::MAX),
            ..ReserveInfo::default()
        }
    }

    /// Goes to the end of the queue. Who finds it empty has the baton.
    fn enter(&self, timer: Timer) -> Place<'_> {
        let mut queue = lock(&self.queue);
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.throttled += 1;
        queue.baton |= queue.tickets.is_empty();
        queue.tickets.push_back(ticket);
        self.waiting.store(queue.tickets.len() as u64, Ordering::Relaxed);
        Place { throttle: self, ticket, timer }
    }

    /// Hands the baton to the head, if there is one. Who has been handed it is awake.
    fn pass_baton(&self, queue: &mut Queue) {
        if let Some(head) = queue.tickets.front()
            && !queue.baton
        {
            queue.baton = true;
            self.bed(*head).notify_all();
        }
    }

    fn bed(&self, ticket: u64) -> &Condvar {
        &self.beds[(ticket % BEDS) as usize]
    }
}

/// A place in the queue; leaves it when dropped.
struct Place<'a> {
    throttle: &'a Throttle,
    ticket: u64,
    timer: Timer,
}

impl Place<'_> {
    fn wait(mut self, ready: impl Fn() -> bool) -> Waited {
        loop {
            if !self.sleep_until_baton() {
                return Waited::TimedOut;
            }
            if ready() {
                return Waited::Back;
            }
        }
    }

    /// False when the time is over first. A baton that is there is always taken up.
    fn sleep_until_baton(&mut self) -> bool {
        let Throttle { queue: mutex, .. } = self.throttle;
        let mut queue = lock(mutex);
        while !queue.take_baton(self.ticket) {
            if self.timer.is_over() {
                queue.timed_out += 1;
                return false;
            }
            queue = self.timer.sleep(self.throttle.bed(self.ticket), mutex, queue);
        }
        true
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.throttle.queue);
        queue.waited += self.timer.elapsed();
        let was_head = queue.tickets.front() == Some(&self.ticket);
        queue.tickets.retain(|ticket| *ticket != self.ticket);
        self.throttle.waiting.store(queue.tickets.len() as u64, Ordering::Relaxed);
        if was_head {
            queue.baton = false;
            self.throttle.pass_baton(&mut queue);
        }
    }
}

#[cfg(test)]
#[cfg(not(memsvc_loom))]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU32};
    use std::thread;

    const LONG: Duration = Duration::from_secs(600);

    fn until(what: impl Fn() -> bool) {
        while !what() {
            thread::yield_now();
        }
    }

    /// Waits until so many are in the queue.
    fn until_waiting(throttle: &Throttle, waiting: u64) {
        until(|| throttle.info().waiting == waiting);
    }

    #[test]
    fn nobody_waits_for_a_reserve_that_is_there() {
        let throttle = Throttle::default();
        assert_eq!(throttle.wait(LONG, || true), Waited::Back);
        assert_eq!(throttle.info(), ReserveInfo::default());
    }

    #[test]
    fn a_reserve_that_stays_away_costs_the_stated_time_and_no_more() {
        let throttle = Throttle::default();
        let limit = Duration::from_millis(2);
        assert_eq!(throttle.wait(limit, || false), Waited::TimedOut);
        let info = throttle.info();
        assert!(info.waited_us >= 2000, "{info:?}");
        assert_eq!(info, ReserveInfo { throttled: 1, timed_out: 1, waited_us: info.waited_us, ..info });
        assert!(!throttle.is_waiting());
    }

    #[test]
    fn first_come_first_served_and_who_comes_late_does_not_overtake() {
        // Two more than there are condition variables: some share one.
        const EARLY: u64 = BEDS + 2;
        let (throttle, back) = (Throttle::default(), AtomicBool::new(false));
        let (looks, served) = (AtomicU32::new(0), Mutex::new(Vec::new()));
        // Heads look one at a time, so the order in which they find it back is theirs.
        let look = |turn| {
            looks.fetch_add(1, Ordering::SeqCst);
            let back = back.load(Ordering::SeqCst);
            if back {
                served.lock().unwrap().push(turn);
            }
            back
        };
        thread::scope(|scope| {
            let come = |turn| {
                let (throttle, look) = (&throttle, &look);
                scope.spawn(move || assert_eq!(throttle.wait(LONG, || look(turn)), Waited::Back));
                until_waiting(throttle, turn + 1);
            };
            (0..EARLY).for_each(come);
            // The first looked before and after it queued up; then it is back, but nobody was told.
            until(|| looks.load(Ordering::SeqCst) == 2);
            back.store(true, Ordering::SeqCst);
            come(EARLY);
            throttle.wake();
        });
        assert_eq!(*served.lock().unwrap(), (0..=EARLY).collect::<Vec<_>>());
        assert_eq!(throttle.info().throttled, EARLY + 1);
    }

    #[test]
    fn who_gives_up_does_not_take_the_wake_up_along() {
        let (throttle, told) = (Throttle::default(), AtomicBool::new(false));
        let soon = Duration::from_millis(1);
        thread::scope(|scope| {
            // The head is still looking while all the rest happens, and its time is over then.
            let head = scope.spawn(|| {
                throttle.wait(soon, || {
                    until(|| !throttle.is_waiting() || told.load(Ordering::SeqCst));
                    false
                })
            });
            until_waiting(&throttle, 1);
            let impatient = scope.spawn(|| throttle.wait(soon, || true));
            assert_eq!(impatient.join().unwrap(), Waited::TimedOut, "who is not the head does not look");
            let behind = scope.spawn(|| throttle.wait(LONG, || true));
            until_waiting(&throttle, 2);
            throttle.wake();
            told.store(true, Ordering::SeqCst);
            assert_eq!(head.join().unwrap(), Waited::TimedOut);
            assert_eq!(behind.join().unwrap(), Waited::Back);
        });
        assert_eq!(throttle.info().timed_out, 2);
    }

    #[test]
    fn no_wake_up_is_lost_among_many() {
        const THREADS: u32 = 16;
        const ROUNDS: u32 = 500;
        let (throttle, free) = (Throttle::default(), Mutex::new(0_u32));
        let take = || {
            let mut free = free.lock().unwrap();
            let some = *free > 0;
            *free -= u32::from(some);
            some
        };
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (throttle, take) = (&throttle, &take);
                // Every other one gives up now and then and comes back.
                let limit = if thread % 2 == 0 { LONG } else { Duration::from_micros(20) };
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        while throttle.wait(limit, take) == Waited::TimedOut {}
                    }
                });
            }
            // One wake for each; with one lost, somebody sleeps for ever.
            for _ in 0..THREADS * ROUNDS {
                *free.lock().unwrap() += 1;
                throttle.wake();
            }
        });
        assert_eq!(*free.lock().unwrap(), 0);
        assert!(!throttle.is_waiting());
    }
}

#[cfg(all(test, memsvc_loom))]
mod loom_tests {
    use super::*;
    use crate::core::loom::model;
    use ::loom::sync::Arc;
    use ::loom::thread;

    const EVER: Duration = Duration::MAX;
    const SOON: Duration = Duration::ZERO;

    /// Free frames, counted under a lock as in the allocator, and who waits for them.
    #[derive(Default)]
    struct Reserve {
        free: Mutex<u32>,
        throttle: Throttle,
    }

    impl Reserve {
        fn wait(&self, limit: Duration) -> Waited {
            self.throttle.wait(limit, || *lock(&self.free) > 0)
        }

        fn free(&self) {
            *lock(&self.free) += 1;
            self.throttle.wake();
        }
    }

    fn spawn(reserve: &Arc<Reserve>, what: impl FnOnce(&Reserve) + 'static) -> thread::JoinHandle<()> {
        let reserve = Arc::clone(reserve);
        thread::spawn(move || what(&reserve))
    }

    #[test]
    fn loom_a_free_is_seen_or_wakes() {
        model(3, || {
            let reserve = Arc::new(Reserve::default());
            let free = spawn(&reserve, Reserve::free);
            assert_eq!(reserve.wait(EVER), Waited::Back);
            free.join().unwrap();
        });
    }

    #[test]
    fn loom_one_free_wakes_all_one_after_the_other() {
        model(3, || {
            let reserve = Arc::new(Reserve::default());
            let waiter = |reserve: &Reserve| assert_eq!(reserve.wait(EVER), Waited::Back);
            let others = [spawn(&reserve, waiter), spawn(&reserve, waiter)];
            reserve.free();
            for other in others {
                other.join().unwrap();
            }
            assert!(!reserve.throttle.is_waiting());
        });
    }

    #[test]
    fn loom_who_gives_up_hands_the_wake_up_on() {
        model(3, || {
            let reserve = Arc::new(Reserve::default());
            let impatient = spawn(&reserve, |reserve| {
                reserve.wait(SOON);
            });
            let free = spawn(&reserve, Reserve::free);
            assert_eq!(reserve.wait(EVER), Waited::Back);
            free.join().unwrap();
            impatient.join().unwrap();
            assert!(!reserve.throttle.is_waiting());
        });
    }
}

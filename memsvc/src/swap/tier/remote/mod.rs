//! The remote tier: an export of an NBD server that exists, over one connection at a time.
//!
//! ```text
//!            ┌── dial ──▶ Open: handshake, then requests and replies ──┐
//!            │                                                         │ broken, silent, nonsense
//!   Resting until the next try ◀───────────────────────────────────────┘
//!      50 ms, doubled to 1 s until a request is answered
//! ```
//! | file | what |
//! | --- | --- |
//! | `client` | the protocol, without I/O: `handshake`, then `requests` |
//! | `socket` | the way to a server |
//! | `broken` | why it goes on no more |
//!
//! An operation waits for at most the stated time since it was submitted, however often the connection is
//! lost meanwhile; then it ends as [`TierError::Away`]. Until then all that has not been answered is sent
//! again on the next connection; see [`requests`] for why that is right. Once one has waited in vain, those that
//! come end so at once, until the server is back: nobody waits for the stated time again and again. It is back when it
//! has answered something, if only a read that is made for that: a server may greet as often as it likes, and the disk
//! behind it stand still. Nothing is allocated after [`RemoteTier::connect`].
//!
//! A write or a discard that has ended as `Away` may still be done by a server that comes back to it: its place is
//! better not used again soon. So what was sent ends like this, too, when the export cannot be used any more.

mod broken;
mod client;
mod handshake;
mod requests;
mod socket;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Done, NbdServer, Op, TierError, Transport};
use crate::stats::{Counter, counters};
use broken::Broken;
pub use broken::ConnectError;
use client::Client;
use requests::DEPTH;
use socket::{Address, dial, receive_some, resolve, send_some};

counters! {
    /// How it goes with the server of a remote tier.
    RemoteCounters => RemoteStats {
        /// Connections that were lost.
        lost,
        /// Connections made again.
        reconnects,
        /// Operations that were sent again on another connection.
        resent,
        /// Operations that waited for longer than the server may be away.
        timeouts,
    }
}

/// First rest after a connection is lost.
const FIRST_REST: Duration = Duration::from_millis(50);
/// Longest rest between two tries.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Longest time from a try until the export is chosen: then it is tried again, perhaps at another address.
const LONGEST_TRY: Duration = Duration::from_secs(5);
/// Bytes that are moved by one system call, each way.
const BUFFER: usize = 128 << 10;

/// The way to the server.
#[derive(Debug)]
enum Link {
    /// Not before then.
    Resting(Instant),
    /// A connection; its handshake is to be done by then.
    Open(OwnedFd, Instant),
}

/// What has been said of the server, so that it is said once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Serves,
    Away,
    Unfit,
}

/// An NBD server as a tier.
#[derive(Debug)]
pub(crate) struct RemoteTier {
    uri: String,
    addresses: Vec<Address>,
    next_address: usize,
    timeout: Duration,
    client: Client,
    link: Link,
    rest: Duration,
    said: Said,
    input: Box<[u8]>,
    output: Box<[u8]>,
    /// What of it is still to be sent.
    unsent: Range<usize>,
    /// When a request was answered the last time. A greeting is no answer.
    heard: Instant,
    /// It has not answered for the stated time, and is not back.
    is_away: Arc<AtomicBool>,
    counters: Arc<RemoteCounters>,
}

impl RemoteTier {
    /// Connects to an export. Says how many places it has, at most `most`. Waits for it, for up to `timeout`
    /// and some seconds for each address of the server, and for the resolver: names are looked up here, and
    /// not again.
    ///
    /// # Errors
    /// It cannot be used; says why.
    pub(crate) fn connect(
        server: &NbdServer,
        export: &str,
        timeout: Duration,
        most: u64,
    ) -> Result<(Self, u64), ConnectError> {
        let uri = server.uri(export);
        let failed = |why| ConnectError { server: uri.clone(), why };
        let mut tier = Self {
            addresses: resolve(server).map_err(failed)?,
            uri: uri.clone(),
            next_address: 0,
            timeout,
            client: Client::new(export),
            link: Link::Resting(Instant::now()),
            rest: FIRST_REST,
            said: Said::Serves,
            input: vec![0; BUFFER].into(),
            output: vec![0; BUFFER].into(),
            unsent: 0..0,
            heard: Instant::now(),
            is_away: Arc::default(),
            counters: Arc::default(),
        };
        let mut result = Err(Broken::Silent);
        for _ in 0..tier.addresses.len() {
            result = tier.first_try();
            if result.is_ok() {
                break;
            }
            tier.client.restart();
            tier.unsent = 0..0;
            tier.link = Link::Resting(Instant::now());
        }
        let places = result.map_err(failed)?.min(most);
        tier.client.need(places);
        tracing::info!(server = tier.uri, places, "a remote tier is connected");
        Ok((tier, places))
    }

    /// Tries one address. Says how many places there are.
    fn first_try(&mut self) -> Result<u64, Broken> {
        loop {
            self.work(Instant::now())?;
            if let Some(export) = self.client.export() {
                return Ok(export.places);
            }
            self.sleep(None, Instant::now());
        }
    }

    /// True while it has not answered for the stated time, and is not back: nothing is sent then.
    pub(crate) fn is_away(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_away)
    }

    /// Where it is counted how it goes.
    pub(crate) fn counters(&self) -> Arc<RemoteCounters> {
        Arc::clone(&self.counters)
    }

    /// Moves bytes, as many as can be moved now.
    fn work(&mut self, now: Instant) -> Result<(), Broken> {
        if let Link::Resting(until) = self.link {
            if until > now {
                return Ok(());
            }
            let address = &self.addresses[self.next_address % self.addresses.len()];
            self.next_address = self.next_address.wrapping_add(1);
            let socket = dial(address, self.timeout)?;
            self.link = Link::Open(socket, now + LONGEST_TRY.min(self.timeout));
        }
        let Link::Open(socket, ready_by) = &self.link else { return Ok(()) };
        loop {
            if self.unsent.is_empty() {
                self.unsent = 0..self.client.send(&mut self.output);
            }
            if self.unsent.is_empty() {
                break;
            }
            let sent = send_some(socket, &self.output[self.unsent.clone()])?;
            self.unsent.start += sent;
            if sent == 0 {
                break;
            }
        }
        let was_chosen = self.client.export().is_some();
        let answered = self.client.answered();
        let received = receive_some(socket, &mut self.input)?;
        let result = self.client.receive(&self.input[..received]);
        if self.client.answered() > answered {
            self.heard = now;
        }
        result?;
        let is_chosen = self.client.export().is_some();
        if !is_chosen && *ready_by <= now {
            return Err(Broken::Silent);
        }
        if is_chosen && !was_chosen && self.said != Said::Serves {
            self.counters.reconnects.add(1);
        }
        let is_away = self.is_away.load(Ordering::Relaxed);
        if is_chosen && is_away && !self.client.is_served(false) {
            self.client.probe(now + self.timeout);
        }
        if self.client.answered() > 0 {
            self.rest = FIRST_REST;
        }
        if self.client.is_served(!is_away) {
            self.is_away.store(false, Ordering::Relaxed);
            if self.said != Said::Serves {
                self.said = Said::Serves;
                // As loud as that it was away.
                crate::seldom!(warn, server = self.uri, "the NBD server is back");
            }
        }
        Ok(())
    }

    /// There will be another connection.
    fn lose(&mut self, why: &Broken, now: Instant) {
        if matches!(self.link, Link::Open(..)) {
            self.counters.lost.add(1);
        }
        let said = if why.is_unfit() { Said::Unfit } else { self.said.max(Said::Away) };
        if said == Said::Unfit {
            self.client.end_all(TierError::Refused);
        }
        if said != self.said && said == Said::Unfit {
            crate::seldom!(error, server = self.uri, %why, "the NBD export cannot be used any more: all is refused");
        } else if said != self.said {
            crate::seldom!(warn, server = self.uri, %why, "the NBD server is away: what is asked of it waits");
        }
        self.said = said;
        self.counters.resent.add(self.client.restart());
        self.unsent = 0..0;
        self.link = Link::Resting(now + self.rest);
        self.rest = (self.rest * 2).min(LONGEST_REST);
    }

    /// Ends what has waited for too long. A server that has been asked may still answer: then there has to be
    /// another connection, which does not know of it.
    fn expire(&mut self, now: Instant) {
        let (count, were_sent) = self.client.expire(now);
        self.counters.timeouts.add(count);
        // One that is slow with some is not away. It may have answered others of the same moment.
        if count > 0 && self.heard + self.timeout - self.timeout / 10 <= now {
            self.is_away.store(true, Ordering::Relaxed);
        }
        if were_sent {
            self.lose(&Broken::Silent, now);
        }
    }

    /// Sleeps until there may be something to do. True when the bell can be read.
    fn sleep(&self, bell: Option<BorrowedFd<'_>>, now: Instant) -> bool {
        let (socket, own) = match &self.link {
            Link::Resting(until) => (None, Some(*until)),
            Link::Open(socket, ready_by) => {
                (Some(socket.as_fd()), self.client.export().is_none().then_some(*ready_by))
            }
        };
        let until = own.into_iter().chain(self.client.next_deadline()).min();
        let time = until.map(|until| until.saturating_duration_since(now));
        let time = time.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let mut interest = PollFlags::IN;
        if !self.unsent.is_empty() || self.client.has_output() {
            interest |= PollFlags::OUT;
        }
        let own_fd = |fd| PollFd::from_borrowed_fd(fd, interest);
        let bell_fd = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        match (bell, socket) {
            (Some(bell), Some(socket)) => {
                let mut fds = [bell_fd(bell), own_fd(socket)];
                poll(&mut fds, time.as_ref()).is_ok() && !fds[0].revents().is_empty()
            }
            (Some(bell), None) => {
                let mut fds = [bell_fd(bell)];
                poll(&mut fds, time.as_ref()).is_ok() && !fds[0].revents().is_empty()
            }
            (None, Some(socket)) => {
                let _ = poll(&mut [own_fd(socket)], time.as_ref());
                false
            }
            (None, None) => false,
        }
    }
}

impl Transport for RemoteTier {
    fn depth(&self) -> usize {
        DEPTH
    }

    fn submit(&mut self, token: u64, op: Op) {
        let is_unfit = self.said == Said::Unfit;
        // As in `end_all`.
        if is_unfit && !matches!(op, Op::Discard { .. }) {
            self.client.end(token, op, TierError::Refused);
        } else if is_unfit || self.is_away.load(Ordering::Relaxed) {
            self.client.end(token, op, TierError::Unasked);
        } else {
            self.client.submit(token, op, Instant::now() + self.timeout);
        }
    }

    fn wait(&mut self, bell: BorrowedFd<'_>, done: &mut dyn FnMut(Done)) {
        loop {
            let now = Instant::now();
            if let Err(why) = self.work(now) {
                self.lose(&why, now);
            }
            self.expire(now);
            let mut has_ended = false;
            while let Some(ended) = self.client.take_ended() {
                has_ended = true;
                done(ended);
            }
            if has_ended || self.sleep(Some(bell), now) {
                return;
            }
        }
    }

    fn give_up(&mut self) {
        self.client.end_all(TierError::Away);
        self.client.restart();
        self.unsent = 0..0;
        // The server may answer what it was asked: nobody hears it.
        self.link = Link::Resting(Instant::now() + LONGEST_REST);
    }
}

impl Drop for RemoteTier {
    fn drop(&mut self) {
        if let Link::Open(socket, _) = &self.link
            && self.unsent.is_empty()
            && let Some(farewell) = self.client.farewell()
        {
            let _ = send_some(socket, &farewell);
        }
    }
}

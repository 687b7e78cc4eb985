//! Waiting for a client that waits for us.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// Looks for what comes before it sleeps, for as long as that has been worth it of late: being woken takes longer than
/// a request. As KVM does for a vCPU that halts (`kvm_vcpu_halt`, virt/kvm/kvm_main.c); but only where the client has
/// moved a single page since the last wait. Who moves more has requests under way, and is not waiting for us.
#[derive(Debug, Default)]
pub(super) struct Halt {
    /// How long it looks.
    poll: Duration,
    /// Bytes both ways since the last wait.
    moved: usize,
}

impl Halt {
    const FIRST: Duration = Duration::from_micros(10);
    const LONGEST: Duration = Duration::from_micros(100);
    /// A page with its request and its reply.
    const ONE_PAGE: usize = 4096 + 64;

    /// So many bytes were sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.moved += bytes;
    }

    /// Reads at least a byte, or 0 when there will be none any more; waits for it.
    ///
    /// # Errors
    /// The connection failed.
    pub(super) fn read(&mut self, stream: &mut (impl Read + AsFd), into: &mut [u8]) -> io::Result<usize> {
        let poll = if self.moved <= Self::ONE_PAGE { self.poll } else { Duration::ZERO };
        let start = Instant::now();
        let came = loop {
            if start.elapsed() >= poll {
                let came = stream.read(into)?;
                self.poll = match start.elapsed() {
                    long if long > Self::LONGEST => Duration::ZERO,
                    _ => (self.poll * 2).clamp(Self::FIRST, Self::LONGEST),
                };
                break came;
            }
            match recv(&*stream, &mut *into, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => thread::yield_now(),
                Err(error) => return Err(error.into()),
                Ok((came, _)) => break came,
            }
        };
        self.moved = came;
        Ok(came)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn who_looks_before_sleeping_sees_what_comes_and_that_nothing_will() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        let patient = Duration::from_secs(60);
        let mut halt = Halt { poll: patient, moved: 0 };
        let mut byte = [0];
        theirs.write_all(&[1]).expect("sent");
        assert_eq!(halt.read(&mut ours, &mut byte).expect("a byte"), 1);
        assert_eq!((byte, halt.poll, halt.moved), ([1], patient, 1));
        halt.poll = Halt::LONGEST;
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(100 * Halt::LONGEST);
                theirs.write_all(&[2]).expect("sent");
            });
            assert_eq!(halt.read(&mut ours, &mut byte).expect("a byte"), 1);
        });
        assert_eq!((byte, halt.poll), ([2], Duration::ZERO), "it was not worth it");
        halt.poll = patient;
        drop(theirs);
        assert_eq!(halt.read(&mut ours, &mut byte).expect("an end"), 0);
    }
}

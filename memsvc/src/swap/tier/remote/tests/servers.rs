//! The tier over servers that others wrote: nbdkit and qemu-nbd, as they are and as they fail.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use zerocopy::IntoBytes;

use super::super::super::NbdServer;
use super::super::requests::DEPTH;
use super::super::{Broken, RemoteTier};
use super::protocol::FLAGS;
use super::rig::{Cutter, Driver, PATIENCE, Place, Restarted, Server, greet_each, next_request};
use super::*;
use crate::swap::nbd::{SimpleReply, TransmissionFlags};

/// Long enough for a server to come back in any of these tests.
const LONG: Duration = PATIENCE;
const SHORT: Duration = Duration::from_secs(2);
const MEMORY: [&str; 2] = ["memory", "64M"];
/// One request after the other: with more threads, nbdkit 1.32 may abort when a connection is lost under it
/// (an assertion in its `raw_send_socket`).
const IN_TURN: &str = "--threads=1";

fn refusal(socket: &std::path::Path, export: &str) -> String {
    let error = Driver::try_new(socket, export, LONG).err().expect("it cannot be used").to_string();
    assert!(!error.contains('\n') && error.starts_with("NBD server nbd+unix:///"), "{error}");
    error
}

#[test]
fn nbdkit_memory_keeps_what_is_written() {
    let place = Place::new();
    let _server = Server::nbdkit(&place, &MEMORY);
    let mut driver = Driver::new(&place.socket(), LONG);
    assert_eq!(driver.places, 64 << 8);
    let last = driver.places - 1;
    driver.write_all(0..3000, 1, |_| {});
    driver.write_all(last..last + 1, 1, |_| {});
    driver.verify(0..3000, 1);
    driver.verify(last..last + 1, 1);
    driver.write_all(0..1000, 2, |_| {});
    assert_eq!(driver.run_last(Op::Discard { places: 1000..2000 }).result, Ok(()));
    driver.verify(0..1000, 2);
    driver.verify(2000..3000, 1);
    // nbdkit's memory reads as zeroes where it was trimmed: it was.
    assert!(is(&driver.run(read(1500)), &Block([0; FRAME_SIZE])));
    let stats = driver.tier.counters().snapshot();
    assert_eq!((stats.lost, stats.resent, stats.timeouts), (0, 0, 0));
}

#[test]
fn errors_of_nbdkit_are_refusals_of_one_operation() {
    let place = Place::new();
    let (reads, writes) = (place.path("reads"), place.path("writes"));
    let trigger = |what: &str, path: &std::path::Path| format!("error-{what}-file={}", path.display());
    let (read_file, write_file) = (trigger("pread", &reads), trigger("pwrite", &writes));
    let arguments = [
        &["--filter=error"][..],
        &MEMORY,
        &["error-pread=EIO", "error-pread-rate=100%", &read_file],
        &["error-pwrite=ENOSPC", "error-pwrite-rate=50%", &write_file],
    ];
    let _server = Server::nbdkit(&place, &arguments.concat());
    let mut driver = Driver::new(&place.socket(), LONG);
    driver.write_all(0..200, 1, |_| {});
    driver.verify(0..200, 1);

    std::fs::write(&reads, "").unwrap();
    (0..100).for_each(|place| _ = driver.submit(if place % 2 == 0 { read(place) } else { write(place, 2) }));
    for (place, done) in (0..100).zip(driver.finish()) {
        let expected = if place % 2 == 0 { Err(TierError::Refused) } else { Ok(()) };
        assert_eq!(done.result, expected, "place {place}");
    }
    std::fs::remove_file(&reads).unwrap();

    std::fs::write(&writes, "").unwrap();
    (100..200).for_each(|place| _ = driver.submit(write(place, 2)));
    let results: Vec<_> = driver.finish().into_iter().map(|done| done.result).collect();
    let full = results.iter().filter(|result| **result == Err(TierError::Full)).count();
    assert!((1..100).contains(&full) && results.iter().filter(|result| result.is_ok()).count() == 100 - full);
    for (place, result) in (100..200).zip(results) {
        driver.verify(place..place + 1, if result.is_ok() { 2 } else { 1 });
    }
    assert_eq!(driver.tier.counters().snapshot().lost, 0);
}

#[test]
fn nbdkit_that_says_it_is_shutting_down_is_asked_again() {
    let place = Place::new();
    let arguments = [&[IN_TURN, "--filter=error"][..], &MEMORY, &["error=ESHUTDOWN", "error-rate=1%"]];
    let _server = Server::nbdkit(&place, &arguments.concat());
    let mut driver = Driver::new(&place.socket(), LONG);
    driver.write_all(0..500, 1, |_| {});
    driver.verify(0..500, 1);
    let stats = driver.tier.counters().snapshot();
    assert!(stats.lost > 0 && stats.reconnects > 0 && stats.resent >= stats.lost, "{stats:?}");
}

#[test]
fn operations_that_nbdkit_delays_for_too_long_end_and_others_go_on() {
    let place = Place::new();
    let arguments = [&["--filter=delay"][..], &MEMORY, &["rdelay=30"]];
    let _server = Server::nbdkit(&place, &arguments.concat());
    let mut driver = Driver::new(&place.socket(), SHORT);
    let start = Instant::now();
    driver.submit(read(1));
    let mut writes = 0;
    // Not when the connection is given up for the read: nbdkit 1.32 may abort then.
    while start.elapsed() < SHORT - SHORT / 20 {
        driver.submit(write(2, 2));
        driver.wait();
        writes += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    let results: Vec<_> = driver.finish().into_iter().map(|done| done.result).collect();
    assert_eq!(results[0], Err(TierError::Away));
    assert!(results.len() == 1 + writes && results[1..].iter().all(|result| *result == Ok(())));
    assert!(start.elapsed() >= SHORT);
    assert!(!driver.tier.is_away().load(Ordering::Relaxed), "it is slow, and here");
    assert_eq!(driver.run(write(3, 3)).result, Ok(()));
    let stats = driver.tier.counters().snapshot();
    assert_eq!((stats.timeouts, stats.lost), (1, 1), "its answer is not waited for");
}

fn is_away(done: &Done) -> bool {
    done.result.is_err_and(TierError::is_away)
}

/// A server that greets, and has a disk that stands still behind it: one operation waits for it, and those that come
/// later do not, however often it greets.
#[test]
fn a_server_that_greets_and_does_not_serve_is_away() {
    let place = Place::new();
    let arguments = [&["--filter=delay"][..], &MEMORY, &["rdelay=30"]];
    let _server = Server::nbdkit(&place, &arguments.concat());
    let mut driver = Driver::new(&place.socket(), Duration::from_millis(500));
    let start = Instant::now();
    for place in 0..40 {
        let expected = if place == 0 { TierError::Away } else { TierError::Unasked };
        assert_eq!(driver.run(read(place)).result, Err(expected));
        std::thread::sleep(Duration::from_millis(50));
    }
    let stats = driver.tier.counters().snapshot();
    assert_eq!(stats.timeouts, 1, "{stats:?} in {:?}", start.elapsed());
    assert!(driver.tier.is_away().load(Ordering::Relaxed));
}

/// The same for one that greets and drops, again and again: of all that waits, those that were begun before that was
/// known wait in vain.
#[test]
fn a_server_that_greets_and_goes_again_and_again_is_away() {
    let place = Place::new();
    greet_each(&place.socket(), |_| FLAGS, |_, _| {});
    let mut driver = Driver::new(&place.socket(), SHORT);
    let many = 4 * DEPTH as u64;
    (0..many).for_each(|place| _ = driver.submit(read(place)));
    let results = driver.finish();
    assert!(results.len() as u64 == many && results.iter().all(is_away));
    let stats = driver.tier.counters().snapshot();
    assert!(stats.timeouts <= DEPTH as u64 && stats.reconnects > 1, "{stats:?}");
    assert!(driver.tier.is_away().load(Ordering::Relaxed));
}

/// Its first connection keeps silent. On the next one it answers one request, and the others once there are more.
#[test]
fn a_server_that_comes_back_is_asked_as_much_as_before() {
    let place = Place::new();
    let (go_on, goes_on) = mpsc::channel();
    greet_each(
        &place.socket(),
        |_| FLAGS,
        move |number, mut stream| {
            for answered in 0.. {
                let Some(request) = next_request(&mut stream) else { return };
                if number > 0 {
                    if answered == 1 {
                        goes_on.recv().unwrap();
                    }
                    stream.write_all(SimpleReply::new(request.cookie, None).as_bytes()).unwrap();
                    stream.write_all(&[7; FRAME_SIZE]).unwrap();
                }
            }
        },
    );
    let mut driver = Driver::new(&place.socket(), SHORT);
    driver.submit(read(0));
    std::thread::sleep(SHORT);
    (1..DEPTH as u64).for_each(|place| _ = driver.submit(read(place)));
    // The first one has waited in vain, then the second one is answered.
    driver.wait();
    assert!(driver.tier.is_away().load(Ordering::Relaxed));
    driver.wait();
    assert!(!driver.tier.is_away().load(Ordering::Relaxed));
    (0..2).for_each(|place| _ = driver.submit(read(place)));
    go_on.send(()).unwrap();
    let results: Vec<_> = driver.finish().into_iter().map(|done| done.result).collect();
    assert_eq!(results[0], Err(TierError::Away));
    assert_eq!(results[1..], [Ok(()); DEPTH + 1]);
}

#[test]
fn connections_that_are_closed_at_any_byte_lose_nothing() {
    let place = Place::new();
    let _server = Server::nbdkit(&place, &[&[IN_TURN][..], &MEMORY].concat());
    let near = place.path("near");
    let cutter = Cutter::new(&near, place.socket(), 5);
    let mut driver = cut_driver(&near);
    driver.write_all(0..500, 1, |_| {});
    driver.verify(0..200, 1);
    let stats = driver.tier.counters().snapshot();
    assert!(stats.lost >= 10 && stats.resent > 0 && stats.timeouts == 0, "{stats:?}");
    cutter.stop();
    driver.verify(0..500, 1);
}

/// The handshake may be cut as well.
fn cut_driver(near: &std::path::Path) -> Driver {
    let start = Instant::now();
    loop {
        match Driver::try_new(near, "", LONG) {
            Ok(driver) => return driver,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
    }
}

#[test]
fn nbdkit_that_ends_with_its_connection_is_waited_for() {
    let place = Place::new();
    let file = place.path("file");
    std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let server = Restarted::serve(&place, &file, &[IN_TURN]);
    let near = place.path("near");
    let cutter = Cutter::new(&near, place.socket(), 7);
    let mut driver = cut_driver(&near);
    driver.write_all(0..700, 1, |_| {});
    driver.verify(0..300, 1);
    cutter.stop();
    driver.verify(0..700, 1);
    let stats = driver.tier.counters().snapshot();
    assert!(stats.lost >= 5 && stats.resent > 0 && stats.timeouts == 0, "{stats:?}");
    drop(driver);
    let ended = server.end();
    assert!(ended >= 5, "nbdkit has ended {ended} times");
}

#[test]
fn qemu_nbd_killed_in_the_middle_is_waited_for() {
    let place = Place::new();
    let file = place.path("file");
    std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let mut server = Server::qemu(&place, &file, &[]);
    let mut restarted = None;
    let mut driver = Driver::new(&place.socket(), LONG);
    driver.write_all(0..500, 1, |_| {});
    driver.verify(0..500, 1);
    for version in 2..5 {
        driver.write_all(0..2000, version, |at| {
            if at == 1000 {
                server.kill();
                // What is under way waits meanwhile.
                let (place, file) = (place.clone(), file.clone());
                restarted = Some(std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(300));
                    Server::qemu(&place, &file, &[])
                }));
            }
        });
        driver.verify(0..2000, version);
        server = restarted.take().unwrap().join().unwrap();
    }
    assert_eq!(driver.run(Op::Discard { places: 0..100 }).result, Ok(()));
    driver.verify(100..2000, 4);
    let stats = driver.tier.counters().snapshot();
    assert!(stats.lost >= 3 && stats.reconnects >= 3 && stats.resent > 0 && stats.timeouts == 0, "{stats:?}");
}

#[test]
fn a_server_that_stays_away_fails_what_has_waited_for_so_long() {
    let place = Place::new();
    let mut server = Server::nbdkit(&place, &MEMORY);
    let mut driver = Driver::new(&place.socket(), SHORT);
    driver.write_all(0..10, 1, |_| {});
    assert!(driver.finish().iter().all(|done| done.result == Ok(())));
    server.kill();
    for round in 0..2 {
        let start = Instant::now();
        driver.submit(write(1, 1));
        driver.submit(read(2));
        driver.submit(Op::Discard { places: 3..4 });
        let results = driver.finish();
        assert!(results.iter().all(is_away), "round {round}");
        assert!(
            round == 0 || results.iter().all(|done| done.result == Err(TierError::Unasked)),
            "{results:?}"
        );
        let waited = start.elapsed();
        assert!(round > 0 || waited >= SHORT, "{waited:?}");
        // It is the stated time that ends it.
        assert!(waited < LONG, "{waited:?}");
    }
    // Those of the second round have not waited, and are asked of nobody.
    assert_eq!(driver.tier.counters().snapshot().timeouts, 3);
    assert!(driver.tier.is_away().load(Ordering::Relaxed));
    server = Server::nbdkit(&place, &MEMORY);
    // The server may have come back during the last rest: until then, what is asked still waits in vain.
    let start = Instant::now();
    while driver.run(write(5, 2)).result != Ok(()) {
        assert!(start.elapsed() < PATIENCE);
    }
    driver.verify(5..6, 2);
    assert!(!driver.tier.is_away().load(Ordering::Relaxed));
    assert_eq!(driver.tier.counters().snapshot().reconnects, 1);
    drop(server);
}

#[test]
fn the_bell_is_heard_while_nothing_ends() {
    let place = Place::new();
    let mut server = Server::nbdkit(&place, &MEMORY);
    let mut driver = Driver::new(&place.socket(), LONG);
    driver.ring();
    driver.wait();
    server.kill();
    driver.submit(write(1, 1));
    (0..3).for_each(|_| driver.wait());
    server = Server::nbdkit(&place, &MEMORY);
    driver.verify(1..2, 1);
    drop(server);
}

#[test]
fn an_export_that_comes_back_smaller_or_read_only_is_refused_until_it_is_right() {
    let place = Place::new();
    let mut server = Server::nbdkit(&place, &MEMORY);
    let mut driver = Driver::new(&place.socket(), LONG);
    for wrong in [&["memory", "60M"][..], &["--readonly", "memory", "64M"]] {
        driver.write_all(0..10, 1, |_| {});
        driver.verify(0..10, 1);
        server.kill();
        server = Server::nbdkit(&place, wrong);
        // It may be sent before it is seen that the server has gone: a write would not be refused then.
        assert_eq!(driver.run(read(1)).result, Err(TierError::Refused), "{wrong:?}");
        assert_eq!(driver.run(write(1, 2)).result, Err(TierError::Refused), "{wrong:?}");
        assert!(is_away(&driver.run(Op::Discard { places: 1..2 })), "{wrong:?}");
        server.kill();
        server = Server::nbdkit(&place, &MEMORY);
        let start = Instant::now();
        while driver.run(write(1, 2)).result != Ok(()) {
            assert!(start.elapsed() < PATIENCE);
        }
    }
}

/// Its first connection takes what is written and discarded, and ends; the next ones are read-only, or have no trim.
#[test]
fn what_was_sent_and_not_answered_is_not_refused_when_the_export_has_changed() {
    let read_only = FLAGS | TransmissionFlags::READ_ONLY;
    for (flags, written) in [(read_only, Err(TierError::Away)), (TransmissionFlags::HAS_FLAGS, Ok(()))] {
        let place = Place::new();
        greet_each(
            &place.socket(),
            move |number| if number == 0 { FLAGS } else { flags },
            |number, mut stream| {
                for asked in 1.. {
                    let Some(request) = next_request(&mut stream) else { return };
                    if number == 0 && asked == 2 {
                        return;
                    }
                    if number > 0 {
                        stream.write_all(SimpleReply::new(request.cookie, None).as_bytes()).unwrap();
                    }
                }
            },
        );
        let mut driver = Driver::new(&place.socket(), LONG);
        driver.submit(write(1, 1));
        driver.submit(Op::Discard { places: 10..20 });
        let results: Vec<_> = driver.finish().into_iter().map(|done| done.result).collect();
        assert_eq!(results, [written, Err(TierError::Away)], "{flags:?}");
    }
}

#[test]
fn servers_that_cannot_be_used_are_said_to_be_in_one_sentence() {
    let place = Place::new();
    assert!(refusal(&place.path("none"), "").contains("cannot be reached"));
    let readonly = Server::nbdkit(&place, &["--readonly", "memory", "64M"]);
    assert!(refusal(&place.socket(), "").contains("read-only"));
    drop(readonly);
    let small = Server::nbdkit(&place, &["memory", "2048"]);
    assert!(refusal(&place.socket(), "").contains("has 0 pages"));
    drop(small);
    let file = place.path("file");
    std::fs::File::create(&file).unwrap().set_len(1 << 20).unwrap();
    let named = Server::qemu(&place, &file, &["--export-name=swap"]);
    assert!(refusal(&place.socket(), "other").contains("no export of this name"));
    assert_eq!(Driver::try_new(&place.socket(), "swap", LONG).ok().unwrap().places, 256);
    drop(named);
    let keys = place.path("keys");
    std::fs::write(&keys, "guest:0123456789abcdef0123456789abcdef\n").unwrap();
    let psk = format!("--tls-psk={}", keys.display());
    let _tls = Server::nbdkit(&place, &["--tls=require", &psk, "memory", "64M"]);
    assert!(refusal(&place.socket(), "").contains("TLS"));
}

#[test]
fn what_is_no_server_is_told_from_one() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    std::thread::spawn(move || {
        // The first three say what they should not, the others nothing, and stay.
        let mut silent = Vec::new();
        for said in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53", b"x"]
        {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(said).unwrap();
        }
        while let Ok((stream, _)) = listener.accept() {
            silent.push(stream);
        }
    });
    assert!(refusal(&place.socket(), "").contains("no NBD server"));
    assert!(refusal(&place.socket(), "").contains("closed"));
    assert!(refusal(&place.socket(), "").contains("closed"));
    let error = Driver::try_new(&place.socket(), "", SHORT).err().unwrap();
    assert!(error.to_string().contains("does not answer"), "{error}");
}

#[test]
fn a_server_replaced_by_noise_is_waited_for_as_one_that_is_away() {
    let place = Place::new();
    let mut server = Server::nbdkit(&place, &MEMORY);
    let mut driver = Driver::new(&place.socket(), SHORT);
    assert_eq!(driver.run(write(1, 1)).result, Ok(()));
    server.kill();
    std::fs::remove_file(place.socket()).unwrap();
    let listener = UnixListener::bind(place.socket()).unwrap();
    std::thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(3);
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(&std::iter::repeat_with(|| random.u8(..)).take(500).collect::<Vec<_>>());
        }
    });
    assert_eq!(driver.run(write(1, 2)).result, Err(TierError::Away));
    assert!(driver.tier.counters().snapshot().lost > 1);
}

#[test]
fn a_server_on_a_port_is_as_good() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Server::nbdkit_on(port, &MEMORY);
    let address = NbdServer::Tcp("localhost".into(), port);
    let (tier, places) = RemoteTier::connect(&address, "", LONG, 1000).unwrap();
    assert_eq!(places, 1000);
    let mut driver = Driver::of(tier, places);
    driver.write_all(0..1000, 1, |_| {});
    driver.verify(0..1000, 1);
    driver.write_all(0..1000, 2, |at| {
        if at == 0 {
            server.kill();
        }
        if at == DEPTH as u64 - 10 {
            server = Server::nbdkit_on(port, &MEMORY);
        }
    });
    driver.verify(1..1000, 2);
    drop(server);
    drop(driver);
    let why = RemoteTier::connect(&address, "", LONG, 1000).err().unwrap().why;
    assert!(matches!(why, Broken::Unreachable(_)), "{why}");
}

//! The console on a connection of the API.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::Instant,
};

use super::{
    super::{
        client::{Client, ClientError},
        fake,
        types::CONSOLE_PROTOCOL,
    },
    Connection, PATIENCE, Served, serve, serve_started, started,
};

fn client(served: &Served) -> Client {
    Client::new(&served.path).expect("a client")
}

fn attach(served: &Served) -> UnixStream {
    let (stream, first) = client(served).upgrade("/console", CONSOLE_PROTOCOL).expect("a console");
    assert!(first.is_empty());
    stream.set_nonblocking(false).expect("blocks");
    stream.set_read_timeout(Some(PATIENCE)).expect("a bound");
    stream
}

#[test]
fn what_is_typed_comes_to_the_guest_and_what_it_says_comes_back() {
    let served = serve_started();
    let (first, second) = (attach(&served), attach(&served));
    for (mut console, typed, heard) in [(&first, "abc", "ABC"), (&second, "x", "X"), (&first, "d", "D")] {
        console.write_all(typed.as_bytes()).expect("typed");
        let mut said = vec![0; heard.len()];
        console.read_exact(&mut said).expect("heard");
        assert_eq!(said, heard.as_bytes());
    }
    drop(served);
    assert_eq!((&first).read(&mut [0]).expect("the end"), 0, "the console ends with its guest");
}

#[test]
fn a_guest_that_takes_no_keys_holds_nobody_up() {
    let served = started(fake::wedged_controller());
    let mut console = attach(&served);
    console.set_write_timeout(Some(PATIENCE)).expect("a bound");
    let start = Instant::now();
    for _ in 0..64 {
        console.write_all(&[b'x'; 1 << 16]).expect("taken, and lost");
        assert!(start.elapsed() < PATIENCE, "each key is waited for");
    }
    // Others are served meanwhile.
    assert_eq!(Connection::open(&served).call("GET", "/", "").status, 200);
}

#[test]
fn a_console_that_cannot_be_has_its_sentence() {
    let served = serve();
    let refused = client(&served).upgrade("/console", CONSOLE_PROTOCOL).expect_err("no guest");
    assert!(matches!(refused, ClientError::NotStarted), "{refused}");
    let refused = client(&served).upgrade("/console", "websocket").expect_err("another protocol").to_string();
    let plain = Connection::open(&served).call("GET", "/console", "").fault();
    assert_eq!(refused, plain);
    assert!(plain.contains("Upgrade: aerostat-console"), "{plain}");
    let none = client(&served).upgrade("/", CONSOLE_PROTOCOL).expect_err("no console");
    assert!(matches!(none, ClientError::Unreadable(_)), "{none}");
}

/// A console whose guest says its last words, of which the first has come.
fn ending(served: &Served) -> UnixStream {
    let mut console = attach(served);
    console.write_all(&[fake::LAST_KEY]).expect("typed");
    console.read_exact(&mut [0]).expect("heard");
    console
}

/// The count of words that are still to come.
fn rest(mut console: &UnixStream) -> usize {
    let mut said = Vec::new();
    console.read_to_end(&mut said).expect("the end");
    said.len()
}

#[test]
fn the_last_words_of_a_guest_are_heard_though_its_monitor_ends() {
    let served = serve_started();
    let console = ending(&served);
    let ends = thread::spawn(move || drop(served));
    assert_eq!(rest(&console), fake::LAST_WORDS - 1);
    ends.join().expect("ends");
}

#[test]
fn the_last_words_of_a_guest_are_heard_though_somebody_types() {
    let served = serve_started();
    let console = ending(&served);
    (&console).write_all(b"abc").expect("taken, and lost");
    assert_eq!(rest(&console), fake::LAST_WORDS - 1);
}

#[test]
fn a_client_of_the_console_that_does_not_read_does_not_hold_the_end_up() {
    let served = serve_started();
    let console = ending(&served);
    let start = Instant::now();
    drop(served);
    assert!(start.elapsed() < PATIENCE);
    assert!(rest(&console) < fake::LAST_WORDS - 1);
}

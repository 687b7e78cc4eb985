//! Connections that are too many, and bodies that are too long or break off.

use std::{
    io::{BufRead, Write},
    os::unix::net::UnixStream,
};

use super::{super::connections, Connection, serve};

#[test]
fn a_body_of_10_mib_is_refused_and_the_connection_goes_on() {
    let served = serve();
    let mut client = Connection::open(&served);
    let just_right = format!("{{\"amount_mib\": 1, \"deflate_on_oom\": true}}{}", " ".repeat(51_159));
    assert_eq!(just_right.len(), 51_200);
    assert_eq!(client.call("PUT", "/balloon", &just_right).status, 204);
    for body in [just_right + " ", "x".repeat(10 << 20)] {
        let answer = client.call("PUT", "/balloon", &body);
        assert_eq!(answer.status, 400);
        assert_eq!(answer.fault(), "The body of the request is longer than 51200 bytes.");
    }
    assert_eq!(client.call("GET", "/balloon", "").json()["amount_mib"], 1);
    // So is one that nobody asked for.
    for (verb, path) in [("GET", "/"), ("PUT", "/nope"), ("PUT", "/network-interfaces/eth0")] {
        assert_eq!(client.call(verb, path, &"x".repeat(10 << 20)).status, 400, "{verb} {path}");
    }
    // A client that asks first is told before it sends anything.
    let ask = "PUT /balloon HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\nExpect: 100-continue\r\n\r\n";
    client.0.get_mut().write_all(ask.as_bytes()).expect("sends");
    assert_eq!(client.answer().status, 400);
}

#[test]
fn a_body_that_breaks_off_or_is_garbage_harms_nobody() {
    let served = serve();
    for text in ["PUT /balloon HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", "\0\u{1}\u{2}\r\n\r\n", "GET"] {
        let mut stream = UnixStream::connect(&served.path).expect("connects");
        stream.write_all(text.as_bytes()).expect("sends");
    }
    assert_eq!(Connection::open(&served).call("GET", "/", "").status, 200);
}

#[test]
fn a_silent_connection_makes_room_when_there_are_too_many() {
    let served = serve();
    let silent: Vec<_> = (0..connections::MAX).map(|_| Connection::open(&served)).collect();
    assert_eq!(Connection::open(&served).call("GET", "/", "").status, 200);
    let closed = silent.into_iter().any(|mut connection| {
        connection.0.get_ref().set_nonblocking(true).expect("sets");
        matches!(connection.0.fill_buf(), Ok([]))
    });
    assert!(closed, "there were more than there may be");
}

//! A guest that runs, as far as its API says: it lives in the test's process, and there is no monitor.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;

/// The guest's first words on its console.
pub(crate) const PROMPT: &str = "login: ";

/// Whether the guest ends at Ctrl-Alt-Del.
#[derive(Clone, Copy)]
pub(crate) enum AtKeys {
    Ends,
    RunsOn,
}

/// The guest. Its threads end with the test.
pub(crate) struct FakeGuest {
    socket: PathBuf,
    _directory: TempDir,
}

impl FakeGuest {
    pub(crate) fn start(at_keys: AtKeys) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let socket = directory.path().join("guest.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let path = socket.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let path = path.clone();
                thread::spawn(move || answer(stream, at_keys, &path));
            }
        });
        Self { socket, _directory: directory }
    }

    /// Its socket, for a command line.
    pub(crate) fn socket(&self) -> String {
        self.socket.display().to_string()
    }
}

/// Answers the one request of a connection. One that says nothing gets nothing.
fn answer(mut stream: UnixStream, at_keys: AtKeys, socket: &Path) {
    let request = head(&stream);
    let body = r#"{"id": "fake", "state": "Running", "vmm_version": "1.0.0", "app_name": "Aerostat"}"#;
    let answer = match request.split(" HTTP/").next().unwrap_or_default() {
        "" => return,
        "GET /" => format!("200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        "GET /console" => format!(
            "101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: aerostat-console\r\n\r\n{PROMPT}"
        ),
        _ => "204 No Content\r\n\r\n".to_owned(),
    };
    if request.starts_with("PUT /actions") && matches!(at_keys, AtKeys::Ends) {
        // As a monitor does, whose listener nobody finds from then on.
        fs::remove_file(socket).expect("removed");
    }
    stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).expect("answered");
    // A console goes on until its client goes.
    let _ = stream.read_to_end(&mut Vec::new());
}

/// The lines of a request up to the empty one.
fn head(stream: &UnixStream) -> String {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

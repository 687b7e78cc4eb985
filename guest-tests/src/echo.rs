//! A TCP server that sends back what it gets.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Listens at a free port and serves for as long as this process lives.
///
/// # Errors
/// The address is not this host's.
pub fn serve(address: IpAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((address, 0))?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("echo".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away ends its thread; the client itself tells what is missing.
            thread::spawn(move || echo(stream));
        }
    })?;
    Ok(address)
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = stream.read(&mut buffer)?;
        let Some(got) = buffer.get(..length).filter(|got| !got.is_empty()) else { return Ok(()) };
        stream.write_all(got)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn several_clients_get_back_what_each_sent() -> io::Result<()> {
        let server = serve(Ipv4Addr::LOCALHOST.into())?;
        let mut clients = [TcpStream::connect(server)?, TcpStream::connect(server)?];
        for (client, text) in clients.iter_mut().zip([b"first ", b"second"]) {
            client.write_all(text)?;
        }
        for (client, text) in clients.iter_mut().zip([b"first ", b"second"]) {
            let mut back = [0; 6];
            client.read_exact(&mut back)?;
            assert_eq!(&back, text);
        }
        Ok(())
    }
}

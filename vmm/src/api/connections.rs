//! Bounds what clients can take: at most [`MAX`] connections at a time.
//!
//! ```text
//! fewer than MAX open ─▶ accepted; may be silent for as long as they like
//! MAX open            ─▶ the next waits; one that is silent too long is closed to let it in
//! ```

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

/// Connections at a time.
pub(super) const MAX: usize = 64;
/// How long a client that has its answers may say nothing while others wait for a connection.
const IDLE: Duration = Duration::from_secs(1);
/// The same for one whose request is not whole or not yet answered.
const BUSY: Duration = Duration::from_secs(30);

/// Accepts as many connections as there may be.
pub(super) struct Bounded {
    listener: UnixListener,
    places: Arc<Semaphore>,
}

impl Bounded {
    /// Accepts from `listener`.
    pub(super) fn new(listener: UnixListener) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(MAX)) }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // In this order, so that a place is missing only when somebody really waits for one.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Nobody closes the semaphore; without a place the connection would merely not be counted.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let silence = Box::pin(tokio::time::sleep(IDLE));
        (Connection { stream, silence, places: Arc::clone(&self.places), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with its place.
pub(super) struct Connection {
    stream: UnixStream,
    silence: Pin<Box<Sleep>>,
    places: Arc<Semaphore>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Starts to count the silence anew.
    fn allow(&mut self, silence: Duration) {
        self.silence.as_mut().reset(Instant::now() + silence);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            self.allow(BUSY);
            return Poll::Ready(read);
        }
        while self.silence.as_mut().poll(context).is_ready() {
            if self.places.available_permits() == 0 {
                // To the server this is a client that has closed the connection.
                return Poll::Ready(Ok(()));
            }
            self.allow(IDLE);
        }
        Poll::Pending
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.allow(IDLE);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.allow(IDLE);
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

//! The other end of the socket, for the command line: blocking, one connection per call.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};

use super::{controller::ControlError, types::FaultMessage};

/// Longest answer in bytes; ours are much shorter.
const MAX_ANSWER: usize = 4 << 20;

/// Why a call failed, one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error(
        "Nothing listens at {}: start a guest with that --api-sock, or name the socket of one that runs.",
        .0.display()
    )]
    NotThere(PathBuf),
    /// The socket cannot be used.
    #[error("The API socket {} cannot be used", path.display())]
    Connect {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke.
    #[error("The process at the API socket gave no answer: it may have ended.")]
    NoAnswer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It takes too long.
    #[error("The process at the API socket did not answer within {} seconds: it may be stopped, or hang.", .0.as_secs())]
    Slow(Duration),
    /// The answer makes no sense.
    #[error("The process at the API socket gave an answer that cannot be read: is it Aerostat?")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Only a guest that was started can do it.
    #[error("The guest has not been started yet: send InstanceStart to its API first.")]
    NotStarted,
    /// The other side says no.
    #[error("{0}")]
    Refused(String),
    /// The call cannot be made at all.
    #[error("The call cannot be prepared")]
    Prepare(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Calls the process that listens at a socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    /// How long a call may take.
    limit: Option<Duration>,
    runtime: Runtime,
}

impl Client {
    /// A client of the socket at `path`; connects with each call.
    pub fn new(path: &Path) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ClientError::Prepare(error.into()))?;
        Ok(Self { path: path.to_owned(), limit: None, runtime })
    }

    /// The same, which waits no longer than this for an answer.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// `GET path`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.call(Method::GET, path, Vec::new())?;
        serde_json::from_value(answer).map_err(|error| ClientError::Unreadable(error.into()))
    }

    /// `PUT path`.
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let answer = self.call(Method::PUT, path, to_body(body)?)?;
        serde_json::from_value(answer).map_err(|error| ClientError::Unreadable(error.into()))
    }

    /// `PATCH path`, with an answer that is empty.
    pub fn patch(&self, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        self.call(Method::PATCH, path, to_body(body)?).map(drop)
    }

    /// Any call. What is answered without a body is `null`.
    pub fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Value, ClientError> {
        let exchange = self.exchange(method, path, body);
        match self.limit {
            None => self.runtime.block_on(exchange),
            Some(limit) => self
                .runtime
                .block_on(async { timeout(limit, exchange).await })
                .unwrap_or(Err(ClientError::Slow(limit))),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Value, ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| self.no_socket(error))?;
        let no_answer = |error: hyper::Error| ClientError::NoAnswer(error.into());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::Prepare(error.into()))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(no_answer)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(ClientError::Unreadable)?.to_bytes();
            read(status, &body)
        };
        // The connection must be driven while the answer is awaited; if it breaks, the answer is
        // the error.
        let drive = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            answer = answer => answer,
            answer = drive => answer,
        }
    }

    fn no_socket(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotThere(path),
            _ => ClientError::Connect { path, source },
        }
    }
}

fn to_body(body: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(body).map_err(|error| ClientError::Prepare(error.into()))
}

fn read(status: StatusCode, body: &[u8]) -> Result<Value, ClientError> {
    let unreadable = |error: serde_json::Error| ClientError::Unreadable(error.into());
    if status == StatusCode::NO_CONTENT {
        Ok(Value::Null)
    } else if status.is_success() {
        serde_json::from_slice(body).map_err(unreadable)
    } else {
        let fault: FaultMessage = serde_json::from_slice(body).map_err(unreadable)?;
        if fault.fault_message == ControlError::BeforeStart.to_string() {
            return Err(ClientError::NotStarted);
        }
        Err(ClientError::Refused(fault.fault_message))
    }
}

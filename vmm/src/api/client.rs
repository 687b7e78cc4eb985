//! The other end of the socket, for the command line: blocking, one connection per call.

use std::{
    io,
    os::unix::net::UnixStream as StdStream,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
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
    /// Nobody may hear what is for this user's ears.
    #[error("The API socket {} is another user's by now: see aerostat list for the guests that run.", .0.display())]
    Stranger(PathBuf),
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
    /// The user who is to listen.
    user: Option<u32>,
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
        Ok(Self { path: path.to_owned(), user: None, limit: None, runtime })
    }

    /// The same, which speaks to nobody but this user, if one is said.
    #[must_use]
    pub fn to_user(mut self, user: Option<u32>) -> Self {
        self.user = user;
        self
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

    /// Turns a connection into a plain stream of bytes, as `path` offers it under the name `protocol`. Bytes that came with
    /// the answer are given beside it.
    pub fn upgrade(&self, path: &str, protocol: &str) -> Result<(StdStream, Bytes), ClientError> {
        self.runtime.block_on(async {
            let request = to_request(Method::GET, path, Vec::new(), Some(protocol))?;
            let (mut sender, connection) = self.connect().await?;
            let upgraded = async {
                let answer = sender.send_request(request).await.map_err(no_answer)?;
                if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                    // An answer that is none of ours changes nothing: it is read as an error.
                    let refused = to_value(answer).await.err();
                    return Err(refused.unwrap_or_else(|| ClientError::Unreadable("no upgrade".into())));
                }
                let unreadable = |error: io::Error| ClientError::Unreadable(error.into());
                let upgraded = hyper::upgrade::on(answer).await.map_err(no_answer)?;
                let parts = upgraded.downcast::<TokioIo<UnixStream>>();
                let parts = parts.map_err(|_| ClientError::Unreadable("no socket".into()))?;
                let stream = parts.io.into_inner().into_std().map_err(unreadable)?;
                Ok((stream, parts.read_buf))
            };
            driven(connection, upgraded).await
        })
    }

    async fn connect(&self) -> Result<(SendRequest<Full<Bytes>>, Connection), ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| self.no_socket(error))?;
        if let Some(user) = self.user {
            let listener = stream.peer_cred().map_err(|error| self.no_socket(error))?.uid();
            if listener != user {
                return Err(ClientError::Stranger(self.path.clone()));
            }
        }
        http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Value, ClientError> {
        let request = to_request(method, path, body, None)?;
        let (mut sender, connection) = self.connect().await?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(no_answer)?;
            to_value(answer).await
        };
        driven(connection, answer).await
    }

    fn no_socket(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotThere(path),
            _ => ClientError::Connect { path, source },
        }
    }
}

/// A connection of ours.
type Connection = http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

fn no_answer(error: hyper::Error) -> ClientError {
    ClientError::NoAnswer(error.into())
}

/// Drives the connection while its answer is awaited; if it breaks, the answer is the error.
async fn driven<T>(
    connection: Connection,
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let drive = async {
        let _ = connection.with_upgrades().await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        answer = drive => answer,
    }
}

fn to_request(
    method: Method,
    path: &str,
    body: Vec<u8>,
    protocol: Option<&str>,
) -> Result<Request<Full<Bytes>>, ClientError> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(protocol) = protocol {
        request = request.header(header::CONNECTION, "upgrade").header(header::UPGRADE, protocol);
    }
    request.body(Full::new(Bytes::from(body))).map_err(|error| ClientError::Prepare(error.into()))
}

async fn to_value(answer: Response<Incoming>) -> Result<Value, ClientError> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(ClientError::Unreadable)?.to_bytes();
    read(status, &body)
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

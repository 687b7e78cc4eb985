//! What handlers take from a request: a checked body, an id from the path.
//!
//! A body is read up to [`MAX_BODY`]. The rest of a longer one is thrown away, up to [`MAX_DRAIN`],
//! because a client that is still sending does not read our answer; memory is never taken for it.

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{header, request::Parts},
};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::super::fault::Fault;

/// Longest body in bytes, as in Firecracker.
const MAX_BODY: usize = 51_200;
/// So many bytes of a longer one are read and thrown away before the connection is closed.
const MAX_DRAIN: usize = 64 << 20;

/// A JSON body.
pub(super) struct Checked<T>(pub(super) T);

/// A JSON body that may be left out.
pub(super) struct CheckedOrDefault<T>(pub(super) T);

/// The id at the end of the path.
pub(super) struct Id(pub(super) String);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Checked<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let body = read(request).await?;
        if body.is_empty() {
            return Err(Fault::bad_request("The request has no body, but this call needs one."));
        }
        parse(&body).map(Self)
    }
}

impl<S: Sync, T: DeserializeOwned + Default> FromRequest<S> for CheckedOrDefault<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let body = read(request).await?;
        if body.is_empty() { Ok(Self(T::default())) } else { parse(&body).map(Self) }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            Err(_) => Err(Fault::bad_request("The id in the path is not valid text.")),
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body)
        .map_err(|error| Fault::bad_request(format!("The body of the request is not valid: {error}.")))
}

async fn read(request: Request) -> Result<Vec<u8>, Fault> {
    let too_large = || {
        Fault::too_large(format!("The body of the request is longer than {MAX_BODY} bytes."))
    };
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let is_long = announced.is_some_and(|length| length > MAX_BODY as u64);
    if is_long && request.headers().contains_key(header::EXPECT) {
        // The client waits for our word before it sends the body.
        return Err(too_large());
    }
    let mut body: Body = request.into_body();
    let mut kept = Vec::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Fault::bad_request("The body of the request is incomplete."))?;
        let Some(data) = frame.data_ref() else { continue };
        seen += data.len();
        if seen <= MAX_BODY {
            kept.extend_from_slice(data);
        } else {
            kept = Vec::new();
        }
        if seen > MAX_DRAIN {
            break;
        }
    }
    if seen > MAX_BODY { Err(too_large()) } else { Ok(kept) }
}

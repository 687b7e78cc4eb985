//! Reads the body of every request before anything else, so that its length is bounded whatever the
//! path is.
//!
//! A body is read up to a limit. The rest of a longer one is thrown away, up to [`MAX_DRAIN`],
//! because a client that is still sending does not read our answer; memory is never taken for it.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;

use super::super::fault::Fault;

/// So many bytes of a longer one are read and thrown away before the connection is closed.
const MAX_DRAIN: usize = 64 << 20;

/// Hands on a request whose body is here, or refuses it.
pub(super) async fn read_first(State(limit): State<usize>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let announced = parts.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let is_long = announced.is_some_and(|length| length > limit as u64);
    if is_long && parts.headers.contains_key(header::EXPECT) {
        // The client waits for our word before it sends the body.
        return too_long(limit).into_response();
    }
    match read(body, limit).await {
        Ok(body) if parts.method == Method::GET && !body.is_empty() => {
            Fault::bad_request("A GET request cannot have a body: leave it out.").into_response()
        }
        Ok(body) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(fault) => fault.into_response(),
    }
}

async fn read(mut body: Body, limit: usize) -> Result<Vec<u8>, Fault> {
    let mut kept = Vec::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Fault::bad_request("The body of the request is incomplete."))?;
        let Some(data) = frame.data_ref() else { continue };
        seen += data.len();
        if seen <= limit {
            kept.extend_from_slice(data);
        } else {
            kept = Vec::new();
        }
        if seen > MAX_DRAIN {
            break;
        }
    }
    if seen > limit { Err(too_long(limit)) } else { Ok(kept) }
}

fn too_long(limit: usize) -> Fault {
    Fault::bad_request(format!("The body of the request is longer than {limit} bytes."))
}

//! Parts of a request that handlers take: a checked body, an id from the path.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::request::Parts,
};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::super::fault::Fault;

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
    // Serde would take an array for a structure, without names of fields, and names a type of ours for all else.
    if body.trim_ascii_start().first().is_some_and(|&first| first != b'{') {
        return Err(Fault::bad_request("The body of the request is not valid: it must be a JSON object."));
    }
    crate::json::parse(body)
        .map_err(|error| Fault::bad_request(format!("The body of the request is not valid: {error}.")))
}

/// The body, whose length has been checked by [`super::body`].
async fn read(request: Request) -> Result<Bytes, Fault> {
    let collected = request.into_body().collect().await;
    Ok(collected.map_err(|_| Fault::bad_request("The body of the request is incomplete."))?.to_bytes())
}

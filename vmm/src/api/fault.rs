//! Errors as clients see them: a status and `{"fault_message": …}`.

use std::{error::Error, fmt::Write};

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{controller::ControlError, types::FaultMessage};

/// An error and all its causes as one line of text: `what failed: why: why that`.
pub fn sentence(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        // Writing to a string does not fail. A cause that is also the text is not said twice.
        let said = inner.to_string();
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        cause = inner.source();
    }
    if !text.ends_with(['.', '!', '?']) {
        text.push('.');
    }
    text
}

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Fault {
    status: StatusCode,
    message: String,
}

impl Fault {
    /// The client sent something wrong.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// Something does not come in time; the same call may be made again.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, message: message.into() }
    }

    /// The fault is ours.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.into() }
    }
}

impl From<ControlError> for Fault {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NotPaused { .. } => Self::unavailable(sentence(&error)),
            _ => Self::bad_request(sentence(&error)),
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.status, Json(FaultMessage { fault_message: self.message })).into_response()
    }
}

//! Bodies of requests, with the limit that Consul has for keys and transactions: 512 KiB, refused
//! before it is read where the request says how long it is.

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{StatusCode, header};

use super::ApiError;

/// Most bytes of a value, a transaction, or an event.
const LARGEST: usize = 512 * 1024;

/// A body of at most 512 KiB.
#[derive(Debug)]
pub(super) struct Payload(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Payload {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        read(request, LARGEST).await.map(Self)
    }
}

/// Reads a body of at most `largest` bytes.
pub(super) async fn read(request: Request, largest: usize) -> Result<Bytes, ApiError> {
    let too_large = |told: String| {
        let message = format!("Request body{told} too large, max size: {largest} bytes.");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) =
        length.filter(|length| usize::try_from(*length).is_ok_and(|n| n > largest))
    {
        return Err(too_large(format!("({length} bytes)")));
    }
    // The rest is a caller who broke off: there is nobody to read the difference.
    to_bytes(request.into_body(), largest).await.map_err(|_| too_large(String::new()))
}

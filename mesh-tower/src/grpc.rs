//! gRPC by hand, for the few calls that the mesh itself makes and answers.
//!
//! Source: gRPC over HTTP/2.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, header};
use mesh_core::GrpcCode;

/// Length of what precedes a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A call of a method (`/package.Service/Method`) at a host; its body is to be framed messages.
pub(crate) fn request<B>(host: &str, method: &str, body: B) -> Result<Request<B>, http::Error> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://{host}{method}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(body)
}

/// The status that a call ends with, by its trailers.
pub(crate) fn code(trailers: Option<&HeaderMap>) -> GrpcCode {
    trailers.and_then(GrpcCode::from_headers).unwrap_or(GrpcCode::UNKNOWN)
}

/// A message with its prefix.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(PREFIX + message.len());
    framed.push(0);
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// Why no message can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// It is compressed, which nobody has agreed on.
    Compressed,
    /// It is longer than it may be.
    TooLong,
}

/// Takes the next whole message off the front, if it has at most `limit` bytes.
pub(crate) fn split(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, Malformed> {
    let Some(([compressed, length @ ..], _)) = buffer.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    if *compressed != 0 {
        return Err(Malformed::Compressed);
    }
    let length = u32::from_be_bytes(*length) as usize;
    if length > limit {
        return Err(Malformed::TooLong);
    }
    if buffer.len() < PREFIX + length {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_split_as_they_come() {
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for byte in [0, 0, 0, 0, 2, 8, 1, 0, 0, 0, 0, 0, 0] {
            buffer.extend_from_slice(&[byte]);
            seen.extend(split(&mut buffer, 16).expect("well formed"));
        }
        assert_eq!(seen, [&[8u8, 1][..], &[]]);
        assert_eq!(buffer.len(), 1);
        let refused = |bytes: &[u8]| split(&mut BytesMut::from(bytes), 4096).expect_err("refused");
        assert_eq!(refused(&[1, 0, 0, 0, 2, 8, 1]), Malformed::Compressed);
        assert_eq!(refused(&[0, 0, 0, 16, 1]), Malformed::TooLong);
        assert_eq!(refused(&[0, 255, 255, 255, 255]), Malformed::TooLong);
        assert_eq!(frame(&[8, 1]), [0, 0, 0, 0, 2, 8, 1]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = split(&mut buffer, 4096) {}
        }
    }
}

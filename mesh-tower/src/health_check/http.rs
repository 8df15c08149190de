//! A check by HTTP: one request, its status, and its body to the end.

use super::{DEGRADED, Failed, IMMEDIATE_FAIL, Well};
use crate::body::Body;
use crate::connect::{Connections, Protocol, ResponseBody};
use http::{Request, header};
use http_body_util::BodyExt;
use mesh_core::health::check::{Cause, Http};
use std::sync::Arc;

/// How much of a body is read, so that its connection can be used again.
const BODY: usize = 64 << 10;

pub(super) async fn ask(
    connections: &Arc<Connections>,
    http: &Http,
    host: &str,
    protocol: Protocol,
) -> Result<Well, Failed> {
    let host = http.host.as_deref().unwrap_or(host);
    let mut request = Request::builder()
        .method(http.method.as_bytes())
        .uri(format!("http://{host}{}", http.path))
        .header(header::USER_AGENT, "mesh-health-check");
    for added in &http.headers {
        request = request.header(&added.name, &added.value);
    }
    let request = request.body(Body::empty()).map_err(|error| {
        Failed::new(Cause::Garbage, format!("the request of the check is not valid: {error}"))
    })?;
    let response = connections.send(request, protocol).await.map_err(|lost| lost.error)?;
    let well = match response.headers().contains_key(DEGRADED) {
        true => Well::Degraded,
        false => Well::Fully,
    };
    let verdict = http.verdict(response.status());
    // An expected status wins: so does Envoy read it.
    let verdict = match response.headers().contains_key(IMMEDIATE_FAIL) {
        true => verdict.map_err(|_| Cause::ImmediateFail),
        false => verdict,
    };
    // What the status says stands, however the body ends.
    let whole = read(response.into_body()).await;
    verdict.map_err(Failed::from)?;
    whole.map(|()| well)
}

/// Reads a body to its end, or as much of it as is worth it: what is left is cut off with the
/// connection.
async fn read(mut body: ResponseBody) -> Result<(), Failed> {
    let mut left = BODY;
    while let Some(frame) = body.frame().await {
        let length = frame?.data_ref().map_or(0, bytes::Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return Ok(()),
        }
    }
    Ok(())
}

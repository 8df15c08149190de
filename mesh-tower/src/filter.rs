//! Filter: does to a request and its response what the rule of its route says.
//!
//! [`Route`](crate::route::Route) acts itself, since it has the request before all other layers and
//! the response after them: nothing is moved through one more layer, and a rule without filters
//! costs one branch. What filters there are and in which order they act: [`mesh_core::route::filter`].
//!
//! An answer of the rule's own (redirect, direct response, CORS preflight) goes nowhere: it is in no
//! metric of a destination. To a gRPC caller it is trailers-only, with the code that
//! the HTTP status stands for.
//!
//! A path that is rewritten goes out with the one before in `x-envoy-original-path` (Envoy).

use crate::answer;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION, ORIGIN};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use mesh_core::route::filter::{Answer, Cors, Filters, Rewrite};
use mesh_core::{Error, ErrorKind, GrpcCode, is_grpc};
use std::sync::Arc;

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What is left to do once the response is there.
#[derive(Debug)]
pub(crate) struct After {
    filters: Arc<Filters>,
    origin: Option<HeaderValue>,
}

impl After {
    /// Of a request as it came, before it is edited.
    pub(crate) fn of(filters: &Arc<Filters>, request: &HeaderMap) -> Option<Box<Self>> {
        filters.touches_responses().then(|| {
            let origin = filters.cors.as_ref().and_then(|_| request.get(ORIGIN).cloned());
            Box::new(Self { filters: filters.clone(), origin })
        })
    }

    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for edits in &self.filters.response_headers {
            edits.apply(headers);
        }
        if let Some(cors) = &self.filters.cors {
            cors.decorate(self.origin.as_ref(), headers);
        }
    }
}

/// Edits a request that is sent on.
pub(crate) fn edit<B>(filters: &Filters, request: &mut Request<B>) {
    for edits in &filters.request_headers {
        edits.apply(request.headers_mut());
    }
    if let Some(change) = &filters.rewrite {
        rewrite(change, request);
    }
}

/// The answer of a rule that sends nothing on.
pub(crate) fn answer<B>(filters: &Arc<Filters>, request: &Request<B>) -> Response<Bytes> {
    if let Some(preflight) = preflight(filters, request) {
        return preflight;
    }
    let grpc = is_grpc(request.headers());
    let mut response = match &filters.answer {
        Some(Answer::Redirect(redirect)) => {
            let (authority, target) = (authority(request), request.uri().path_and_query());
            match redirect.location(&scheme(request), authority, target) {
                Some(location) if grpc => {
                    let sentence = format!("redirected to {}", location.as_bytes().escape_ascii());
                    answer::grpc(GrpcCode::from_http(redirect.status), &sentence)
                }
                Some(location) => {
                    let mut response = with_status(redirect.status);
                    response.headers_mut().insert(LOCATION, location);
                    response
                }
                None => {
                    let why = "the request names no host that its caller could be redirected to";
                    answer::response(&Error::new(ErrorKind::CallerProtocol, why), grpc)
                }
            }
        }
        Some(Answer::Direct(direct)) if grpc => {
            let sentence = String::from_utf8_lossy(&direct.body);
            answer::grpc(GrpcCode::from_http(direct.status), &sentence)
        }
        Some(Answer::Direct(direct)) => {
            let mut response = with_status(direct.status);
            if !direct.body.is_empty() {
                response.headers_mut().insert(CONTENT_TYPE, direct.content_type.clone());
                *response.body_mut() = direct.body.clone();
            }
            response
        }
        _ => answer::response(&ErrorKind::NoRoute.into(), grpc),
    };
    if let Some(after) = After::of(filters, request.headers()) {
        after.apply(response.headers_mut());
    }
    response
}

fn with_status(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// The answer, if this is a preflight of CORS.
pub(crate) fn preflight<B>(filters: &Filters, request: &Request<B>) -> Option<Response<Bytes>> {
    let cors = filters.cors.as_ref()?;
    if !Cors::is_preflight(request.method(), request.headers()) {
        return None;
    }
    let mut response = with_status(StatusCode::NO_CONTENT);
    *response.headers_mut() = cors.preflight(request.headers());
    for edits in &filters.response_headers {
        edits.apply(response.headers_mut());
    }
    Some(response)
}

/// What the caller named.
fn authority<B>(request: &Request<B>) -> &str {
    let host = || request.headers().get(HOST)?.to_str().ok();
    request.uri().authority().map(Authority::as_str).or_else(host).unwrap_or_default()
}

/// What the caller used. Behind a proxy, that of its connection to the proxy.
fn scheme<B>(request: &Request<B>) -> Scheme {
    let told = request.headers().get(FORWARDED_PROTO).map(HeaderValue::as_bytes);
    match (told, request.uri().scheme()) {
        (Some(b"https"), _) => Scheme::HTTPS,
        (Some(b"http"), _) | (None, None) => Scheme::HTTP,
        (_, Some(scheme)) => scheme.clone(),
        _ => Scheme::HTTP,
    }
}

/// Gives a request another host or path. One that would be no URI stays as it is.
fn rewrite<B>(change: &Rewrite, request: &mut Request<B>) {
    let original = request.uri().path_and_query().cloned();
    let target = original.as_ref().and_then(|now| change.target(now));
    let host = change.host.as_ref();
    if target.is_some() || (host.is_some() && request.uri().authority().is_some()) {
        let mut parts = request.uri().clone().into_parts();
        if let (Some(host), Some(_)) = (host, &parts.authority) {
            parts.authority = Some(host.clone());
        }
        if let Some(target) = &target {
            parts.path_and_query = Some(target.clone());
        }
        match Uri::from_parts(parts) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(_) => return,
        }
    }
    let headers = request.headers_mut();
    if let Some(host) = host
        && headers.contains_key(HOST)
        && let Ok(value) = HeaderValue::from_str(host.as_str())
    {
        headers.insert(HOST, value);
    }
    if let (Some(_), Some(original)) = (target, original)
        && let Ok(value) = HeaderValue::from_str(original.as_str())
    {
        let _full = headers.try_insert(ORIGINAL_PATH, value);
    }
}

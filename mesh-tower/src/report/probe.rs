//! Probe: a request that asks for a load report and for nothing else.
//!
//! ```text
//! OPTIONS * HTTP/1.1                             HTTP/1.1 204 No Content
//! Max-Forwards: 0                          ──►   endpoint-load-metrics-bin: …
//! endpoint-load-metrics-format: BIN
//! ```
//!
//! `OPTIONS *` asks about the server and about no resource of it: it can do no harm, and no
//! application has a route of that name. `Max-Forwards: 0` ends it at the hop that it is sent to. Why
//! this form: `docs/decisions/0009-probes.md`.
//!
//! The inbound stack answers it before admission, so that a server which is full says so; it counts
//! neither as a request served nor against any limit. Who may not have reports gets no answer here:
//! for them it is a request like any other, and tells nothing of the mesh.
//!
//! Source: RFC 9110, sections 7.6.2 and 9.3.7; ORCA for the fields.

use super::{ASK, Form};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Uri, header};

/// The path of a request about the server as a whole.
const SERVER: &str = "*";

/// A probe, with the authority that `of` has.
pub(crate) fn like<A, B: Default>(of: &Request<A>) -> Request<B> {
    let mut probe = Request::new(B::default());
    *probe.method_mut() = Method::OPTIONS;
    *probe.uri_mut() = target(of.uri());
    let headers = probe.headers_mut();
    if let (None, Some(host)) = (of.uri().authority(), of.headers().get(header::HOST)) {
        headers.insert(header::HOST, host.clone());
    }
    headers.insert(header::MAX_FORWARDS, HeaderValue::from_static("0"));
    headers.insert(ASK, HeaderValue::from_static("BIN"));
    probe
}

fn target(of: &Uri) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(PathAndQuery::from_static(SERVER));
    if let Some(authority) = of.authority() {
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(authority.clone());
    }
    // The parts are a whole, so this is never the fallback.
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static(SERVER))
}

/// The form of report that a request asks for, if it is a probe.
pub(super) fn asked<B>(request: &Request<B>) -> Option<Form> {
    if request.method() != Method::OPTIONS || request.uri().path() != SERVER {
        return None;
    }
    Form::asked(request.headers())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_has_the_authority_of_the_call_and_is_known_as_one() {
        for (target, host) in [("http://a:80/x?y", None), ("/x", Some("a:80")), ("/x", None)] {
            let mut call = Request::new(());
            *call.uri_mut() = target.parse().expect("valid");
            if let Some(host) = host {
                call.headers_mut().insert(header::HOST, HeaderValue::from_static(host));
            }
            let probe: Request<()> = like(&call);
            assert_eq!(probe.uri().path(), "*");
            assert_eq!(probe.uri().authority(), call.uri().authority());
            assert_eq!(probe.headers().get(header::HOST), call.headers().get(header::HOST));
            assert_eq!(probe.headers()[header::MAX_FORWARDS], "0");
            assert_eq!(asked(&probe), Some(Form::Binary));
            assert_eq!(asked(&call), None);
        }
    }

    #[test]
    fn a_request_about_the_server_that_asks_for_nothing_is_no_probe() {
        let mut options: Request<()> = like(&Request::new(()));
        options.headers_mut().remove(ASK);
        assert_eq!(asked(&options), None);
        let mut other: Request<()> = like(&Request::new(()));
        *other.method_mut() = Method::GET;
        assert_eq!(asked(&other), None);
    }
}

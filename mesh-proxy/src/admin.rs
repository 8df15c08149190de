//! Admin: pages about the proxy for people, probes and scrapers.
//!
//! | path | what |
//! |---|---|
//! | `GET /` | all of it on one page |
//! | `GET /live` | 200 while the process can answer |
//! | `GET /ready` | 200 while new connections are welcome, 503 from the start of draining |
//! | `GET /metrics` | Prometheus text or OpenMetrics, by `Accept` |
//! | `GET /config` | version in force, its listeners, and why the last one was refused |
//! | `GET /endpoints` | every endpoint with its state, the reason, and since when |
//! | `GET /explain?method=GET&url=…` | what would become of a request now; nothing is sent |
//! | `POST /drain` | finish what runs, then end |
//! | `POST /reload` | read the configuration again |
//!
//! Pages are JSON where `Accept` asks for it, else plain text.
//!
//! It listens on loopback only. A web page that a browser on this machine shows must not reach
//! it: `Host` has to be a loopback address or `localhost`, which a rebound name is not; `Origin`,
//! if sent, has to be the same; and what changes something is `POST`.

mod explain;
mod metrics;
mod pages;

use crate::proxy::Proxy;
use ::http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN,
    X_CONTENT_TYPE_OPTIONS,
};
use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections served at once; more wait.
const CONNECTIONS: usize = 64;

/// Longest head, and longest time for it.
const HEAD: (usize, Duration) = (16 * 1024, Duration::from_secs(10));

/// The listening admin server.
#[derive(Debug)]
pub(crate) struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Listens on a loopback address.
    ///
    /// # Errors
    /// When the address is another one, or cannot be bound.
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "admin pages are for this machine only, and --admin {address} is no loopback address"
                ),
            ));
        }
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let what = format!(
                "cannot serve admin pages on {address}: {error}; give another address with --admin \
                 (MESH_ADMIN_LISTEN), port 0 for any that is free, or `off`"
            );
            io::Error::new(error.kind(), what)
        })?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the task is aborted.
    pub(crate) async fn serve(self, proxy: Proxy) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "admin cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let proxy = proxy.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let proxy = proxy.clone();
                    async move { Ok::<_, Infallible>(answer(&request, &proxy).await) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .max_header_size(HEAD.0)
                    .header_read_timeout(HEAD.1)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(%error, "an admin connection ended early");
                }
                drop(place);
            });
        }
    }
}

async fn answer<B>(request: &Request<B>, proxy: &Proxy) -> Response<Full<Bytes>> {
    if !is_from_here(request.headers()) {
        return text(StatusCode::FORBIDDEN, "Host or Origin is not this machine\n");
    }
    let path = request.uri().path();
    let changes = matches!(path, "/drain" | "/reload");
    let allowed = if changes { "POST" } else { "GET, HEAD" };
    let fits = match *request.method() {
        Method::POST => changes,
        Method::GET | Method::HEAD => !changes,
        _ => false,
    };
    if !fits && pages::is_known(path) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "wrong method\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return response;
    }
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    let json = accept.is_some_and(|accept| accept.contains("application/json"));
    match path {
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" if proxy.is_ready() => text(StatusCode::OK, "ready\n"),
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/metrics" => {
            let (content_type, page) = metrics::page(proxy, accept);
            page_of(StatusCode::OK, content_type, page)
        }
        "/" => text(StatusCode::OK, pages::front(proxy).await),
        "/config" => shown(json, pages::config(proxy).await),
        "/endpoints" => shown(json, pages::endpoints(proxy)),
        "/explain" => match explain::page(proxy, request.uri().query().unwrap_or_default()).await {
            Ok(page) => shown(json, page),
            Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        },
        "/drain" => {
            proxy.ask_to_drain();
            text(StatusCode::ACCEPTED, "draining\n")
        }
        "/reload" => match proxy.reload().await {
            Ok(()) => text(StatusCode::OK, "applied\n"),
            Err(error) => text(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("refused, the last one stays:\n{error}\n"),
            ),
        },
        _ => text(StatusCode::NOT_FOUND, "no such page; see /\n"),
    }
}

/// A page in both forms.
struct Page {
    text: String,
    json: serde_json::Value,
}

fn shown(json: bool, page: Page) -> Response<Full<Bytes>> {
    if json {
        page_of(StatusCode::OK, "application/json", format!("{:#}\n", page.json))
    } else {
        text(StatusCode::OK, page.text)
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    page_of(status, "text/plain; charset=utf-8", body)
}

fn page_of(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether the request names this machine, and comes from no other page.
fn is_from_here(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    if !is_loopback(host) {
        return false;
    }
    headers.get_all(ORIGIN).iter().all(|origin| {
        origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://")) == Some(host)
    })
}

fn is_loopback(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_answered() {
        let from = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_str(host).unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            is_from_here(&headers)
        };
        for host in
            ["localhost", "LOCALHOST:1", "127.0.0.1:19000", "127.9.9.9", "[::1]:80", "[::1]"]
        {
            assert!(from(host, None), "{host}");
        }
        for host in [
            "",
            "evil.test",
            "evil.test:19000",
            "10.0.0.1",
            "localhost.evil.test",
            "127.0.0.1.evil.test",
            "0.0.0.0",
        ] {
            assert!(!from(host, None), "{host}");
        }
        assert!(from("localhost:1", Some("http://localhost:1")));
        assert!(!from("localhost:1", Some("http://localhost:2")));
        assert!(!from("localhost:1", Some("null")));
        assert!(!is_from_here(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn other_addresses_than_loopback_are_refused() {
        let refused = Admin::bind(([0, 0, 0, 0], 0).into()).await.unwrap_err();
        assert!(refused.to_string().contains("loopback"), "{refused}");
        assert_ne!(Admin::bind(([127, 0, 0, 1], 0).into()).await.unwrap().address().port(), 0);
    }
}

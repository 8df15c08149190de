//! reqwest: sends a request that reqwest built through the mesh.
//!
//! The authority of the URL names the destination; everything from there on is the mesh's:
//! route, retries, connections. The body streams both ways, and the answer is a
//! `reqwest::Response`, so `json()`, `text()` and the rest work as usual.
//!
//! What the *client* would add on its way to the network is not applied: default headers,
//! redirects, cookies, proxies, its own TLS. A timeout of the request is kept, as the call's
//! deadline.

use crate::body::{Body, BoxError};
use crate::clock;
use crate::mesh::Mesh;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use mesh_core::deadline::Expiry;
use mesh_core::{Error, ErrorKind};
use parking_lot::Mutex;
use reqwest::{RequestBuilder, ResponseBuilderExt};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tower::ServiceExt;
use tower_service::Service;

/// Sends what a `reqwest::RequestBuilder` built through the mesh.
pub trait SendVia: Sized {
    /// Sends the request through the mesh, to the destination its authority names.
    ///
    /// ```no_run
    /// # async fn example(mesh: mesh_tower::Mesh) -> Result<(), Box<dyn std::error::Error>> {
    /// use mesh_tower::SendVia;
    ///
    /// let client = reqwest::Client::new();
    /// let answer = client.get("http://inventory/items/7").send_via(&mesh).await?;
    /// println!("{}", answer.text().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`SendVia::send_over`].
    fn send_via(
        self,
        mesh: &Mesh,
    ) -> impl Future<Output = Result<reqwest::Response, Error>> + Send {
        self.send_over(mesh.http())
    }

    /// Sends the request through a service that takes the mesh's requests: a
    /// [`Channel`](crate::Channel), or a stack of one's own.
    ///
    /// # Errors
    /// The mesh's own error; `downstream_protocol_error` if reqwest could not build the request.
    fn send_over<S, B>(
        self,
        service: S,
    ) -> impl Future<Output = Result<reqwest::Response, Error>> + Send
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<Error>, Future: Send> + Send,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static;
}

impl SendVia for RequestBuilder {
    async fn send_over<S, B>(self, service: S) -> Result<reqwest::Response, Error>
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<Error>, Future: Send> + Send,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let request = self.build().map_err(unsendable)?;
        let (url, timeout) = (request.url().clone(), request.timeout().copied());
        let mut request = Request::try_from(request).map_err(unsendable)?.map(take);
        if let Some(timeout) = timeout {
            request.extensions_mut().insert(Expiry(clock::now() + timeout));
        }
        let mut response = service.oneshot(request).await.map_err(Into::into)?;
        // The URL's place in a response is known to reqwest's own builder only.
        if let Ok(mut with_url) = Response::builder().url(url).body(()) {
            response.extensions_mut().extend(std::mem::take(with_url.extensions_mut()));
        }
        Ok(response.map(|body| reqwest::Body::wrap(SyncBody::new(body))).into())
    }
}

fn unsendable(error: reqwest::Error) -> Error {
    Error::new(ErrorKind::CallerProtocol, "reqwest could not build the request").with_source(error)
}

/// A body of ours from one of reqwest's: one in memory stays so, since it can be sent again.
fn take(mut body: reqwest::Body) -> Body {
    if body.as_bytes().is_some() {
        let cx = &mut Context::from_waker(Waker::noop());
        return match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default().into(),
            _ => Body::empty(),
        };
    }
    Body::new(body)
}

/// A body that threads may share, as reqwest asks; exclusive access needs no locking.
struct SyncBody<B>(Mutex<Pin<Box<B>>>);

impl<B> SyncBody<B> {
    fn new(body: B) -> Self {
        Self(Mutex::new(Box::pin(body)))
    }
}

impl<B: HttpBody> HttpBody for SyncBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.0.get_mut().as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};
    use std::time::Duration;
    use tower::service_fn;

    fn client() -> reqwest::Client {
        reqwest::Client::new()
    }

    #[tokio::test(start_paused = true)]
    async fn the_request_arrives_as_built_and_the_answer_reads_as_usual() {
        let service = service_fn(|request: Request<Body>| async move {
            assert_eq!(request.uri(), "http://inventory/items/7?x=1");
            assert_eq!(request.headers()["content-type"], "application/json");
            let expiry = request.extensions().get().copied();
            assert_eq!(expiry, Some(Expiry(clock::now() + Duration::from_secs(2))));
            assert!(request.body().try_clone().is_some(), "in memory: can be sent again");
            let body =
                request.into_body().collect().await.map_err(|_| ErrorKind::CallerProtocol)?;
            Ok::<_, Error>(Response::new(Full::new(body.to_bytes())))
        });
        let answer = client()
            .post("http://inventory/items/7?x=1")
            .timeout(Duration::from_secs(2))
            .json(&[1, 2, 3])
            .send_over(service)
            .await
            .expect("an answer");
        assert_eq!(answer.url().as_str(), "http://inventory/items/7?x=1");
        assert_eq!(answer.json::<Vec<u32>>().await.expect("what was sent"), [1, 2, 3]);
    }

    #[tokio::test]
    async fn bodies_stream_both_ways() {
        let (to_server, frames) = tokio::sync::mpsc::channel::<Bytes>(1);
        let upload = reqwest::Body::wrap(ChannelBody(frames));
        let service = service_fn(|request: Request<Body>| async move {
            assert!(request.body().try_clone().is_none(), "a stream is sent once");
            Ok::<_, Error>(Response::new(request.into_body()))
        });
        let mut answer = client()
            .put("http://inventory/")
            .body(upload)
            .send_over(service)
            .await
            .expect("the head comes before the body");
        for piece in ["one", "two"] {
            to_server.send(Bytes::from(piece)).await.expect("open");
            assert_eq!(answer.chunk().await.expect("open").expect("a piece"), piece);
        }
        drop(to_server);
        assert_eq!(answer.chunk().await.expect("a clean end"), None);
    }

    struct ChannelBody(tokio::sync::mpsc::Receiver<Bytes>);

    impl HttpBody for ChannelBody {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
        }
    }

    #[tokio::test]
    async fn an_error_is_the_meshs_own() {
        let refuse = || {
            service_fn(|_: Request<Body>| async {
                Err::<Response<Body>, _>(Error::from(ErrorKind::NoHealthyEndpoint))
            })
        };
        let error = client().get("http://a/").send_over(refuse()).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
        let error = client().get("no url").send_over(refuse()).await.expect_err("not built");
        assert_eq!(error.kind(), ErrorKind::CallerProtocol);
    }
}

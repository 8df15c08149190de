//! A check by gRPC: `grpc.health.v1.Health/Check`, which passes if the answer is `SERVING`.
//!
//! `host:port` asks for the server, `host:port/service` for one of its services. Source: gRPC
//! "Health checking protocol"; Consul.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::Service;

use super::CheckResult;
use super::drive::drive;
use super::stream::{H2, Tls};
use crate::types::CheckDefinition;

/// Longest answer; there is one number in it.
const LONGEST: usize = 4096;

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Grpc {
    target: String,
    use_tls: bool,
    tls: Tls,
}

impl Grpc {
    /// That of a definition.
    #[must_use]
    pub fn new(definition: &CheckDefinition) -> Self {
        Self {
            target: definition.grpc.clone(),
            use_tls: definition.grpc_use_tls,
            tls: Tls::new(definition),
        }
    }

    /// What it asks, and for which service.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Asks once.
    pub async fn ask(&self) -> CheckResult {
        let target = &self.target;
        match self.exchange().await {
            Ok(ServingStatus::Serving) => {
                CheckResult::passing(format!("gRPC check {target}: success"))
            }
            Ok(other) => {
                CheckResult::critical(format!("gRPC check {target}: {}", other.as_str_name()))
            }
            Err(error) => CheckResult::critical(error),
        }
    }

    async fn exchange(&self) -> Result<ServingStatus, String> {
        let unavailable = |reason: String| format!("rpc error: code = Unavailable desc = {reason}");
        let (address, service) = self.target.split_once('/').unwrap_or((&self.target, ""));
        let io = self.tls.open(address, self.use_tls.then_some(H2)).await.map_err(unavailable)?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        let scheme = if self.use_tls { "https" } else { "http" };
        let origin: Uri = format!("{scheme}://{address}")
            .parse()
            .map_err(|error| unavailable(format!("address {address}: {error}")))?;
        let mut client =
            HealthClient::with_origin(Sending(sender), origin).max_decoding_message_size(LONGEST);
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = drive(connection, client.check(request)).await.map_err(|status| {
            format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
        })?;
        Ok(answer.into_inner().status())
    }
}

/// One HTTP/2 connection as what the generated client calls through.
struct Sending(SendRequest<Body>);

impl Service<http::Request<Body>> for Sending {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::Server;

    use super::*;
    use crate::types::CheckStatus;

    async fn ask(target: &str) -> CheckResult {
        let definition = CheckDefinition { grpc: target.into(), ..CheckDefinition::default() };
        Grpc::new(&definition).ask().await
    }

    #[tokio::test]
    async fn serving_passes_and_all_else_is_critical() {
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter.set_service_status("web", tonic_health::ServingStatus::Serving).await;
        reporter.set_service_status("db", tonic_health::ServingStatus::NotServing).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(serving);

        for target in [format!("{address}"), format!("{address}/"), format!("{address}/web")] {
            let passing = CheckResult::passing(format!("gRPC check {target}: success"));
            assert_eq!(ask(&target).await, passing);
        }
        let seen = ask(&format!("{address}/db")).await;
        let expected = format!("gRPC check {address}/db: NOT_SERVING");
        assert_eq!(seen, CheckResult::critical(expected));
        let seen = ask(&format!("{address}/none")).await;
        assert_eq!(seen.status, CheckStatus::Critical);
        assert!(seen.output.starts_with("rpc error: code = NotFound desc = "), "{seen:?}");

        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        let seen = ask(&address.to_string()).await;
        assert_eq!(seen.status, CheckStatus::Critical);
        assert!(
            seen.output.starts_with("rpc error: code = Unavailable desc = dial tcp"),
            "{seen:?}"
        );
    }
}

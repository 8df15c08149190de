//! A check by HTTP/2: opens a connection, by TLS unless `H2PingUseTLS` is false, and passes if a
//! PING is answered.
//!
//! Source: RFC 9113 §6.7; Consul 1.10 and later.

use h2::Ping;

use super::CheckResult;
use super::drive::drive;
use super::stream::{H2, Tls};
use crate::types::CheckDefinition;

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct H2Ping {
    address: String,
    use_tls: bool,
    tls: Tls,
}

impl H2Ping {
    /// That of a definition.
    #[must_use]
    pub fn new(definition: &CheckDefinition) -> Self {
        Self {
            address: definition.h2_ping.clone(),
            use_tls: definition.h2_ping_use_tls.unwrap_or(true),
            tls: Tls::new(definition),
        }
    }

    /// What it connects to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks once.
    pub async fn ask(&self) -> CheckResult {
        match self.exchange().await {
            Ok(()) => CheckResult::passing("HTTP2 ping was successful"),
            Err(error) => CheckResult::critical(format!("HTTP2 ping {}: {error}", self.address)),
        }
    }

    async fn exchange(&self) -> Result<(), String> {
        let io = self.tls.open(&self.address, self.use_tls.then_some(H2)).await?;
        let said = |error: h2::Error| error.to_string();
        // The sender is kept: a connection that nobody can use closes itself.
        let (_sender, mut connection) = h2::client::handshake(io).await.map_err(said)?;
        let mut pings = connection.ping_pong().ok_or("the connection takes no PING")?;
        drive(connection, pings.ping(Ping::opaque())).await.map(drop).map_err(said)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::stream::test_acceptor;
    use super::*;
    use crate::types::CheckStatus;

    fn h2_ping(address: String, tls: Option<bool>) -> H2Ping {
        let definition = CheckDefinition {
            h2_ping: address,
            h2_ping_use_tls: tls,
            tls_skip_verify: true,
            ..CheckDefinition::default()
        };
        H2Ping::new(&definition)
    }

    #[tokio::test]
    async fn an_answered_ping_passes_with_and_without_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = async {
            for tls in [false, true] {
                let (stream, _) = listener.accept().await.unwrap();
                if tls {
                    let stream = test_acceptor(H2).accept(stream).await.unwrap();
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok(_)) = connection.accept().await {}
                } else {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok(_)) = connection.accept().await {}
                }
            }
            // One that does not speak HTTP/2.
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
        };
        let asking = async {
            for tls in [Some(false), None] {
                let seen = h2_ping(address.clone(), tls).ask().await;
                assert_eq!(seen, CheckResult::passing("HTTP2 ping was successful"), "{tls:?}");
            }
            let seen = h2_ping(address.clone(), Some(false)).ask().await;
            assert_eq!(seen.status, CheckStatus::Critical, "{seen:?}");
        };
        tokio::join!(serving, asking);
        drop(listener);
        let seen = h2_ping(address, None).ask().await;
        assert!(seen.output.contains("connection refused"), "{seen:?}");
    }
}

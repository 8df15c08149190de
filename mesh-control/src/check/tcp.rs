//! A check by TCP: it passes if a connection opens to one of the addresses of its `host:port`.
//!
//! Without a host it is `localhost`. Source: Consul.

use std::io;

use tokio::net::TcpStream;

use super::CheckResult;
use crate::types::CheckDefinition;

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Tcp {
    address: String,
}

impl Tcp {
    /// That of a definition.
    #[must_use]
    pub fn new(definition: &CheckDefinition) -> Self {
        Self { address: definition.tcp.clone() }
    }

    /// What it connects to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks once.
    pub async fn ask(&self) -> CheckResult {
        match connect(&self.address).await {
            Ok(_) => CheckResult::passing(format!("TCP connect {}: Success", self.address)),
            Err(error) => CheckResult::critical(error),
        }
    }
}

/// Opens a connection, or says why not.
pub(super) async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(with_host(address)?)
        .await
        .map_err(|error| format!("dial tcp {address}: {}", reason(&error)))
}

/// `host:port`, with `localhost` where the host is missing.
pub(super) fn with_host(address: &str) -> Result<String, String> {
    match address.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|it| it.is_ascii_digit()) => {
            if host.contains(':') && !host.starts_with('[') {
                return Err(format!("address {address}: too many colons in address"));
            }
            Ok(if host.is_empty() { format!("localhost:{port}") } else { address.to_owned() })
        }
        _ => Err(format!("address {address}: missing port in address")),
    }
}

/// The error in words that do not depend on the platform, where there are such.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::types::CheckStatus;

    async fn ask(address: &str) -> CheckResult {
        let definition = CheckDefinition { tcp: address.into(), ..CheckDefinition::default() };
        Tcp::new(&definition).ask().await
    }

    #[tokio::test]
    async fn it_passes_while_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = ask(&format!("127.0.0.1:{port}")).await;
        assert_eq!(seen, CheckResult::passing(format!("TCP connect 127.0.0.1:{port}: Success")));
        assert_eq!(ask(&format!("localhost:{port}")).await.status, CheckStatus::Passing);
        assert_eq!(ask(&format!(":{port}")).await.status, CheckStatus::Passing);

        drop(listener);
        let seen = ask(&format!("127.0.0.1:{port}")).await;
        let expected = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(seen, CheckResult::critical(expected));
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_critical_and_says_so() {
        for (address, expected) in [
            ("127.0.0.1", "missing port"),
            ("127.0.0.1:http", "missing port"),
            ("::1:80", "too many colons"),
            ("127.0.0.1:99999", "99999"),
        ] {
            let seen = ask(address).await;
            assert_eq!(seen.status, CheckStatus::Critical);
            assert!(seen.output.contains(expected), "{seen:?}");
        }
    }
}

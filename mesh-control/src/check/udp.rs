//! A check by UDP: sends a datagram, and is critical if the host says that nobody listens (ICMP).
//!
//! Silence passes: a service need not answer what it does not understand. It takes the timeout to
//! hear it. Source: Consul 1.14 and later.

use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::CheckResult;
use super::tcp::{reason, with_host};
use crate::types::CheckDefinition;

/// What is sent: a service that logs it can tell where it came from.
const HELLO: &[u8] = b"health check\n";

/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Udp {
    address: String,
}

impl Udp {
    /// That of a definition.
    #[must_use]
    pub fn new(definition: &CheckDefinition) -> Self {
        Self { address: definition.udp.clone() }
    }

    /// What it sends to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks once; silence for `longest` is well.
    pub async fn ask(&self, longest: Duration) -> CheckResult {
        let address = &self.address;
        match timeout(longest, self.exchange()).await {
            Ok(Err(error)) => CheckResult::critical(format!("dial udp {address}: {error}")),
            Ok(Ok(())) | Err(_) => CheckResult::passing(format!("UDP connect {address}: Success")),
        }
    }

    async fn exchange(&self) -> Result<(), String> {
        let said = |error: std::io::Error| reason(&error);
        let found = tokio::net::lookup_host(with_host(&self.address)?).await.map_err(said)?;
        let mut last = "no such host".to_owned();
        for address in found {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).await.map_err(said)?;
            let asked = async {
                socket.connect(address).await?;
                socket.send(HELLO).await?;
                socket.recv(&mut [0]).await
            };
            match asked.await {
                Ok(_) => return Ok(()),
                Err(error) => last = reason(&error),
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::CheckStatus;

    fn udp(address: &str) -> Udp {
        let definition = CheckDefinition { udp: address.into(), ..CheckDefinition::default() };
        Udp::new(&definition)
    }

    #[tokio::test]
    async fn an_answer_and_silence_pass_and_a_refusal_is_critical() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let udp = udp(&address);
        let silent = udp.ask(Duration::from_millis(50)).await;
        assert_eq!(silent, CheckResult::passing(format!("UDP connect {address}: Success")));

        // What the first one sent is still there; the second one's is the first to be answered.
        let answering = async {
            loop {
                let (_, from) = socket.recv_from(&mut [0; 64]).await.unwrap();
                socket.send_to(b"here", from).await.unwrap();
            }
        };
        let long = Duration::from_secs(60);
        tokio::select! {
            seen = udp.ask(long) => assert_eq!(seen.status, CheckStatus::Passing),
            () = answering => unreachable!("it answers for ever"),
        }

        drop(socket);
        let refused = udp.ask(long).await;
        let expected = format!("dial udp {address}: connect: connection refused");
        assert_eq!(refused, CheckResult::critical(expected));
    }
}

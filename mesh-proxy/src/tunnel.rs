//! Tunnel: bytes from one side to the other, both ways, until both have ended.
//!
//! When one side ends, the other is told (half-close) and may go on; when one fails, both end.
//! Back-pressure is the sockets' own: nothing is read that the other side has not taken.
//!
//! The buffer, [`BUFFER`] bytes for each direction, is larger than tokio's default: at 8 KiB a
//! relay costs twice as much CPU per byte.

use crate::counters::{Counters, Reject};
use crate::gate::Watch;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

/// Bytes on their way in each direction.
const BUFFER: usize = 128 * 1024;

/// Relays until both sides have ended; bytes from the client, then from the endpoint.
///
/// # Errors
/// When one side fails.
pub(crate) async fn relay(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    endpoint: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<(u64, u64)> {
    copy_bidirectional_with_sizes(client, endpoint, BUFFER, BUFFER).await
}

/// Relays until both sides have ended, or nothing has moved for as long as the client's gate
/// allows: a side that is gone without a word must not be waited for.
pub(crate) async fn watched(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    endpoint: &mut (impl AsyncRead + AsyncWrite + Unpin),
    watch: &Watch,
    counters: &Counters,
) {
    tokio::select! {
        result = relay(client, endpoint) => if let Err(error) = result {
            tracing::debug!(%error, "a relay broke");
        },
        () = watch.until_idle() => counters.reject(Reject::Slow),
    }
}

/// Relays between two connections that have switched protocols, once both have.
pub(crate) async fn upgraded(
    client: OnUpgrade,
    endpoint: OnUpgrade,
    watch: &Watch,
    counters: &Counters,
) {
    let (client, endpoint) = match tokio::try_join!(client, endpoint) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a switch of protocols was not completed");
            return;
        }
    };
    let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
    watched(&mut client, &mut endpoint, watch, counters).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn one_side_may_end_while_the_other_goes_on() {
        let (mut client, mut near) = tokio::io::duplex(64);
        let (mut far, mut endpoint) = tokio::io::duplex(64);
        let relayed = tokio::spawn(async move { relay(&mut near, &mut far).await });
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        endpoint.read_to_string(&mut asked).await.unwrap();
        assert_eq!(asked, "question");
        endpoint.write_all(b"answer").await.unwrap();
        endpoint.shutdown().await.unwrap();
        let mut answered = String::new();
        client.read_to_string(&mut answered).await.unwrap();
        assert_eq!(answered, "answer");
        assert_eq!(relayed.await.unwrap().unwrap(), (8, 6));
    }
}

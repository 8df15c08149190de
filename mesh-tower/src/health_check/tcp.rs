//! A check by TCP: a connection, and perhaps some bytes each way.

use super::Failed;
use crate::connect::{Connections, Transport};
use mesh_core::health::check::{Cause, Expect, Payload, Tcp};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How much of an answer is looked at.
const ANSWER: usize = 1 << 20;

/// Over `kept` if it is there; leaves the stream there if the next check may use it.
pub(super) async fn ask(
    connections: &Connections,
    tcp: &Tcp,
    kept: &mut Option<Transport>,
    reuse: bool,
) -> Result<(), Failed> {
    // A kept stream may have been closed since; a fresh one then tells how the endpoint is.
    if let Some(mut stream) = kept.take()
        && converse(&mut stream, tcp).await.is_ok()
    {
        *kept = Some(stream);
        return Ok(());
    }
    let mut stream = connections.stream_of_bytes().await?;
    converse(&mut stream, tcp).await?;
    // Without an answer to wait for, an open stream says nothing about the endpoint later on.
    if reuse && !tcp.receive.is_empty() {
        *kept = Some(stream);
    }
    Ok(())
}

async fn converse(stream: &mut Transport, tcp: &Tcp) -> Result<(), Failed> {
    if let Some(bytes) = tcp.send.as_ref().and_then(Payload::bytes) {
        stream.write_all(&bytes).await.map_err(broke)?;
        stream.flush().await.map_err(broke)?;
    }
    let mut expect = Expect::new(&tcp.receive);
    let mut buffer = [0; 2048];
    let mut left = ANSWER;
    while !expect.is_met() {
        let length = stream.read(&mut buffer).await.map_err(broke)?;
        if length == 0 {
            let message = "health check: closed before the expected bytes came";
            return Err(Failed::new(Cause::Garbage, message));
        }
        left = left.checked_sub(length).ok_or(Cause::TooLong)?;
        expect.take(buffer.get(..length).unwrap_or_default());
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
fn broke(error: io::Error) -> Failed {
    Failed::new(Cause::Reset, format!("health check: the connection broke: {error}"))
}

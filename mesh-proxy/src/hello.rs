//! Hello: whom a TLS client asks for, read from its first message, which goes on as it came.
//!
//! rustls reads the ClientHello, from however many records and packets. What is no ClientHello, names
//! nobody, or is not there in time is refused with an alert that a client can tell apart from a
//! broken network: `unrecognized_name` where the name is missing or leads nowhere.
//!
//! Source: RFC 6066 section 3 (`server_name`), RFC 8446 section 6 (alerts).

use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest that may come before the ClientHello is whole: that of one record and its header.
const LONGEST: usize = 16 * 1024 + 5;

/// A fatal alert `unrecognized_name`, as a record of its own.
pub(crate) const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// What a client has said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Whom it asks for, in lower case; `None` if it names nobody.
    pub(crate) name: Option<String>,
    /// All that was read.
    pub(crate) ahead: Bytes,
}

/// Reads until the ClientHello is whole; `None` if none comes.
pub(crate) async fn read(io: &mut (impl AsyncRead + Unpin)) -> Option<Hello> {
    let mut acceptor = Acceptor::default();
    let mut ahead = BytesMut::with_capacity(2 * 1024);
    loop {
        let seen = ahead.len();
        if seen >= LONGEST || io.read_buf(&mut ahead).await.ok()? == 0 {
            return None;
        }
        let mut fresh = ahead.get(seen..)?;
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh).ok()?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                    return Some(Hello { name, ahead: ahead.freeze() });
                }
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ClientConnection, pki_types::ServerName};
    use std::sync::Arc;
    use testkit::net::Authority;
    use tokio::io::AsyncWriteExt;

    fn client_hello(name: &str) -> Vec<u8> {
        let config = Authority::new("mesh.test").client(None, &["h2"]);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// What is read if bytes come in packets of this size, and then no more.
    async fn told(bytes: &[u8], packet: usize) -> Option<Hello> {
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let sent = bytes.to_vec();
        let sending = tokio::spawn(async move {
            for packet in sent.chunks(packet) {
                // The other side may have seen enough.
                let _ = near.write_all(packet).await;
                tokio::task::yield_now().await;
            }
        });
        let hello = read(&mut far).await;
        drop(far);
        sending.await.unwrap();
        hello
    }

    #[tokio::test]
    async fn the_name_is_read_and_no_byte_is_lost_however_they_come() {
        let bytes = client_hello("Shop.Example");
        for packet in [1, 7, bytes.len()] {
            let hello = told(&bytes, packet).await.expect("a hello");
            assert_eq!(hello.name.as_deref(), Some("shop.example"), "by {packet}");
            assert_eq!(hello.ahead, bytes);
        }
        // The same message in two records.
        let (head, body) = bytes.split_at(5);
        let record = |part: &[u8]| {
            [&head[..3], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat()
        };
        let (first, second) = body.split_at(40);
        let divided = [record(first), record(second)].concat();
        let hello = told(&divided, 9).await.expect("a hello");
        assert_eq!((hello.name.as_deref(), &hello.ahead[..]), (Some("shop.example"), &divided[..]));
    }

    #[tokio::test]
    async fn who_asks_for_an_address_names_nobody() {
        let hello = told(&client_hello("127.0.0.1"), 4096).await.expect("a hello");
        assert_eq!(hello.name, None);
    }

    #[tokio::test]
    async fn what_is_no_hello_is_refused() {
        let whole = client_hello("a.example");
        for bytes in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &whole[..whole.len() - 1], b"", &[22, 3, 1, 255, 255]]
        {
            assert_eq!(told(bytes, 4096).await, None, "{}", bytes.escape_ascii());
        }
        // A length that promises more than is ever taken.
        let endless = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 1 << 16]].concat();
        assert_eq!(told(&endless, 4096).await, None);
    }
}

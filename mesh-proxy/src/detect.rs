//! Detect: what a client speaks, by its first bytes.
//!
//! | first bytes | is |
//! |---|---|
//! | `PRI * HTTP/2.0` | HTTP/2 (RFC 9113 section 3.4) |
//! | a token, a space, then `/`, `*`, or `http` | HTTP/1 |
//! | a line that ends with ` HTTP/` and two digits around a dot | HTTP/1 |
//! | `PROXY `, or the twelve bytes of its second version | PROXY protocol, which nobody may use unasked |
//! | anything else | TCP |
//!
//! A client that says nothing for ten seconds waits for the server to speak first, so it is TCP
//! too; that wait is the caller's. TLS that is not ended here is TCP as well: its first byte, 22,
//! is no token.

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.0 or 1.1, or what claims to be.
    Http1,
    /// HTTP/2 with prior knowledge or by ALPN.
    Http2,
    /// Anything else.
    Tcp,
    /// A PROXY protocol header.
    ProxyHeader,
}

/// Longest first line that is waited for.
pub(crate) const LONGEST: usize = 4096;

const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PROXY_1: &[u8] = b"PROXY ";
const PROXY_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What `first` says; `None` if more bytes are needed to tell.
pub(crate) fn detect(first: &[u8]) -> Option<Speaks> {
    for (pattern, speaks) in
        [(HTTP2, Speaks::Http2), (PROXY_1, Speaks::ProxyHeader), (PROXY_2, Speaks::ProxyHeader)]
    {
        if first.starts_with(pattern) {
            return Some(speaks);
        }
        if pattern.starts_with(first) {
            return None;
        }
    }
    // An empty line before a request is forgiven (RFC 9112 section 2.2).
    let first = first.strip_prefix(b"\r\n").unwrap_or(first);
    let Some(end) = first.iter().position(|&byte| !is_token(byte)) else {
        return (first.len() > 32).then_some(Speaks::Tcp);
    };
    let (_, rest) = first.split_at(end);
    if end == 0 || rest.first() != Some(&b' ') {
        return Some(Speaks::Tcp);
    }
    match rest.get(1..).unwrap_or_default() {
        [] => return None,
        [b'/' | b'*', ..] => return Some(Speaks::Http1),
        target if target.starts_with(b"http") => return Some(Speaks::Http1),
        _ => {}
    }
    match rest.iter().position(|&byte| byte == b'\n') {
        Some(end) => {
            let line = rest.get(..end).unwrap_or_default().trim_ascii_end();
            let version = line.len().checked_sub(9).and_then(|at| line.get(at..));
            let http = matches!(version, Some([b' ', b'H', b'T', b'T', b'P', b'/', a, b'.', b])
                if a.is_ascii_digit() && b.is_ascii_digit());
            Some(if http { Speaks::Http1 } else { Speaks::Tcp })
        }
        None if rest.len() >= LONGEST => Some(Speaks::Tcp),
        None => None,
    }
}

/// Whether the client speaks HTTP/2, where it can only be HTTP; `None` if more bytes are needed.
pub(crate) fn detect_http(first: &[u8]) -> Option<Speaks> {
    if first.starts_with(HTTP2) {
        Some(Speaks::Http2)
    } else if HTTP2.starts_with(first) {
        None
    } else {
        Some(Speaks::Http1)
    }
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        for (first, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Speaks::Http1)),
            (b"M-SEARCH * HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"GET http://a/ HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"\r\nGET / HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"GET /\r\n", Some(Speaks::Http1)),
            (b"CONNECT a:1 HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"GET a:1 HTTP/3.7\r\n", Some(Speaks::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Speaks::Http2)),
            (b"PRI * HTTP/2.0\r\n", None),
            (b"", None),
            (b"GE", None),
            (b"GET", None),
            (b"GET ", None),
            (b"get key", None),
            (b"get key\r\n", Some(Speaks::Tcp)),
            (b"PING\r\n", Some(Speaks::Tcp)),
            (b"EHLO mail.example\r\n", Some(Speaks::Tcp)),
            (b"SSH-2.0-OpenSSH\r\n", Some(Speaks::Tcp)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Speaks::Tcp)),
            (b"\x16\x03\x01\x02\x00\x01", Some(Speaks::Tcp)),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Speaks::Tcp)),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", Some(Speaks::ProxyHeader)),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", Some(Speaks::ProxyHeader)),
        ] {
            assert_eq!(detect(first), expected, "{}", first.escape_ascii());
        }
        assert_eq!(detect(&[b'a'; 40]), Some(Speaks::Tcp));
        let mut endless = b"GET ".to_vec();
        endless.resize(LONGEST + 4, b'x');
        assert_eq!(detect(&endless), Some(Speaks::Tcp));
    }

    #[test]
    fn a_verdict_does_not_change_with_more_bytes() {
        for message in
            [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
        {
            let verdict = detect(message);
            assert!(verdict.is_some());
            for end in 0..message.len() {
                let early = detect(&message[..end]);
                assert!(early.is_none() || early == verdict, "after {end} bytes: {early:?}");
            }
        }
    }

    #[test]
    fn on_an_http_listener_everything_else_is_left_to_the_engine_to_refuse() {
        assert_eq!(detect_http(b"\x16\x03"), Some(Speaks::Http1));
        assert_eq!(detect_http(b"PRI"), None);
        assert_eq!(detect_http(HTTP2), Some(Speaks::Http2));
    }
}

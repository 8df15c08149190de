//! Detect: what a client speaks, by its first bytes.
//!
//! | first bytes | is |
//! |---|---|
//! | `PRI * HTTP/2.0` | HTTP/2 (RFC 9113 section 3.4) |
//! | `PROXY TCP4 `, `PROXY TCP6 `, `PROXY UNKNOWN`, or the twelve bytes of its second version | PROXY protocol, which nobody may use unasked |
//! | anything else | HTTP/1, whose engine refuses what it is not |
//!
//! Only where the configuration says that HTTP and other protocols share a listener
//! ([`Takes::Either`]), the last row is divided:
//!
//! | first bytes, after empty lines and spaces | is |
//! |---|---|
//! | a token, space of any kind, then `/`, `*`, or `http` | HTTP/1 |
//! | a token, and a line that ends with ` HTTP/` and two digits around a dot | HTTP/1 |
//! | anything else | bytes |
//!
//! It is wider than HTTP, so that what a lenient endpoint could read as a request is refused, and
//! not relayed past the rules for requests. A client that says nothing for ten seconds waits for the
//! server to speak first, so it speaks bytes; that wait is the caller's. TLS that is not ended here
//! is bytes as well: its first byte, 22, is no token.

/// What a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// HTTP/1 or HTTP/2; all else is refused.
    Http,
    /// Bytes; what they mean is not looked at.
    Bytes,
    /// Both, told apart by the first bytes.
    Either,
    /// TLS, which goes on as it comes to whom the client asks for.
    Tls,
}

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.0 or 1.1, or what claims to be.
    Http1,
    /// HTTP/2 with prior knowledge or by ALPN.
    Http2,
    /// Anything else.
    Bytes,
    /// A PROXY protocol header.
    ProxyHeader,
}

/// Longest first line that is waited for, with the empty ones before it.
pub(crate) const LONGEST: usize = 4096;

/// Longest token before its end that may begin a request.
const LONGEST_TOKEN: usize = 32;

const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection that is no HTTP/1 begins with.
const PREFACES: [(&[u8], Speaks); 5] = [
    (HTTP2, Speaks::Http2),
    (b"PROXY TCP4 ", Speaks::ProxyHeader),
    (b"PROXY TCP6 ", Speaks::ProxyHeader),
    (b"PROXY UNKNOWN", Speaks::ProxyHeader),
    (b"\r\n\r\n\0\r\nQUIT\n", Speaks::ProxyHeader),
];

/// What `first` says; `None` if more bytes are needed to tell.
pub(crate) fn detect(first: &[u8], takes: Takes) -> Option<Speaks> {
    for (preface, speaks) in PREFACES {
        if first.starts_with(preface) {
            return Some(speaks);
        }
        if preface.starts_with(first) {
            return None;
        }
    }
    match takes {
        Takes::Http => Some(Speaks::Http1),
        Takes::Bytes | Takes::Tls => Some(Speaks::Bytes),
        Takes::Either => detect_request(first),
    }
}

/// Whether `first` could be taken for a request of HTTP/1, or is bytes.
fn detect_request(first: &[u8]) -> Option<Speaks> {
    let Some(start) = first.iter().position(|&byte| byte != b'\n' && !is_gap(byte)) else {
        return (first.len() > LONGEST).then_some(Speaks::Bytes);
    };
    let first = first.get(start..).unwrap_or_default();
    let Some(end) = first.iter().position(|&byte| !is_token(byte)) else {
        return (first.len() > LONGEST_TOKEN).then_some(Speaks::Bytes);
    };
    let (_, rest) = first.split_at(end);
    let gap = rest.iter().take_while(|&&byte| is_gap(byte)).count();
    if end == 0 || (gap == 0 && !rest.is_empty()) {
        return Some(Speaks::Bytes);
    }
    match rest.get(gap..).unwrap_or_default() {
        [b'/' | b'*', ..] => return Some(Speaks::Http1),
        target if target.starts_with(b"http") => return Some(Speaks::Http1),
        _ => {}
    }
    match rest.iter().position(|&byte| byte == b'\n') {
        Some(end) => {
            let line = rest.get(..end).unwrap_or_default().trim_ascii_end();
            let version = line.len().checked_sub(9).and_then(|at| line.get(at..));
            let http = matches!(version, Some([gap, b'H', b'T', b'T', b'P', b'/', a, b'.', b])
                if is_gap(*gap) && a.is_ascii_digit() && b.is_ascii_digit());
            Some(if http { Speaks::Http1 } else { Speaks::Bytes })
        }
        None if rest.len() >= LONGEST => Some(Speaks::Bytes),
        None => None,
    }
}

/// What a lenient parser takes for a space (RFC 9112 section 3).
const fn is_gap(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r')
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
    fn where_both_are_taken_the_first_bytes_tell() {
        for (first, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Speaks::Http1)),
            (b"M-SEARCH * HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"GET http://a/ HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"\r\nGET / HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"\nGET / HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"GET\t/ HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b" GET / HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"GET\x0b/ HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"GET  \t / HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"GET\ta\tHTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"GET /\r\n", Some(Speaks::Http1)),
            (b"CONNECT a:1 HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"GET a:1 HTTP/3.7\r\n", Some(Speaks::Http1)),
            (b"PROXY /a HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Speaks::Http2)),
            (b"PRI * HTTP/2.0\r\n", None),
            (b"", None),
            (b"\r\n", None),
            (b"\n\n", None),
            (b"GE", None),
            (b"GET", None),
            (b"GET ", None),
            (b"GET \t", None),
            (b"get key", None),
            (b"get key\r\n", Some(Speaks::Bytes)),
            (b"PING\r\n", Some(Speaks::Bytes)),
            (b"PING \r\n*1\r\n", Some(Speaks::Bytes)),
            (b"EHLO mail.example\r\n", Some(Speaks::Bytes)),
            (b"SSH-2.0-OpenSSH\r\n", Some(Speaks::Bytes)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Speaks::Bytes)),
            (b"\x16\x03\x01\x02\x00\x01", Some(Speaks::Bytes)),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Speaks::Bytes)),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", Some(Speaks::ProxyHeader)),
            (b"PROXY UNKNOWN\r\n", Some(Speaks::ProxyHeader)),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", Some(Speaks::ProxyHeader)),
        ] {
            assert_eq!(detect(first, Takes::Either), expected, "{}", first.escape_ascii());
        }
        for endless in [&b"a"[..], b"GET x", b"\n"] {
            let mut first = endless.to_vec();
            first.resize(LONGEST + 5, endless[endless.len() - 1]);
            assert_eq!(detect(&first, Takes::Either), Some(Speaks::Bytes));
        }
    }

    #[test]
    fn where_only_http_is_taken_nothing_is_bytes() {
        for (first, expected) in [
            (&b"\x16\x03"[..], Some(Speaks::Http1)),
            (b"PING\r\n", Some(Speaks::Http1)),
            (b"\nGET / HTTP/1.1\r\n", Some(Speaks::Http1)),
            (b"\0", Some(Speaks::Http1)),
            (b"PRI", None),
            (HTTP2, Some(Speaks::Http2)),
            (b"PROXY TCP6 ::1 ::1 1 2\r\n", Some(Speaks::ProxyHeader)),
        ] {
            assert_eq!(detect(first, Takes::Http), expected, "{}", first.escape_ascii());
        }
    }

    #[test]
    fn a_verdict_does_not_change_with_more_bytes() {
        for message in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            for takes in [Takes::Http, Takes::Either] {
                let verdict = detect(message, takes);
                assert!(verdict.is_some());
                for end in 0..message.len() {
                    let early = detect(&message[..end], takes);
                    assert!(early.is_none() || early == verdict, "after {end} bytes: {early:?}");
                }
            }
        }
    }
}

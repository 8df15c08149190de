use super::*;

/// Scans in reads of `size` bytes; the first finding that is not fine, at its offset in all.
fn scan_by(input: &[u8], size: usize) -> Scanned {
    let mut framing = Framing::new();
    let mut before = 0;
    for read in input.chunks(size) {
        match framing.scan(read) {
            Scanned::Fine => before += read.len(),
            Scanned::BadSyntax { why, .. } => return Scanned::BadSyntax { at: 0, why },
            Scanned::BadHead { at, why } => return Scanned::BadHead { at: before + at, why },
            Scanned::BadBody { why, .. } => return Scanned::BadBody { at: 0, why },
            Scanned::Ask { at } => return Scanned::Ask { at: before + at },
        }
    }
    assert!(framing.between_messages(), "not at the end of a message: {framing:?}");
    Scanned::Fine
}

/// The finding must not depend on how the bytes are cut into reads.
fn scan(input: &[u8]) -> Scanned {
    let whole = scan_by(input, input.len());
    for size in 1..input.len().min(80) {
        assert_eq!(scan_by(input, size), whole, "in reads of {size} bytes");
    }
    whole
}

fn head(fields: &str) -> Vec<u8> {
    format!("POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    let mut message = head("Transfer-Encoding: chunked\r\n");
    message.extend_from_slice(body.as_bytes());
    message
}

#[test]
fn well_formed_messages_follow_each_other() {
    let long = format!("{}X-Long: {}\r\n", "Content-Length: 3\r\n", "v".repeat(500));
    let mut all = Vec::new();
    for message in [
        head(""),
        [head(&long), b"abc".to_vec()].concat(),
        [head("content-length:\t005 \r\nCONTENT-LENGTH: 5\r\n"), b"GET /".to_vec()].concat(),
        chunked("3\r\nabc\r\n0000A;x=y;z=\"q\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"),
        chunked("0\r\n\r\n"),
        [b"\r\n".to_vec(), head("Content-Length: 0\r\n")].concat(),
    ] {
        assert_eq!(scan(&message), Scanned::Fine, "{}", message.escape_ascii());
        all.extend_from_slice(&message);
    }
    assert_eq!(scan(&all), Scanned::Fine);
    let mut framing = Framing::new();
    framing.scan(&all);
    assert_eq!(framing.heads(), 6);
}

#[test]
fn heads_that_frame_ambiguously_are_refused() {
    use Violation as V;
    for (fields, why) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", V::BothLengths),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", V::BothLengths),
        ("Transfer-Encoding: x, chunked\r\n", V::TransferEncoding),
        ("Transfer-Encoding: chunked, x\r\n", V::TransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", V::TransferEncoding),
        ("Transfer-Encoding: identity\r\n", V::TransferEncoding),
        ("Transfer-Encoding: \"chunked\"\r\n", V::TransferEncoding),
        ("Transfer-Encoding: chunked;q=1\r\n", V::TransferEncoding),
        ("Transfer-Encoding: \u{b}chunked\r\n", V::TransferEncoding),
        ("Transfer-Encoding: \u{a0}chunked\r\n", V::TransferEncoding),
        ("Transfer-Encoding:\r\n", V::TransferEncoding),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", V::ContentLength),
        ("Content-Length: 5, 5\r\n", V::ContentLength),
        ("Content-Length: +5\r\n", V::ContentLength),
        ("Content-Length: -5\r\n", V::ContentLength),
        ("Content-Length: 0x5\r\n", V::ContentLength),
        ("Content-Length: 5.0\r\n", V::ContentLength),
        ("Content-Length: 5a\r\n", V::ContentLength),
        ("Content-Length: 1_0\r\n", V::ContentLength),
        ("Content-Length:\r\n", V::ContentLength),
        ("Content-Length: 9223372036854775808\r\n", V::ContentLength),
        ("Content-Length: 18446744073709551617\r\n", V::ContentLength),
    ] {
        let message = head(fields);
        let expected = Scanned::BadHead { at: message.len(), why };
        assert_eq!(scan(&message), expected, "{}", fields.escape_debug());
    }
    let connect = b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(scan(connect), Scanned::BadHead { at: connect.len(), why: V::Connect });
    let padded = head(&format!("Content-Length: {}5\r\n", " ".repeat(100)));
    assert!(matches!(scan_by(&padded, 7), Scanned::BadHead { why: V::ContentLength, .. }));
}

#[test]
fn line_ends_are_crlf() {
    for head in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let expected = Scanned::BadSyntax { at: 0, why: Violation::BareLf };
        for size in 1..=head.len() {
            assert!(
                matches!(
                    scan_by(head.as_bytes(), size),
                    Scanned::BadSyntax { why: Violation::BareLf, .. }
                ),
                "{} in reads of {size}: expected {expected:?}",
                head.escape_debug(),
            );
        }
    }
    let lines = "\r\n".repeat(5);
    assert_eq!(scan(lines.as_bytes()), Scanned::BadSyntax { at: 0, why: Violation::EmptyLines });
}

#[test]
fn broken_chunks_end_the_body() {
    use Violation as V;
    for (body, why) in [
        ("0x5\r\nabcde\r\n0\r\n\r\n", V::ChunkSize),
        ("+5\r\nabcde\r\n0\r\n\r\n", V::ChunkSize),
        ("-1\r\n", V::ChunkSize),
        ("5_0\r\n", V::ChunkSize),
        ("\r\n", V::ChunkSize),
        (";a\r\n", V::ChunkSize),
        (" 5\r\nabcde\r\n", V::ChunkSize),
        ("5 \r\nabcde\r\n", V::ChunkSize),
        ("5\nabcde\r\n0\r\n\r\n", V::ChunkSize),
        ("5\r\rabcde", V::ChunkSize),
        ("5\0\r\n", V::ChunkSize),
        ("00000000000000001\r\na\r\n", V::ChunkSize),
        ("5\r\nabcdefgh\r\n0\r\n\r\n", V::ChunkEnd),
        ("5\r\nabcde\n0\r\n\r\n", V::ChunkEnd),
        ("5\r\nabcdeXY0\r\n\r\n", V::ChunkEnd),
        ("5\r\nabcde\rX0\r\n\r\n", V::ChunkEnd),
        ("5;a\nb\r\nabcde\r\n", V::ChunkExtension),
        ("5;a\0b\r\nabcde\r\n", V::ChunkExtension),
        ("5;a\rb\r\nabcde\r\n", V::ChunkSize),
        ("0\r\nX: 1\n\r\n", V::BareLf),
    ] {
        match scan(&chunked(body)) {
            Scanned::BadBody { why: found, .. } => assert_eq!(found, why, "{body:?}"),
            other => panic!("{}: {other:?}", body.escape_debug()),
        }
    }
}

#[test]
fn what_a_message_makes_us_keep_is_limited() {
    let extension = format!("1;{}\r\na\r\n", "e".repeat(4096));
    let body = extension.repeat(5);
    let expected = Scanned::BadBody { at: 0, why: Violation::ChunkExtension };
    assert_eq!(scan_by(&chunked(&body), 1000), expected);
    let trailers = format!("0\r\n{}\r\n", "X-Trailer: 0123456789\r\n".repeat(1000));
    let expected = Scanned::BadBody { at: 0, why: Violation::Trailers };
    assert_eq!(scan_by(&chunked(&trailers), 1000), expected);
}

#[test]
fn an_upgrade_without_a_body_holds_what_follows() {
    let ask = head("Connection: upgrade\r\nUpgrade: websocket\r\n");
    let mut input = ask.clone();
    input.extend_from_slice(b"early");
    assert_eq!(scan(&input), Scanned::Ask { at: ask.len() });
    let mut with_body = head("Upgrade: h2c\r\nContent-Length: 2\r\n");
    with_body.extend_from_slice(b"ab");
    assert_eq!(scan(&with_body), Scanned::Fine);
}

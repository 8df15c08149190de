use super::*;
use crate::ErrorKind;
use proptest::prelude::*;

fn on(list: &str) -> Config {
    Config { on: serde_json::from_str(list).expect("valid"), ..Config::default() }
}

fn retries(config: &Config, attempted: &Attempted<'_>) -> bool {
    matches!(decide(config, attempted), Verdict::Retry { .. })
}

fn fields(name: &'static str, value: &'static str) -> HeaderMap {
    let name = http::HeaderName::from_static(name);
    HeaderMap::from_iter([(name, http::HeaderValue::from_static(value))])
}

fn status(code: u16) -> End<'static> {
    End::Status(StatusCode::from_u16(code).expect("valid"))
}

#[test]
fn what_cannot_have_reached_the_application_is_sent_again_whatever_the_method() {
    let config = Config::default();
    for kind in [ErrorKind::Connect, ErrorKind::RemoteReset, ErrorKind::Overflow, ErrorKind::Tls] {
        let error = Error::from(kind);
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let attempted =
                Attempted::new(&method, End::Error(&error)).with_idempotent(Some(false));
            let attempted = attempted.with_resent(true);
            assert!(retries(&config, &attempted), "{kind:?} {method}");
        }
    }
}

#[test]
fn what_may_have_reached_it_is_sent_again_only_if_idempotent() {
    let config = Config::default();
    let reset = Error::from(ErrorKind::ConnectionClosed).after_send();
    let late = Error::from(ErrorKind::Deadline).after_send();
    let ends = [
        (End::Error(&reset), true),
        (End::Error(&late), true),
        (status(502), true),
        (status(503), true),
        (status(504), true),
        (End::Grpc(GrpcCode::UNAVAILABLE), true),
        (status(500), false),
        (status(409), false),
        (status(200), false),
        (End::Grpc(GrpcCode::INTERNAL), false),
        (End::Grpc(GrpcCode::OK), false),
    ];
    for (end, listed) in ends {
        for (method, declared, idempotent) in [
            (Method::GET, None, true),
            (Method::HEAD, None, true),
            (Method::OPTIONS, None, true),
            (Method::PUT, None, false),
            (Method::DELETE, None, false),
            (Method::POST, None, false),
            (Method::POST, Some(true), true),
            (Method::GET, Some(false), false),
        ] {
            let attempted = Attempted::new(&method, end).with_idempotent(declared);
            let seen = retries(&config, &attempted);
            assert_eq!(seen, listed && idempotent, "{end:?} {method} {declared:?}");
        }
    }
}

#[test]
fn no_list_of_conditions_repeats_a_post() {
    let all = on(r#"["5xx", "reset", "gateway-error", "retriable-4xx", "400-599", "internal"]"#);
    let reset = Error::from(ErrorKind::RemoteReset).after_send();
    for end in [status(503), status(409), End::Grpc(GrpcCode::INTERNAL), End::Error(&reset)] {
        let verdict = decide(&all, &Attempted::new(&Method::POST, end));
        assert_eq!(verdict, Verdict::Stop { why: Stop::NotIdempotent }, "{end:?}");
    }
}

#[test]
fn each_word_matches_what_it_says() {
    let reset = Error::from(ErrorKind::RemoteReset).after_send();
    let refused = Error::from(ErrorKind::RemoteReset);
    let connect = Error::from(ErrorKind::Connect);
    let late = Error::from(ErrorKind::Deadline).after_send();
    for (word, met, not) in [
        ("\"connect-failure\"", End::Error(&connect), End::Error(&refused)),
        ("\"refused-stream\"", End::Error(&refused), End::Error(&connect)),
        ("\"reset-before-request\"", End::Error(&refused), End::Error(&reset)),
        ("\"reset\"", End::Error(&reset), status(503)),
        ("\"reset\"", End::Error(&connect), status(504)),
        ("\"reset\"", End::Error(&refused), End::Grpc(GrpcCode::UNAVAILABLE)),
        ("\"reset\"", End::Error(&late), status(504)),
        ("\"gateway-error\"", status(502), status(501)),
        ("\"gateway-error\"", End::Error(&reset), status(500)),
        ("\"gateway-error\"", End::Error(&late), status(505)),
        ("\"5xx\"", End::Error(&late), status(499)),
        ("\"504\"", End::Error(&late), End::Error(&reset)),
        ("\"5xx\"", status(599), status(409)),
        ("\"5xx\"", End::Error(&connect), status(404)),
        ("\"retriable-4xx\"", status(409), status(408)),
        ("\"unavailable\"", End::Grpc(GrpcCode::UNAVAILABLE), End::Grpc(GrpcCode::CANCELLED)),
        ("\"deadline-exceeded\"", End::Grpc(GrpcCode::DEADLINE_EXCEEDED), status(504)),
        ("429", status(429), status(430)),
        ("\"500-502\"", status(502), status(503)),
    ] {
        let config = on(&format!("[{word}]"));
        for (end, again) in [(met, true), (not, false)] {
            let attempted = Attempted::new(&Method::GET, end).with_resent(true);
            assert_eq!(retries(&config, &attempted), again, "{word} {end:?}");
        }
    }
}

#[test]
fn attempts_are_counted() {
    let config = Config { attempts: 2, ..Config::default() };
    for (made, again) in [(1, true), (2, true), (3, false), (u32::MAX, false)] {
        let attempted = Attempted::new(&Method::GET, status(503)).with_attempts(made);
        assert_eq!(retries(&config, &attempted), again, "{made}");
    }
    let off = Config { attempts: 0, ..Config::default() };
    let verdict = decide(&off, &Attempted::new(&Method::GET, status(503)));
    assert_eq!(verdict, Verdict::Stop { why: Stop::Exhausted });
}

#[test]
fn what_a_rate_limit_refused_is_not_repeated_unless_listed() {
    let headers = fields("x-envoy-ratelimited", "true");
    let limited = Attempted::new(&Method::GET, status(503)).with_headers(Some(&headers));
    let verdict = decide(&Config::default(), &limited);
    assert_eq!(verdict, Verdict::Stop { why: Stop::RateLimited });
    assert!(retries(&on(r#"["envoy-ratelimited"]"#), &limited));
}

/// Envoy's table of words, and what each asks of a gRPC answer.
#[test]
fn all_words_for_grpc_are_known() {
    for (word, code) in [
        ("cancelled", GrpcCode::CANCELLED),
        ("deadline-exceeded", GrpcCode::DEADLINE_EXCEEDED),
        ("internal", GrpcCode::INTERNAL),
        ("resource-exhausted", GrpcCode::RESOURCE_EXHAUSTED),
        ("unavailable", GrpcCode::UNAVAILABLE),
        ("unknown", GrpcCode::UNKNOWN),
        ("aborted", GrpcCode::ABORTED),
    ] {
        let config = on(&format!("[\"{word}\"]"));
        for other in 0..=16 {
            let other = GrpcCode::new(other);
            let attempted = Attempted::new(&Method::GET, End::Grpc(other));
            assert_eq!(retries(&config, &attempted), other == code, "{word} {other}");
        }
    }
}

#[test]
fn a_field_of_the_response_may_ask_for_a_retry_whatever_its_status() {
    let config: Config = serde_json::from_str(
        r#"{"retriableHeaders":[{"name":"X-Try-Again"},{"name":"x-shed","value":"now"}]}"#,
    )
    .expect("valid");
    for (name, value, again) in [
        ("x-try-again", "", true),
        ("x-shed", "now", true),
        ("x-shed", "later", false),
        ("x-other", "now", false),
    ] {
        let headers = fields(name, value);
        for code in [200, 404, 501] {
            let get = Attempted::new(&Method::GET, status(code)).with_headers(Some(&headers));
            assert_eq!(retries(&config, &get), again, "{name}: {value}");
            let post = Attempted::new(&Method::POST, status(code)).with_headers(Some(&headers));
            assert!(!retries(&config, &post), "it has reached the application");
        }
    }
    for bad in [r#"[{"name":"a b"}]"#, r#"[{"name":""}]"#, r#"[{"value":"x"}]"#, r#"["x"]"#] {
        let text = format!(r#"{{"retriableHeaders":{bad}}}"#);
        assert!(serde_json::from_str::<Config>(&text).is_err(), "{bad}");
    }
}

#[test]
fn what_the_endpoint_left_out_is_sent_again_once_whatever_is_listed() {
    let none = on("[]");
    for kind in [ErrorKind::RemoteReset, ErrorKind::ConnectionClosed] {
        let refused = Error::from(kind);
        let first =
            Attempted::new(&Method::POST, End::Error(&refused)).with_idempotent(Some(false));
        assert_eq!(decide(&none, &first), Verdict::Transparent);
        let second = first.with_resent(true);
        assert_eq!(decide(&none, &second), Verdict::Stop { why: Stop::NotListed });
        assert!(retries(&Config::default(), &second), "then by the policy");

        let off = Config { attempts: 0, ..Config::default() };
        assert_eq!(decide(&off, &first), Verdict::Stop { why: Stop::Exhausted });
        let broken = refused.after_send();
        let broken = Attempted::new(&Method::POST, End::Error(&broken));
        assert_eq!(decide(&none, &broken), Verdict::Stop { why: Stop::NotListed });
    }
    let connect = Error::from(ErrorKind::Connect);
    let verdict = decide(&none, &Attempted::new(&Method::GET, End::Error(&connect)));
    assert_eq!(verdict, Verdict::Stop { why: Stop::NotListed }, "that costs time: by the policy");
}

proptest! {
    /// Whatever a policy lists, however an attempt ended: what may have reached the application
    /// goes again only if it is idempotent.
    #[test]
    fn no_policy_sends_twice_what_may_have_reached_the_application(
        words in prop::sample::subsequence(
            vec![
                "connect-failure", "refused-stream", "reset-before-request", "reset",
                "gateway-error", "5xx", "retriable-4xx", "envoy-ratelimited", "400-599",
                "unavailable", "internal", "cancelled", "unknown",
            ],
            0..=13,
        ),
        attempts in 0u32..4,
        made in 1u32..4,
        declared: Option<bool>,
        configured: Option<bool>,
        method in prop::sample::select(vec![Method::GET, Method::POST, Method::PUT, Method::DELETE]),
        kind in prop::sample::select(ErrorKind::ALL.to_vec()),
        (reached, how) in (any::<bool>(), 0u8..3),
        (code, grpc) in (200u16..600, 0u32..20),
        (resent, limited, asked) in any::<(bool, bool, bool)>(),
    ) {
        let mut headers = HeaderMap::new();
        if limited { headers.extend(fields("x-envoy-ratelimited", "")); }
        if asked { headers.extend(fields("x-try-again", "")); }
        let error = Error::from(kind);
        let error = if reached { error.after_send() } else { error };
        let end = match how {
            0 => End::Error(&error),
            1 => status(code),
            _ => End::Grpc(GrpcCode::new(grpc)),
        };
        let config = Config {
            attempts,
            on: words.iter().map(|word| word.parse().expect("a word")).collect(),
            retriable_headers: vec![RetriableHeader::named(http::HeaderName::from_static("x-try-again"))],
            idempotent: configured,
            ..Config::default()
        };
        let attempted = Attempted::new(&method, end)
            .with_idempotent(declared)
            .with_attempts(made)
            .with_resent(resent)
            .with_headers(Some(&headers));
        let again = !matches!(decide(&config, &attempted), Verdict::Stop { .. });
        let may_have_reached = how > 0 || !error.is_retryable();
        if again && may_have_reached {
            prop_assert!(declared.or(configured).unwrap_or(method == Method::GET));
        }
        if attempts == 0 {
            prop_assert!(!again);
        }
    }
}

#[test]
fn our_own_refusals_are_not_repeated() {
    for kind in [
        ErrorKind::NoHealthyEndpoint,
        ErrorKind::Denied,
        ErrorKind::RateLimited,
        ErrorKind::NoRoute,
        ErrorKind::CallerGone,
    ] {
        let error = Error::from(kind);
        let all = on(r#"["5xx", "400-599", "reset", "connect-failure", "gateway-error"]"#);
        assert!(!retries(&all, &Attempted::new(&Method::GET, End::Error(&error))), "{kind:?}");
    }
}

#[test]
fn conditions_read_back_as_written() {
    let text = r#"["connect-failure","5xx",503,"500-504","deadline-exceeded","envoy-ratelimited"]"#;
    let config = on(text);
    assert_eq!(serde_json::to_string(&config.on).expect("plain"), text);
    for bad in ["\"maybe\"", "200", "\"504-500\"", "\"500-\"", "\"ok\"", "600", "-1", "5.5", "null"]
    {
        assert!(serde_json::from_str::<Conditions>(&format!("[{bad}]")).is_err(), "{bad}");
    }
}

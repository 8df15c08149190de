use super::*;
use crate::ErrorKind;

fn on(list: &str) -> Config {
    Config { on: serde_json::from_str(list).expect("valid"), ..Config::default() }
}

fn retries(config: &Config, attempted: &Attempted<'_>) -> bool {
    matches!(decide(config, attempted), Verdict::Retry { .. })
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
    for (word, met, not) in [
        ("\"connect-failure\"", End::Error(&connect), End::Error(&refused)),
        ("\"refused-stream\"", End::Error(&refused), End::Error(&connect)),
        ("\"reset\"", End::Error(&reset), status(503)),
        ("\"gateway-error\"", status(502), status(501)),
        ("\"5xx\"", status(599), status(409)),
        ("\"5xx\"", End::Error(&connect), status(404)),
        ("\"retriable-4xx\"", status(409), status(408)),
        ("\"unavailable\"", End::Grpc(GrpcCode::UNAVAILABLE), End::Grpc(GrpcCode::CANCELLED)),
        ("\"deadline-exceeded\"", End::Grpc(GrpcCode::DEADLINE_EXCEEDED), status(504)),
        ("429", status(429), status(430)),
        ("\"500-502\"", status(502), status(503)),
    ] {
        let config = on(&format!("[{word}]"));
        assert!(retries(&config, &Attempted::new(&Method::GET, met)), "{word} {met:?}");
        assert!(!retries(&config, &Attempted::new(&Method::GET, not)), "{word} {not:?}");
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
    let limited = Attempted::new(&Method::GET, status(503)).with_rate_limited(true);
    let verdict = decide(&Config::default(), &limited);
    assert_eq!(verdict, Verdict::Stop { why: Stop::RateLimited });
    assert!(retries(&on(r#"["envoy-ratelimited"]"#), &limited));
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

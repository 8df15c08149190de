use super::*;

#[test]
fn the_defaults_of_the_design() {
    let policy = Policy::default();
    assert_eq!(policy.pick.policy, pick::Policy::ExpectedWait);
    assert_eq!((policy.pick.choice_count, policy.pick.panic_threshold), (2, 50));
    assert!(!policy.outlier.is_off());
    assert_eq!(policy.outlier.consecutive_5xx, 5);
    assert_eq!(policy.outlier.base_ejection_time, Duration::from_secs(30));
    assert_eq!((policy.outlier.max_ejection_percent, policy.outlier.always_eject_one), (50, true));
    assert_eq!(policy.breaker, None);
    let limits = &policy.limits;
    assert_eq!(
        (limits.max_connections, limits.max_pending, limits.max_requests, limits.max_retries),
        (1024, 1024, 65_536, None)
    );
    assert_eq!(policy.endpoint_limits.max_requests, limit::UNLIMITED);
    assert_eq!((policy.retry.attempts, policy.retry.body_limit), (1, 64 << 10));
    assert_eq!((policy.budget.percent, policy.budget.min_retries_per_second), (20, 10));
    assert_eq!(policy.budget.interval, Duration::from_secs(10));
    assert_eq!(policy.timeouts.request, Duration::from_secs(15));
    assert_eq!(policy.timeouts.connect, Duration::from_secs(1));
    assert_eq!(policy.timeouts.stream_idle, Duration::from_secs(300));
    assert!(!policy.timeouts.explicit);
    assert_eq!(policy.protocol, Protocol::Auto);
}

#[test]
fn a_policy_reads_back_as_written() {
    let policy = Policy { breaker: Some(breaker::Config::default()), ..Policy::default() };
    let text = serde_json::to_string(&policy).expect("plain");
    assert!(
        text.contains(r#""consecutive5xx":5"#) && text.contains(r#""request":"15s""#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<Policy>(&text).expect("round trip"), policy);
    assert_eq!(serde_json::from_str::<Policy>("{}").expect("all default"), Policy::default());
}

#[test]
fn unknown_keys_and_values_out_of_range_are_refused() {
    for text in [
        r#"{"timeout":{}}"#,
        r#"{"timeouts":{"request":15}}"#,
        r#"{"outlier":{"maxEjectionPercent":101}}"#,
        r#"{"retry":{"bodyLimit":65536}}"#,
        r#"{"pick":{"policy":"Fastest"}}"#,
    ] {
        assert!(serde_json::from_str::<Policy>(text).is_err(), "{text}");
    }
}

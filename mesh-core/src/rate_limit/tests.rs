use super::*;
use http::Request;
use std::collections::VecDeque;

const MS: Duration = Duration::from_millis(1);

fn at(millis: u32) -> Timestamp {
    Timestamp::ZERO + Duration::from_secs(3600) + millis * MS
}

fn bucket(max: u32, fill: u32, millis: u32) -> TokenBucket {
    TokenBucket::new(max, fill, millis * MS)
}

fn entry(by: By, name: Option<&str>, value: Option<&str>) -> Entry {
    Entry { by, name: name.map(str::to_owned), value: value.map(str::to_owned) }
}

#[test]
fn a_limit_made_by_hand_reads_back_as_written() {
    let entries = [Entry::header("x-tenant").value("gold"), Entry::by(By::Identity)];
    let config = Config {
        descriptors: vec![Descriptor::new(entries, bucket(2, 3, 1500))],
        ..Config::default()
    };
    let text = serde_json::to_string(&config).expect("plain");
    assert!(text.contains(r#"{"by":"Header","name":"x-tenant","value":"gold"},{"by":"Identity"}"#));
    assert_eq!(serde_json::from_str::<Config>(&text).expect("round trip"), config);
}

fn descriptor(entries: &[Entry], token_bucket: TokenBucket) -> Descriptor {
    Descriptor { entries: entries.to_vec(), token_bucket }
}

fn request(path: &str, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::get(path).body(()).expect("valid");
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().expect("a value"));
    }
    request
}

/// How many of so many equal calls pass at one instant.
fn pass(limit: &RateLimit, request: &Request<()>, calls: usize, now: Timestamp) -> usize {
    let asked = Asked::new(request.headers(), request.method(), request.uri().path());
    (0..calls).filter(|_| limit.check(&asked, now, &mut || 0) == Verdict::Pass).count()
}

#[test]
fn a_full_bucket_empties_at_once_and_fills_at_its_rate() {
    let config = Config { token_bucket: Some(bucket(10, 5, 1000)), ..Config::default() };
    let limit = RateLimit::new(&config);
    let call = request("/", &[]);
    assert_eq!(pass(&limit, &call, 20, at(0)), 10);
    assert_eq!(pass(&limit, &call, 20, at(199)), 0, "a token takes 200 ms");
    assert_eq!(pass(&limit, &call, 20, at(200)), 1);
    assert_eq!(pass(&limit, &call, 20, at(1200)), 5);
    assert_eq!(pass(&limit, &call, 20, at(60_000)), 10, "never more than a full one");
}

#[test]
fn over_any_window_no_more_pass_than_a_bucket_and_its_rate() {
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (max, fill, millis) = (random.u32(1..50), random.u32(1..100), random.u32(1..2_000));
        let config = Config { token_bucket: Some(bucket(max, fill, millis)), ..Config::default() };
        let limit = RateLimit::new(&config);
        let call = request("/", &[]);
        let (mut now, mut passed) = (at(0), VecDeque::new());
        for _ in 0..2_000 {
            now = now + Duration::from_micros(random.u64(0..60_000) >> random.u32(0..16));
            passed.extend(std::iter::repeat_n(now, pass(&limit, &call, random.usize(1..20), now)));
        }
        let rate = f64::from(fill) / f64::from(millis) * 1000.0;
        for (first, begin) in passed.iter().enumerate() {
            for last in (first..passed.len()).step_by(1 + passed.len() / 40) {
                let span = passed[last].since(*begin).as_secs_f64();
                let most = f64::from(max) + span * rate + 1e-6;
                let count = (last - first + 1) as f64;
                assert!(count <= most, "seed {seed}: {count} in {span} s, of {most}");
            }
        }
        assert!(
            passed.len() as f64
                >= (now.since(at(0)).as_secs_f64() * rate).floor().min(f64::from(max))
        );
    }
}

#[test]
fn threads_share_a_bucket_without_taking_more_than_it_has() {
    let tenant =
        descriptor(&[entry(By::Header, Some("x-tenant"), None)], bucket(300, 1, 3_600_000));
    for config in [
        Config { token_bucket: Some(bucket(300, 1, 3_600_000)), ..Config::default() },
        Config { descriptors: vec![tenant], ..Config::default() },
    ] {
        let limit = RateLimit::new(&config);
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| pass(&limit, &request("/", &[("x-tenant", "a")]), 500, at(0)))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(passed, 300);
    }
}

#[test]
fn each_value_has_a_bucket_and_a_call_without_the_field_none() {
    let by_tenant = descriptor(&[entry(By::Header, Some("X-Tenant"), None)], bucket(2, 1, 1000));
    let limit = RateLimit::new(&Config { descriptors: vec![by_tenant], ..Config::default() });
    assert_eq!(pass(&limit, &request("/", &[("x-tenant", "a")]), 5, at(0)), 2);
    assert_eq!(pass(&limit, &request("/", &[("x-tenant", "b")]), 5, at(0)), 2);
    assert_eq!(pass(&limit, &request("/", &[("x-tenant", "a"), ("x-tenant", "b")]), 5, at(0)), 2);
    assert_eq!(pass(&limit, &request("/", &[]), 5, at(0)), 5);
}

#[test]
fn a_value_has_one_bucket_however_often_a_caller_repeats_the_field() {
    let mut config = Config::default();
    let tier = entry(By::Header, Some("x-tier"), Some("free"));
    config.descriptors = vec![descriptor(&[tier], bucket(2, 1, 1_000))];
    let limit = RateLimit::new(&config);
    let passed: usize = (0..10)
        .map(|n| {
            let call = request("/", &[("x-tier", "free"), ("x-tier", &n.to_string())]);
            pass(&limit, &call, 1, at(0))
        })
        .sum();
    assert_eq!(passed, 2);
}

#[test]
fn an_address_is_the_same_on_a_listener_for_both_families() {
    for value in [Some("10.0.0.1"), Some("::ffff:10.0.0.1"), None] {
        let mut config = Config::default();
        let by = entry(By::RemoteAddress, None, value);
        config.descriptors = vec![descriptor(&[by], bucket(2, 1, 1_000))];
        let limit = RateLimit::new(&config);
        let request = Request::new(());
        let mut check = |address: &str| {
            let address = Some(address.parse().expect("an address"));
            let asked = Asked::new(request.headers(), request.method(), "/").from(None, address);
            limit.check(&asked, at(0), &mut || 0u64)
        };
        let verdicts = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.1"].map(&mut check);
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Pass, Verdict::Refuse], "{value:?}");
        assert_eq!(check("10.0.0.2"), Verdict::Pass, "{value:?}");
    }
}

#[test]
fn a_call_over_one_limit_takes_nothing_from_the_others() {
    let by_path = descriptor(&[entry(By::Path, None, None)], bucket(2, 1, 1000));
    let by_method = descriptor(&[entry(By::Method, None, None)], bucket(5, 1, 1000));
    let config = Config {
        token_bucket: Some(bucket(4, 1, 1000)),
        descriptors: vec![by_method, by_path],
        ..Config::default()
    };
    let limit = RateLimit::new(&config);
    assert_eq!(pass(&limit, &request("/a", &[]), 100, at(0)), 2);
    assert_eq!(pass(&limit, &request("/b", &[]), 100, at(0)), 2, "of 4 in all, 2 were left");
    assert_eq!(pass(&limit, &request("/c", &[]), 100, at(0)), 0);
}

#[test]
fn an_exception_stands_before_its_rule() {
    let tenant = |value| [entry(By::Header, Some("x-tenant"), value)];
    let config = Config {
        descriptors: vec![
            descriptor(&tenant(Some("gold")), bucket(9, 1, 1000)),
            descriptor(&tenant(None), bucket(1, 1, 1000)),
            descriptor(&[entry(By::Path, None, Some("/items/*"))], bucket(5, 1, 1000)),
        ],
        ..Config::default()
    };
    let limit = RateLimit::new(&config);
    assert_eq!(pass(&limit, &request("/", &[("x-tenant", "gold")]), 20, at(0)), 9);
    assert_eq!(pass(&limit, &request("/", &[("x-tenant", "tin")]), 20, at(0)), 1);
    assert_eq!(pass(&limit, &request("/items/1?x", &[]), 3, at(0)), 3);
    assert_eq!(pass(&limit, &request("/items/2", &[]), 20, at(0)), 2, "one bucket for them all");
    assert_eq!(pass(&limit, &request("/item", &[]), 20, at(0)), 20);
}

#[test]
fn entries_look_at_peer_and_method_and_all_must_apply() {
    let both = [entry(By::Identity, None, None), entry(By::Method, None, Some("GET"))];
    let home = [entry(By::RemoteAddress, None, Some("::1"))];
    let config = Config {
        descriptors: vec![
            descriptor(&both, bucket(1, 1, 1000)),
            descriptor(&home, bucket(2, 1, 1000)),
        ],
        ..Config::default()
    };
    let limit = RateLimit::new(&config);
    let call = request("/", &[]);
    let asked = Asked::new(call.headers(), call.method(), "/");
    let passes = |asked: Asked<'_>| {
        (0..9).filter(|_| limit.check(&asked, at(0), &mut || 0) == Verdict::Pass).count()
    };
    assert_eq!(passes(asked), 9);
    assert_eq!(passes(asked.from(Some("spiffe://a/b"), None)), 1);
    assert_eq!(passes(asked.from(Some("spiffe://a/c"), None)), 1);
    assert_eq!(passes(asked.from(None, "::1".parse().ok())), 2);
    assert_eq!(passes(asked.from(None, "::2".parse().ok())), 9);
    let post = Asked { method: &Method::POST, ..asked };
    assert_eq!(passes(post.from(Some("spiffe://a/b"), None)), 9);
}

#[test]
fn shares_say_how_many_are_looked_at_and_how_many_refused() {
    for (enabled, enforced, expected) in [
        (100, 100, [0.0, 0.0, 1.0]),
        (100, 0, [0.0, 1.0, 0.0]),
        (0, 100, [1.0, 0.0, 0.0]),
        (50, 100, [0.5, 0.0, 0.5]),
        (80, 25, [0.2, 0.6, 0.2]),
    ] {
        let token_bucket = Some(bucket(1, 1, 3_600_000));
        let limit =
            RateLimit::new(&Config { token_bucket, enabled, enforced, ..Config::default() });
        let call = request("/", &[]);
        let asked = Asked::new(call.headers(), call.method(), "/");
        let mut random = fastrand::Rng::with_seed(1);
        let mut counts = [0; 3];
        for _ in 0..20_000 {
            counts[limit.check(&asked, at(0), &mut || random.u64(..)) as usize] += 1;
        }
        for (count, share) in counts.into_iter().zip(expected) {
            let seen = f64::from(count) / 20_000.0;
            assert!((seen - share).abs() < 0.02, "{enabled} {enforced}: {counts:?}");
        }
    }
}

#[test]
fn a_flood_of_keys_takes_no_more_room_and_frees_nobody_who_is_over_the_limit() {
    let by_tenant =
        descriptor(&[entry(By::Header, Some("x-tenant"), None)], bucket(10, 1, 3_600_000));
    let config = Config { descriptors: vec![by_tenant], max_keys: 64, ..Config::default() };
    let limit = RateLimit::new(&config);
    let heavy = request("/", &[("x-tenant", "heavy")]);
    assert_eq!(pass(&limit, &heavy, 20, at(0)), 10);
    for number in 0..20_000 {
        pass(&limit, &request("/", &[("x-tenant", &number.to_string())]), 1, at(1));
    }
    assert_eq!(pass(&limit, &heavy, 20, at(2)), 0);
}

#[test]
fn absurd_rates_are_bounded_and_never_panic() {
    for max in [0, 1, u32::MAX] {
        for fill in [0, 1, u32::MAX] {
            for span in [Duration::ZERO, MS, Duration::MAX] {
                let token_bucket = Some(TokenBucket::new(max, fill, span));
                let limit = RateLimit::new(&Config { token_bucket, ..Config::default() });
                let call = request("/", &[]);
                for now in [Timestamp::ZERO, at(0), Timestamp::MAX] {
                    assert!(
                        pass(&limit, &call, 3, now) <= max.max(1) as usize,
                        "{max} {fill} {span:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn callers_are_told_of_the_tightest_limit_that_applies_if_they_are_told_at_all() {
    let gold = Some("gold");
    let silent = Config {
        token_bucket: Some(bucket(10, 1, 1000)),
        descriptors: vec![descriptor(
            &[entry(By::Header, Some("x-tenant"), gold)],
            bucket(4, 1, 60_000),
        )],
        ..Config::default()
    };
    let told = |limit: &RateLimit, call: &Request<()>, now| {
        limit.told(&Asked::new(call.headers(), call.method(), "/"), now)
    };
    let (plain, tenant) = (request("/", &[]), request("/", &[("x-tenant", "gold")]));
    let limit = RateLimit::new(&silent);
    assert_eq!(pass(&limit, &plain, 1, at(0)), 1);
    assert_eq!(told(&limit, &plain, at(0)), None);

    let spoken = XRatelimitHeaders::DraftVersion03;
    let limit = RateLimit::new(&Config { enable_x_ratelimit_headers: spoken, ..silent });
    assert_eq!(told(&limit, &plain, at(0)), Some(Told { limit: 10, remaining: 10, reset: 0 }));
    assert_eq!(pass(&limit, &plain, 3, at(0)), 3);
    assert_eq!(told(&limit, &plain, at(0)), Some(Told { limit: 10, remaining: 7, reset: 3 }));
    assert_eq!(told(&limit, &plain, at(1)), Some(Told { limit: 10, remaining: 7, reset: 3 }));
    assert_eq!(told(&limit, &plain, at(1000)), Some(Told { limit: 10, remaining: 8, reset: 2 }));
    assert_eq!(pass(&limit, &tenant, 9, at(0)), 4);
    assert_eq!(told(&limit, &tenant, at(0)), Some(Told { limit: 4, remaining: 0, reset: 240 }));
    assert_eq!(told(&limit, &plain, at(0)), Some(Told { limit: 10, remaining: 3, reset: 7 }));

    let mut fields = http::HeaderMap::new();
    fields.insert("x-ratelimit-limit", "1".parse().expect("a value"));
    told(&limit, &tenant, at(0)).expect("told").write("", &mut fields);
    let written = |name: &str| fields.get_all(name).iter().collect::<Vec<_>>();
    assert_eq!(written("x-ratelimit-limit"), ["4"]);
    assert_eq!(written("x-ratelimit-remaining"), ["0"]);
    assert_eq!(written("x-ratelimit-reset"), ["240"]);
    let config = Config { enable_x_ratelimit_headers: spoken, ..Config::default() };
    let text = serde_json::to_string(&config).expect("plain");
    assert!(text.contains(r#""enableXRatelimitHeaders":"DraftVersion03""#), "{text}");
}

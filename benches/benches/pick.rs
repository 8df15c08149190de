//! What one pick costs, at 10 to 100,000 endpoints (allowed: 100 ns, by hash 60 ns), and what it costs
//! to build the picker anew after one of 10,000 endpoints has changed (allowed: 1 ms, by hash 20 ms).

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use mesh_core::pick::{Config, PickArgs, Picker, Policy};
use mesh_core::{EndpointSet, EndpointSpec, Timestamp};
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

fn picker(len: u32, policy: Policy, weighted: bool) -> Picker {
    let specs = (0..len).map(|n| {
        let [_, a, b, c] = n.to_be_bytes();
        let spec = EndpointSpec::new(SocketAddr::from(([10, a, b, c], 80)));
        if weighted { spec.with_weight(1 + n % 5) } else { spec }
    });
    let (set, _) = EndpointSet::empty().update(specs.collect(), |_| ());
    let mut config = Config::default();
    config.policy = policy;
    let picker = Picker::new(set, config);
    // After the picker is made: it remembers who answered last.
    for (n, member) in (0u64..).zip(picker.set().members()) {
        let latency = Duration::from_micros(500 + n % 100 * 37);
        picker.config().succeeded(member.endpoint.load(), NOW, latency);
    }
    picker
}

/// xorshift: the draw itself is not what is measured.
fn draws() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn picks(criterion: &mut Criterion) {
    let later = NOW + Duration::from_millis(250);
    for (name, policy, weighted) in [
        ("expected_wait", Policy::ExpectedWait, false),
        ("expected_wait_weighted", Policy::ExpectedWait, true),
        ("peak_ewma", Policy::PeakEwma, false),
        ("peak_ewma_weighted", Policy::PeakEwma, true),
        ("least_request", Policy::LeastRequest, false),
        ("round_robin", Policy::RoundRobin, false),
        ("round_robin_weighted", Policy::RoundRobin, true),
        ("random", Policy::Random, false),
        ("random_weighted", Policy::Random, true),
    ] {
        let mut group = criterion.benchmark_group(name);
        for len in [10, 10_000, 100_000] {
            let picker = picker(len, policy, weighted);
            let mut draw = draws();
            group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
                bencher.iter(|| black_box(picker.pick(&PickArgs::new(later), &mut draw).is_ok()));
            });
        }
        group.finish();
    }
    let mut group = criterion.benchmark_group("peak_ewma_one_in_ten_out");
    for len in [10, 10_000, 100_000] {
        let picker = picker(len, Policy::PeakEwma, false);
        for member in picker.set().members().iter().step_by(10) {
            member.endpoint.health().set_unreachable(NOW, Timestamp::MAX);
        }
        let mut draw = draws();
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter(|| black_box(picker.pick(&PickArgs::new(later), &mut draw).is_ok()));
        });
    }
    group.finish();
}

fn picks_by_hash(criterion: &mut Criterion) {
    let later = NOW + Duration::from_millis(250);
    for (name, policy, weighted) in [
        ("ring_hash", Policy::RingHash, false),
        ("ring_hash_weighted", Policy::RingHash, true),
        ("maglev", Policy::Maglev, false),
        ("maglev_weighted", Policy::Maglev, true),
    ] {
        let mut group = criterion.benchmark_group(name);
        for len in [10, 10_000, 100_000] {
            let picker = picker(len, policy, weighted);
            let mut draw = draws();
            group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
                bencher.iter(|| {
                    let args = PickArgs::new(later).with_hash(draw());
                    black_box(picker.pick(&args, &mut || 0).is_ok())
                });
            });
        }
        group.finish();
    }
}

fn rebuilds(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rebuild");
    for (name, policy, weighted) in [
        ("peak_ewma", Policy::PeakEwma, false),
        ("peak_ewma_weighted", Policy::PeakEwma, true),
        ("round_robin_weighted", Policy::RoundRobin, true),
        ("ring_hash", Policy::RingHash, false),
        ("ring_hash_weighted", Policy::RingHash, true),
        ("maglev", Policy::Maglev, false),
        ("maglev_weighted", Policy::Maglev, true),
    ] {
        let picker = picker(10_000, policy, weighted);
        let mut specs: Vec<EndpointSpec> =
            picker.set().members().iter().map(|member| (*member.spec).clone()).collect();
        specs[5_000].weight = 7;
        group.bench_function(BenchmarkId::new("picker", name), |bencher| {
            bencher.iter_batched(
                || picker.set().update(specs.clone(), |_| ()).0,
                |set| Picker::new(set, picker.config().clone()),
                BatchSize::LargeInput,
            );
        });
    }
    let (set, _) = EndpointSet::<()>::empty().update(
        picker(10_000, Policy::PeakEwma, false)
            .set()
            .members()
            .iter()
            .map(|member| (*member.spec).clone())
            .collect(),
        |_| (),
    );
    let mut specs: Vec<EndpointSpec> =
        set.members().iter().map(|member| (*member.spec).clone()).collect();
    specs[5_000].weight = 7;
    group.bench_function("set", |bencher| {
        bencher.iter_batched(
            || specs.clone(),
            |specs| set.update(specs, |_| ()),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, picks, picks_by_hash, rebuilds);
criterion_main!(benches);

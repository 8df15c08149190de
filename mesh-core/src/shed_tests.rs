use super::*;
use Criticality::{Critical, CriticalPlus, Sheddable, SheddablePlus};

const MS: Duration = Duration::from_millis(1);

fn at(millis: u32) -> Timestamp {
    Timestamp::ZERO + millis * MS
}

/// A queue in which somebody has waited since the beginning, seen at 100 ms.
fn overloaded(level: Criticality) -> Queue<u32> {
    let mut queue = Queue::new(Config::default());
    queue.push(0, level, None, at(0));
    assert!(!queue.is_overloaded(level, at(99)) && queue.is_overloaded(level, at(100)));
    queue
}

fn drain(queue: &mut Queue<u32>, now: Timestamp) -> Vec<u32> {
    std::iter::from_fn(|| queue.next(now)).collect()
}

#[test]
fn a_short_queue_goes_in_order_of_arrival_and_of_criticality() {
    let mut queue = Queue::new(Config::default());
    for (who, level) in [(1, Sheddable), (2, Critical), (3, CriticalPlus), (4, Critical)] {
        queue.push(who, level, None, at(0));
    }
    assert_eq!(drain(&mut queue, at(1)), [3, 2, 4, 1]);
}

#[test]
fn an_overloaded_one_serves_the_newest_first() {
    let mut queue = overloaded(CriticalPlus);
    for (who, level) in [(1, Sheddable), (2, Critical), (3, SheddablePlus), (4, Critical)] {
        queue.push(who, level, None, at(101));
    }
    assert_eq!(queue.next(at(102)), Some(0));
    assert_eq!((queue.next(at(102)), queue.next(at(102))), (Some(4), Some(2)));
    assert_eq!((queue.next(at(102)), queue.next(at(102))), (Some(3), Some(1)));
    queue.push(5, Critical, None, at(103));
    assert!(
        !queue.is_overloaded(Critical, at(202)),
        "it was empty at 102 ms, and began to fill at 103 ms"
    );
    assert!(queue.is_overloaded(Critical, at(203)));
}

#[test]
fn what_waits_below_a_level_does_not_overload_it() {
    let mut queue = overloaded(Sheddable);
    queue.push(1, Critical, None, at(100));
    queue.push(2, Critical, None, at(101));
    assert!(queue.is_overloaded(Sheddable, at(150)) && !queue.is_overloaded(Critical, at(150)));
    assert_eq!((queue.next(at(150)), queue.next(at(150))), (Some(1), Some(2)));
    queue.push(3, Critical, None, at(151));
    queue.push(4, CriticalPlus, None, at(200));
    assert_eq!(queue.next(at(200)), Some(4));
    assert!(!queue.is_overloaded(CriticalPlus, at(251)) && queue.is_overloaded(Critical, at(251)));
}

#[test]
fn the_wait_is_long_in_a_burst_and_short_in_an_overload() {
    let mut queue = overloaded(Critical);
    let burst = queue.push(1, Critical, None, at(90));
    let late = queue.push(2, Critical, None, at(101));
    assert_eq!(queue.look_again(burst, at(101)), Some(at(190)));
    assert_eq!(queue.look_again(late, at(101)), Some(at(106)));
    assert_eq!(queue.shed(16, at(101)), Some((0, Reason::Waited)));
    let next = queue.push(3, Critical, None, at(101));
    assert_eq!(queue.shed(16, at(105)), None);
    assert_eq!(queue.shed(16, at(106)), Some((2, Reason::Waited)));
    assert_eq!(queue.shed(16, at(189)), None);
    assert_eq!(queue.shed(16, at(190)), Some((1, Reason::Waited)));
    assert_eq!(queue.shed(16, at(190)), None, "3 is next, and stays although it has waited");
    assert_eq!(queue.look_again(next, at(190)), None);
    assert_eq!(queue.next(at(1000)), Some(3));
}

#[test]
fn what_is_less_critical_goes_in_the_stead_of_what_waited_too_long() {
    let mut queue = overloaded(CriticalPlus);
    let old = queue.push(1, Critical, None, at(101));
    queue.push(2, Critical, None, at(102));
    queue.push(3, Sheddable, None, at(105));
    assert_eq!(queue.next(at(105)), Some(0));
    assert_eq!(queue.shed(16, at(106)), Some((3, Reason::Waited)));
    assert_eq!(queue.look_again(old, at(106)), Some(at(111)), "it waits anew");
    assert_eq!(queue.shed(16, at(110)), None);
    assert_eq!(queue.shed(16, at(111)), Some((1, Reason::Waited)));
}

#[test]
fn beyond_the_bound_goes_what_would_be_served_last() {
    let mut queue = Queue::new(Config::default());
    for (who, level) in [(1, Critical), (2, Sheddable), (3, Critical), (4, Sheddable)] {
        queue.push(who, level, None, at(0));
    }
    assert_eq!(queue.shed(3, at(1)), Some((4, Reason::Full)), "the newest of the lowest");
    assert_eq!(queue.shed(3, at(1)), None);
    let mut queue = overloaded(CriticalPlus);
    for (who, level) in [(1, Critical), (2, Sheddable), (3, Critical), (4, Sheddable)] {
        queue.push(who, level, None, at(101));
    }
    assert_eq!(queue.shed(4, at(102)), Some((2, Reason::Full)), "the oldest of the lowest");
}

#[test]
fn what_is_past_its_deadline_or_gone_leaves_first() {
    let mut queue = Queue::new(Config::default());
    let expiry = |millis| Some(Expiry(at(millis)));
    queue.push(1, Critical, expiry(20), at(0));
    queue.push(2, Critical, expiry(10), at(0));
    let gone = queue.push(3, Critical, expiry(5), at(0));
    assert_eq!(queue.look_again(gone, at(0)), Some(at(5)));
    assert_eq!(queue.cancel(gone, at(1)), Some(3));
    assert_eq!((queue.cancel(gone, at(1)), queue.look_again(gone, at(1))), (None, None));
    assert_eq!(queue.expired(at(9)), None);
    assert_eq!((queue.expired(at(10)), queue.expired(at(10))), (Some(2), None));
    assert_eq!(queue.shed(1, at(10)), None, "room was made by what left");
    assert_eq!((queue.next(at(10)), queue.is_empty()), (Some(1), true));
}

#[test]
fn the_bound_is_four_times_the_places_and_at_least_one() {
    let config = Config::default();
    assert_eq!(
        (config.bound(4), config.bound(0), config.bound(u32::MAX)),
        (16, 1, u32::MAX as usize)
    );
    assert_eq!(Config { max_queue: Some(7), ..config.clone() }.bound(4), 7);
    assert_eq!(Config { max_queue: Some(0), ..config }.bound(4), 1);
}

/// A server with a few places under random arrivals, in which every step is checked.
#[test]
fn nothing_is_refused_while_something_less_critical_waits_or_is_served() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Request {
        number: usize,
        level: Criticality,
        expiry: Option<Timestamp>,
    }
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (places, bound) = (random.usize(1..6), random.usize(1..20));
        let mut queue = Queue::new(Config::default());
        let (mut now, mut busy, mut sent, mut left) = (at(0), 0, 0, 0);
        let mut keys = Vec::new();
        for _ in 0..3_000 {
            let mut direct = None;
            match random.u8(0..8) {
                0..3 => {
                    let level = Criticality::ALL[random.usize(0..4)];
                    let span = random.bool().then(|| random.u32(1..200) * MS);
                    let expiry = span.map(|span| now + span);
                    let request = Request { number: sent, level, expiry };
                    sent += 1;
                    if busy < places && queue.is_empty() {
                        (busy, direct) = (busy + 1, Some(request));
                    } else {
                        keys.push(queue.push(request, level, expiry.map(Expiry), now));
                    }
                }
                3..5 => busy = busy.saturating_sub(1),
                5 if !keys.is_empty() => {
                    let key = keys.swap_remove(random.usize(0..keys.len()));
                    left += usize::from(queue.cancel(key, now).is_some());
                }
                _ => now = now + random.u32(0..12) * MS,
            }
            while let Some(request) = queue.expired(now) {
                assert!(request.expiry.is_some_and(|at| at <= now), "seed {seed}");
                left += 1;
            }
            let mut served: Vec<Request> = direct.into_iter().collect();
            while busy < places {
                let Some(request) = queue.next(now) else { break };
                served.push(request);
                busy += 1;
            }
            left += served.len();
            for request in &served {
                assert!(request.expiry.is_none_or(|at| at > now), "seed {seed}: served too late");
            }
            while let Some((request, reason)) = queue.shed(bound, now) {
                left += 1;
                let lower = |other: Criticality| other < request.level;
                let waits = queue
                    .levels
                    .iter()
                    .zip(Criticality::ALL)
                    .any(|(level, is)| !level.is_empty() && lower(is));
                assert!(
                    !waits,
                    "seed {seed}: {request:?} refused ({reason:?}), less critical ones wait"
                );
                assert!(!served.iter().any(|other| lower(other.level)), "seed {seed}: {request:?}");
            }
            assert!(queue.len() <= bound, "seed {seed}");
            assert!(busy == places || queue.is_empty(), "seed {seed}: a free place without work");
            assert_eq!(sent, left + queue.len(), "seed {seed}: everyone leaves once");
            let waiting: usize = queue.levels.iter().map(BTreeMap::len).sum();
            assert_eq!(waiting, queue.len(), "seed {seed}: the indexes agree");
        }
    }
}

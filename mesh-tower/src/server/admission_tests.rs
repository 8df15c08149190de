use super::*;
use mesh_core::{concurrency, shed};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

const MS: Duration = Duration::from_millis(1);

fn policy(change: impl FnOnce(&mut ServerPolicy)) -> ServerPolicy {
    let mut policy = ServerPolicy::default();
    change(&mut policy);
    policy
}

fn capped(limit: u32) -> Arc<Admission> {
    Arc::new(Admission::new(&policy(|policy| policy.max_requests = Some(limit))))
}

fn queueing(limit: u32) -> Arc<Admission> {
    Arc::new(Admission::new(&policy(|policy| {
        policy.max_requests = Some(limit);
        policy.shedding = Some(shed::Config::default());
    })))
}

fn arrive(admission: &Arc<Admission>) -> Result<Admitted, Error> {
    admission.admit(clock::now(), Criticality::default(), None)
}

fn served(admission: &Arc<Admission>) -> Place {
    let Ok(Admitted::Served(place)) = arrive(admission) else { panic!("{admission:?}") };
    place
}

fn waits(admission: &Arc<Admission>, criticality: Criticality) -> Waiting {
    let admitted = admission.admit(clock::now(), criticality, None);
    let Ok(Admitted::Waits(waiting)) = admitted else { panic!("{admission:?}") };
    waiting
}

#[test]
fn the_limit_holds_and_places_come_back() {
    let admission = capped(2);
    let first = served(&admission);
    let _second = served(&admission);
    let shed = arrive(&admission).map(drop).expect_err("full");
    assert_eq!(shed.kind(), ErrorKind::Shed);
    assert_eq!(shed.message(), "2 requests are being served, which is the limit");
    assert_eq!(admission.serving(), 2, "a refused request holds no place");
    drop(first);
    assert!(arrive(&admission).is_ok());
}

#[test]
fn a_limit_that_changes_counts_what_is_already_served() {
    let admission = capped(2);
    let _served = [served(&admission), served(&admission)];
    admission.reconfigure(&policy(|policy| policy.max_requests = Some(1)));
    assert!(arrive(&admission).is_err());
    admission.reconfigure(&policy(|policy| policy.max_requests = Some(3)));
    assert!(arrive(&admission).is_ok());
}

#[test]
fn without_a_limit_all_are_admitted() {
    let admission = Arc::new(Admission::default());
    let places: Vec<_> = (0..1000).map(|_| served(&admission)).collect();
    assert_eq!((admission.serving(), admission.limit()), (1000, None));
    drop(places);
    assert_eq!(admission.serving(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_place_goes_to_the_most_critical_of_those_who_wait() {
    let admission = queueing(1);
    let place = served(&admission);
    let low = waits(&admission, Criticality::Sheddable);
    let high = waits(&admission, Criticality::CriticalPlus);
    assert_eq!(admission.waiting(), 2);
    drop(place);
    let place = high.await.expect("a place");
    assert_eq!((admission.serving(), admission.waiting()), (1, 1));
    drop(place);
    assert!(low.await.is_ok());
    assert_eq!((admission.serving(), admission.waiting()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_those_who_wait_when_the_limit_is_raised() {
    let admission = queueing(1);
    let _place = served(&admission);
    let first = waits(&admission, Criticality::default());
    let second = waits(&admission, Criticality::default());
    admission.reconfigure(&policy(|policy| {
        policy.max_requests = Some(2);
        policy.shedding = Some(shed::Config::default());
    }));
    let _place = first.await.expect("a place");
    let third = waits(&admission, Criticality::default());
    admission.reconfigure(&policy(|policy| policy.max_requests = Some(5)));
    assert!(second.await.is_ok() && third.await.is_ok(), "what waited when queues went off");
    assert!(matches!(arrive(&admission), Ok(Admitted::Served(_))));
}

#[tokio::test(start_paused = true)]
async fn a_place_given_to_one_who_has_gone_goes_on_to_the_next() {
    let admission = queueing(1);
    let place = served(&admission);
    let gone = waits(&admission, Criticality::CriticalPlus);
    let next = waits(&admission, Criticality::Sheddable);
    drop(place);
    assert_eq!((admission.serving(), admission.waiting()), (1, 1));
    drop(gone);
    assert!(next.await.is_ok());
    assert_eq!((admission.serving(), admission.waiting()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_the_least_critical_make_room() {
    let admission = queueing(2);
    let _places = [served(&admission), served(&admission)];
    let low: Vec<_> = (0..8).map(|_| waits(&admission, Criticality::Sheddable)).collect();
    let refused = admission.admit(clock::now(), Criticality::Sheddable, None);
    assert_eq!(refused.map(drop).map_err(|error| error.kind()), Err(ErrorKind::Shed));
    let _high: Vec<_> = (0..8).map(|_| waits(&admission, Criticality::Critical)).collect();
    for waiting in low {
        let shed = waiting.await.expect_err("made room");
        assert_eq!(shed.kind(), ErrorKind::Shed);
    }
    assert_eq!(admission.waiting(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait() {
    let admission = queueing(1);
    let _place = served(&admission);
    let start = Instant::now();
    let expiry = Some(Expiry(clock::now() + 30 * MS));
    let admitted = admission.admit(clock::now(), Criticality::default(), expiry);
    let Ok(Admitted::Waits(waiting)) = admitted else { panic!("{admission:?}") };
    let error = waiting.await.expect_err("too late");
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Deadline, 30 * MS));
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_follows_latencies_within_max_requests() {
    let admission = Arc::new(Admission::new(&policy(|policy| {
        policy.max_requests = Some(40);
        policy.adaptive_concurrency = Some(concurrency::Config::default());
    })));
    assert_eq!(admission.limit(), Some(3));
    let serve = async |count: u32, latency: Duration| {
        for _ in 0..count {
            let place = served(&admission);
            sleep(latency).await;
            place.answered(clock::now());
        }
    };
    serve(200, 10 * MS).await;
    assert_eq!(admission.limit(), Some(40), "it would be higher");
    serve(10, 200 * MS).await;
    assert!(admission.limit() < Some(40), "{admission:?}");
    let before = admission.limit();
    for _ in 0..100 {
        drop(served(&admission));
        sleep(10 * MS).await;
    }
    assert_eq!(admission.limit(), before, "what was given up teaches nothing");
}

#[test]
fn threads_never_lose_a_place_nor_one_who_waits() {
    let admission = queueing(2);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let tasks: Vec<_> = (0..16)
            .map(|number| {
                let admission = admission.clone();
                tokio::spawn(async move {
                    let mut served = 0;
                    for round in 0..2_000 {
                        let level = Criticality::ALL[(number + round) % 4];
                        let place = match admission.admit(clock::now(), level, None) {
                            Ok(Admitted::Served(place)) => Ok(place),
                            Ok(Admitted::Waits(_)) if round % 7 == 0 => continue,
                            Ok(Admitted::Waits(waiting)) => waiting.await,
                            Err(shed) => Err(shed),
                        };
                        assert!(admission.serving() <= 2);
                        if place.is_ok() {
                            tokio::task::yield_now().await;
                            served += 1;
                        }
                    }
                    served
                })
            })
            .collect();
        let mut served = 0;
        for task in tasks {
            let ended = tokio::time::timeout(Duration::from_secs(60), task).await;
            served += ended.expect("somebody waits for ever").expect("no panic");
        }
        assert!(served > 0);
    });
    assert_eq!((admission.serving(), admission.waiting()), (0, 0));
}

/// What became of the calls of one level.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sent: u32,
    good: u32,
}

/// A server with 4 places and 40 ms per call, at three times what it can serve, for 20 s of virtual
/// time; callers wait for 400 ms.
async fn at_three_times_capacity(
    admission: Arc<Admission>,
    seed: u64,
) -> BTreeMap<Criticality, Tally> {
    const CALLERS_WAIT: Duration = Duration::from_millis(400);
    let tally: Rc<RefCell<BTreeMap<Criticality, Tally>>> = Rc::default();
    let local = tokio::task::LocalSet::new();
    let mut random = fastrand::Rng::with_seed(seed);
    local
        .run_until(async {
            let end = Instant::now() + Duration::from_secs(20);
            while Instant::now() < end {
                // On average 300 a second; 4 / 40 ms is 100.
                sleep(Duration::from_micros(random.u64(0..6_667))).await;
                let level = match random.u8(0..10) {
                    0..2 => Criticality::CriticalPlus,
                    2..5 => Criticality::Sheddable,
                    _ => Criticality::SheddablePlus,
                };
                tally.borrow_mut().entry(level).or_default().sent += 1;
                let (admission, tally) = (admission.clone(), tally.clone());
                tokio::task::spawn_local(async move {
                    let gives_up = Instant::now() + CALLERS_WAIT;
                    let expiry = Some(Expiry(clock::timestamp(gives_up)));
                    let call = async {
                        let place = match admission.admit(clock::now(), level, expiry) {
                            Ok(Admitted::Served(place)) => place,
                            Ok(Admitted::Waits(waiting)) => waiting.await.ok()?,
                            Err(_) => return None,
                        };
                        sleep(40 * MS).await;
                        drop(place);
                        Some(())
                    };
                    if timeout_at(gives_up, call).await.is_ok_and(|good| good.is_some()) {
                        tally.borrow_mut().entry(level).or_default().good += 1;
                    }
                });
            }
        })
        .await;
    tally.take()
}

#[tokio::test(start_paused = true)]
async fn at_three_times_capacity_goodput_stays_and_the_least_critical_pay() {
    for seed in 1..=3 {
        let tally = at_three_times_capacity(queueing(4), seed).await;
        let good: u32 = tally.values().map(|tally| tally.good).sum();
        println!("seed {seed}: {tally:?}");
        assert!(good > 1_950, "seed {seed}: {good} of the 2,000 that could be served");
        let served = |level| {
            let Tally { sent, good } = tally[&level];
            f64::from(good) / f64::from(sent)
        };
        assert!(served(Criticality::CriticalPlus) > 0.995, "seed {seed}: {tally:?}");
        assert!(served(Criticality::Sheddable) < 0.05, "seed {seed}: {tally:?}");
    }
}

use super::*;
use crate::connect::{Dial, Dialing, Settings};
use crate::destination::tests::start_with;
use mesh_core::EndpointSpec;
use mesh_core::health::check::Tcp;
use mesh_core::snapshot::{DestinationConfig, EndpointSource};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Opens connections that take a while, and counts them.
#[derive(Debug, Default)]
struct Clinic {
    waiting: AtomicUsize,
    most: AtomicUsize,
    began: Mutex<Vec<Instant>>,
}

#[derive(Debug)]
struct Door(Arc<Clinic>);

const TAKES: Duration = Duration::from_millis(20);

impl Dial for Door {
    fn dial(&self, _: SocketAddr) -> Dialing {
        let clinic = self.0.clone();
        Box::pin(async move {
            let waiting = clinic.waiting.fetch_add(1, Relaxed) + 1;
            clinic.most.fetch_max(waiting, Relaxed);
            clinic.began.lock().push(Instant::now());
            sleep(TAKES).await;
            clinic.waiting.fetch_sub(1, Relaxed);
            Ok(Transport::new(tokio::io::duplex(1).0))
        })
    }
}

fn checked(count: u32, config: Config, dial: impl Dial) -> Arc<Destination> {
    let mut policy = Policy::default();
    policy.health_check = Some(config);
    let settings = Settings { dial: Arc::new(dial), ..Settings::default() };
    let mut destination = DestinationConfig::plain("many", 1, Arc::new(policy));
    let address = |n: u32| SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 80));
    destination.endpoints =
        EndpointSource::Static((0..count).map(|n| EndpointSpec::new(address(n))).collect());
    start_with(&destination, "many", settings)
}

#[tokio::test(start_paused = true)]
async fn checks_of_10_000_endpoints_do_not_burst() {
    const COUNT: u32 = 10_000;
    let clinic = Arc::new(Clinic::default());
    let mut config = Config::tcp(Tcp::default());
    config.no_traffic_interval = config.interval;
    let begin = Instant::now();
    let destination = checked(COUNT, config, Door(clinic.clone()));
    sleep(Duration::from_secs(60)).await;

    assert_eq!(clinic.most.load(Relaxed), AT_ONCE, "at the start all want to be checked");
    let mut seconds = [0u32; 61];
    for began in clinic.began.lock().iter() {
        seconds[(*began - begin).as_secs() as usize] += 1;
    }
    println!("checks per second: {seconds:?}");
    // An interval of 10 s with 10 % of jitter is 952 a second.
    let later = &seconds[15..59];
    let (most, mean) = (later.iter().max(), later.iter().sum::<u32>() / 44);
    assert!(most.is_some_and(|most| *most < 2 * 952), "{most:?}");
    assert!((900..1000).contains(&mean), "{mean}");
    let state = destination.state(clock::now());
    assert!(state.endpoints.iter().all(|endpoint| endpoint.state.to_string() == "ready"));
}

#[tokio::test(start_paused = true)]
async fn before_the_first_call_checks_are_rare_and_soon_after_it_they_are_not() {
    let clinic = Arc::new(Clinic::default());
    let mut config = Config::tcp(Tcp::default());
    config.interval_jitter_percent = 0;
    let destination = checked(1, config, Door(clinic.clone()));
    let checks = || clinic.began.lock().len();
    // The first, one after a random part of 60 s, then one in 60 s.
    sleep(Duration::from_secs(600)).await;
    let idle = checks();
    assert!((10..=12).contains(&idle), "{idle}");
    destination.shared().metrics.picked();
    sleep(Duration::from_secs(600)).await;
    let busy = checks() - idle;
    assert!((59..=61).contains(&busy), "{busy}");
}

#[tokio::test(start_paused = true)]
async fn checks_end_with_their_destination() {
    let clinic = Arc::new(Clinic::default());
    let mut config = Config::tcp(Tcp::default());
    config.no_traffic_interval = config.interval;
    let destination = checked(3, config, Door(clinic.clone()));
    sleep(Duration::from_secs(30)).await;
    let before = clinic.began.lock().len();
    assert!(before >= 6);
    drop(destination);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(clinic.began.lock().len(), before);
}

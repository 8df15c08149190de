//! The listener on real sockets: drain, and the faults of accepting.

use mesh_tower::Listener;
use std::fs::File;
use std::io;
use std::process::Command;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

async fn listener() -> Listener {
    Listener::bind("127.0.0.1:0", None).await.expect("a free port")
}

#[tokio::test]
async fn it_says_who_connected_and_carries_bytes_both_ways() {
    let mut listener = listener().await;
    let mut client = TcpStream::connect(listener.local_addr()).await.expect("listening");
    let mut accepted = listener.accept().await;
    assert_eq!(accepted.peer().address(), client.local_addr().expect("connected"));
    assert_eq!(accepted.peer().identity(), None, "plaintext proves nothing");

    client.write_all(b"ping").await.expect("open");
    let mut four = [0; 4];
    accepted.read_exact(&mut four).await.expect("open");
    accepted.write_all(&four).await.expect("open");
    client.read_exact(&mut four).await.expect("open");
    assert_eq!(&four, b"ping");
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let first = listener().await;
    let address = first.local_addr();
    let error = Listener::bind(address, None).await.expect_err("taken").to_string();
    assert!(error.contains(&address.to_string()), "{error}");
    assert!(Listener::bind("no port", None).await.is_err());
}

#[tokio::test]
async fn draining_closes_the_socket_and_leaves_open_connections() {
    let mut listener = listener().await;
    let (address, drain) = (listener.local_addr(), listener.drain());
    let mut client = TcpStream::connect(address).await.expect("listening");
    let mut accepted = listener.accept().await;

    let waiting = tokio::spawn(async move {
        let mut incoming = listener.incoming();
        std::future::poll_fn(|cx| {
            futures_core::Stream::poll_next(std::pin::Pin::new(&mut incoming), cx)
        })
        .await
        .is_none()
    });
    drain.start();
    assert!(timeout(LIMIT, waiting).await.expect("ends at once").expect("no panic"));
    assert!(drain.is_started());
    timeout(LIMIT, drain.started()).await.expect("has started");

    let refused = TcpStream::connect(address).await.expect_err("closed");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    client.write_all(b"x").await.expect("open");
    assert_eq!(accepted.read_u8().await.expect("open"), b'x');
}

#[tokio::test]
async fn several_listeners_share_a_port_when_asked_to() {
    let mut config = mesh_tower::listen::Config::default();
    config.reuse_port = true;
    let first = Listener::bind_with("127.0.0.1:0", None, &config).await.expect("a free port");
    let second = Listener::bind_with(first.local_addr(), None, &config).await;
    assert_eq!(second.expect("shared").local_addr(), first.local_addr());
}

const UNDER_LIMIT: &str = "MESH_TEST_UNDER_FD_LIMIT";

/// Runs itself again with few file descriptors, since the limit belongs to a process.
#[test]
fn out_of_file_descriptors_accepting_pauses_and_comes_back() {
    let own = std::env::current_exe().expect("a test binary");
    let status = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(own)
        .args(["--exact", "under_a_limit_of_file_descriptors", "--ignored"])
        .env(UNDER_LIMIT, "1")
        .status()
        .expect("a shell");
    assert!(status.success());
}

#[tokio::test]
#[ignore = "run by out_of_file_descriptors_accepting_pauses_and_comes_back, under a limit"]
async fn under_a_limit_of_file_descriptors() {
    assert!(std::env::var_os(UNDER_LIMIT).is_some(), "only under a limit of file descriptors");
    let mut listener = listener().await;
    let address = listener.local_addr();
    let mut established = TcpStream::connect(address).await.expect("listening");
    let mut served = listener.accept().await;
    let mut waiting = TcpStream::connect(address).await.expect("the backlog takes it");

    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    assert!(hoard.len() < 64);

    // An established connection goes on while nothing can be accepted.
    let before = cpu_ticks(&mut hoard);
    let echo = async {
        for _ in 0..20 {
            established.write_all(b"x").await.expect("open");
            served.read_u8().await.expect("open");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        _ = listener.accept() => panic!("accepted without a file descriptor"),
        () = echo => {}
    }
    let ticks = cpu_ticks(&mut hoard) - before;
    assert!(ticks <= 10, "{ticks} ticks of 10 ms within the second: accepting spins");

    drop(hoard);
    let mut accepted =
        timeout(Duration::from_secs(1), listener.accept()).await.expect("back within 1 s");
    accepted.write_all(b"hello").await.expect("open");
    let mut hello = [0; 5];
    waiting.read_exact(&mut hello).await.expect("accepted");
    assert_eq!(&hello, b"hello");
}

/// CPU time of this process so far; borrows one descriptor of the hoard.
fn cpu_ticks(hoard: &mut Vec<File>) -> u64 {
    hoard.pop();
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    hoard.push(File::open("/dev/null").expect("the descriptor just freed"));
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

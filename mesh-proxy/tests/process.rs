//! The process: memory under large bodies, signals, drain, reload, and the admin pages.

mod common;

use common::process::{PATIENCE, Process, folder};
use common::recorder::Recorder;
use common::{exchange, statuses};
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

/// Reads a body of the given length, and sends one of the same length back.
async fn swallow_and_send(listener: TcpListener, length: u64) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            let mut head = Vec::new();
            while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                let count = stream.read(&mut buffer).await.unwrap();
                head.extend_from_slice(&buffer[..count]);
            }
            let end = head.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            let mut left = length - (head.len() - end) as u64;
            while left > 0 {
                left -= stream.read(&mut buffer).await.unwrap() as u64;
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut left = length;
            while left > 0 {
                let count = left.min(buffer.len() as u64);
                stream.write_all(&buffer[..count as usize]).await.unwrap();
                left -= count;
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_streams_through_in_little_memory() {
    const LENGTH: u64 = 1 << 30;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    tokio::spawn(swallow_and_send(listener, LENGTH));
    let process = Process::start(&["--listen", "127.0.0.1:0", "--upstream", &endpoint]);
    let mut stream = TcpStream::connect(process.proxy).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![1; 256 * 1024];
    for _ in 0..LENGTH / piece.len() as u64 {
        stream.write_all(&piece).await.unwrap();
    }
    let mut buffer = vec![0; 256 * 1024];
    let mut received = 0;
    let mut head = Vec::new();
    while received < LENGTH {
        let count = stream.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "cut off after {received} bytes");
        received += count as u64;
        if head.len() < 1024 {
            head.extend_from_slice(&buffer[..count]);
            if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                received -= (end + 4) as u64;
                head.resize(1024, 0);
            }
        }
    }
    let peak = process.peak_memory();
    println!("peak resident memory with 1 GiB each way: {peak} KiB");
    assert!(peak < 64 * 1024, "{peak} KiB");
}

/// A client that keeps its connection while it may, and opens another when told to close.
async fn client(to: [SocketAddr; 2], stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Vec<String> {
    let mut failed = Vec::new();
    let mut open: Option<TcpStream> = None;
    let mut prefer = 0;
    while !stop.load(Relaxed) {
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => match TcpStream::connect(to[prefer]).await {
                Ok(stream) => stream,
                // No longer listening: a client goes to the other one. Nothing was sent yet.
                Err(_) => {
                    prefer = 1;
                    TcpStream::connect(to[1]).await.unwrap()
                }
            },
        };
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut answer = Vec::new();
        let result = async {
            stream.write_all(request).await?;
            while !answer.ends_with(b"\r\n\r\nok") {
                if stream.read_buf(&mut answer).await? == 0 {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
                }
            }
            Ok(())
        };
        match result.await {
            Ok(()) => {
                done.fetch_add(1, Relaxed);
                let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
                if !text.contains("connection: close") {
                    open = Some(stream);
                }
            }
            Err(error) => failed.push(error.to_string()),
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_under_load_fails_no_request() {
    let endpoint = Recorder::start().await;
    let upstream = endpoint.address().to_string();
    let flags = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
    let mut first = Process::start(&flags);
    let second = Process::start(&flags);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| tokio::spawn(client([first.proxy, second.proxy], stop.clone(), done.clone())))
        .collect();
    let until = Instant::now() + PATIENCE;
    while done.load(Relaxed) < 500 {
        assert!(Instant::now() < until, "no load");
        sleep(Duration::from_millis(5)).await;
    }
    first.signal("TERM");
    assert!(first.ended().await.success(), "drained in time");
    let at_end = done.load(Relaxed);
    while done.load(Relaxed) < at_end + 500 {
        assert!(Instant::now() < until, "no load on the second");
        sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Relaxed);
    for client in clients {
        assert_eq!(client.await.unwrap(), Vec::<String>::new());
    }
    println!("{} requests, none failed", done.load(Relaxed));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let mut process = Process::start(&["--listen", "127.0.0.1:0", "--upstream", &upstream]);
    let mut waiting = TcpStream::connect(process.proxy).await.unwrap();
    waiting.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let _held = listener.accept().await.unwrap();
    process.signal("TERM");
    let until = Instant::now() + PATIENCE;
    while process.admin("GET", "/ready").await.0 != 503 {
        assert!(Instant::now() < until, "still ready");
    }
    assert!(process.child.try_wait().unwrap().is_none(), "waits for the request in flight");
    process.signal("INT");
    assert_eq!(process.ended().await.code(), Some(1));
}

fn file(endpoint: SocketAddr) -> String {
    format!(
        "apiVersion: mesh/v1\nkind: Service\nmetadata: {{name: app}}\nspec:\n  endpoints: {{static: ['{endpoint}']}}\n\
         ---\napiVersion: mesh/v1\nkind: Listener\nmetadata: {{name: main}}\nspec: {{direction: Inbound, address: '127.0.0.1:0', service: app}}\n"
    )
}

async fn until(process: &Process, path: &str, wanted: impl Fn(&str) -> bool) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, page) = process.admin("GET", path).await;
        if wanted(&page) {
            return page;
        }
        assert!(Instant::now() < until, "never so: {page}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_broken_file_keeps_the_old_configuration() {
    let (first, second) = (Recorder::start().await, Recorder::start().await);
    let folder = folder("broken");
    let path = folder.join("mesh.yaml");
    std::fs::write(&path, file(first.address())).unwrap();
    let process = Process::start(&["--config", path.to_str().unwrap()]);
    let get = b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&exchange(process.proxy, get).await), [200]);

    std::fs::write(&path, file(second.address()).replace("service: app", "servise: app")).unwrap();
    let page = until(&process, "/config", |page| page.contains("REFUSED")).await;
    assert!(page.contains("mesh.yaml:") && page.contains("servise"), "{page}");
    assert_eq!(statuses(&exchange(process.proxy, get).await), [200]);
    assert_eq!((first.requests().len(), second.requests().len()), (2, 0));

    // Written anew, as editors do: by a rename.
    std::fs::write(folder.join("new"), file(second.address())).unwrap();
    std::fs::rename(folder.join("new"), &path).unwrap();
    until(&process, "/config", |page| !page.contains("REFUSED")).await;
    until(&process, "/endpoints", |page| page.contains(&second.address().to_string())).await;
    assert_eq!(statuses(&exchange(process.proxy, get).await), [200]);
    assert_eq!((first.requests().len(), second.requests().len()), (2, 1));

    std::fs::write(&path, file(first.address())).unwrap();
    process.signal("HUP");
    until(&process, "/endpoints", |page| page.contains(&first.address().to_string())).await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_listener_takes_no_clients() {
    let endpoint = Recorder::start().await;
    let folder = folder("refused");
    let (path, authority) = (folder.join("mesh.yaml"), folder.join("ca.pem"));
    // Reading it waits for a writer: that is how the test stops a reload half-way.
    assert!(Command::new("mkfifo").arg(&authority).status().unwrap().success());
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let first = file(endpoint.address()).replace("127.0.0.1:0", &free.to_string());
    std::fs::write(&path, &first).unwrap();
    let process = Process::start(&["--config", path.to_str().unwrap()]);
    assert_eq!(process.proxy, free);

    let tls = format!(
        "---\napiVersion: mesh/v1\nkind: Service\nmetadata: {{name: tls}}\nspec:\n  endpoints: {{static: ['{}']}}\n  tls: {{ca: {authority:?}}}\n",
        endpoint.address()
    );
    let changed = first.replace(", service: app}", "}");
    assert_ne!(changed, first);
    std::fs::write(folder.join("new"), changed + &tls).unwrap();
    std::fs::rename(folder.join("new"), &path).unwrap();
    let (opened, open) = tokio::sync::oneshot::channel();
    // A thread of its own: if nobody reads, it never ends, and nobody waits for it.
    std::thread::spawn(move || {
        opened.send(std::fs::OpenOptions::new().write(true).open(authority))
    });
    let opened = tokio::time::timeout(PATIENCE, open).await.expect("the file is read");
    let mut writer = opened.unwrap().unwrap();
    let get = b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
    for number in 0..20 {
        assert_eq!(statuses(&exchange(process.proxy, get).await), [200], "client {number}");
    }
    writer.write_all(b"no certificate").unwrap();
    drop(writer);
    drop(process);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn strangers_do_not_choose_where_the_proxy_connects_to() {
    let (app, other) = (Recorder::start().await, Recorder::start().await);
    let folder = folder("strangers");
    let path = folder.join("mesh.yaml");
    let get = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    for (direction, status, seen) in [("Inbound", 404, 0), ("Outbound", 200, 1)] {
        let file = file(app.address()).replace(", service: app", "").replace("Inbound", direction);
        std::fs::write(&path, file).unwrap();
        let process = Process::start(&["--config", path.to_str().unwrap()]);
        let configured = exchange(process.proxy, get("app").as_bytes()).await;
        assert_eq!(statuses(&configured), [200], "{direction}");
        let unknown = get(&other.address().to_string());
        let answer = exchange(process.proxy, unknown.as_bytes()).await;
        assert_eq!(statuses(&answer), [status], "{direction}");
        assert_eq!(other.requests().len(), seen, "{direction}");
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(text.contains("no_route_found"), status == 404, "{direction}: {text}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn admin_pages_tell_what_is_going_on() {
    let endpoint = Recorder::start().await;
    let upstream = endpoint.address().to_string();
    let mut process = Process::start(&["--listen", "127.0.0.1:0", "--upstream", &upstream]);
    let get = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&exchange(process.proxy, get).await), [200]);
    let smuggled =
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(statuses(&exchange(process.proxy, smuggled).await), [400]);

    for (path, content) in [
        ("/", "ready"),
        ("/live", "live"),
        ("/ready", "ready"),
        ("/config", "configuration version 1"),
        ("/endpoints", &*upstream),
        ("/metrics", "mesh_proxy_rejected_total{reason=\"both_lengths\"} 1"),
        ("/metrics", "http_client_request_duration_seconds_count"),
    ] {
        assert_eq!(process.admin("GET", path).await.0, 200, "{path}");
        // What a connection did is counted when it ends, which may be after its last byte.
        until(&process, path, |page| page.contains(content)).await;
    }
    assert_eq!(process.admin("GET", "/drain").await.0, 405);
    assert_eq!(process.admin("GET", "/none").await.0, 404);
    let rebound = b"POST /drain HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&exchange(process.admin, rebound).await), [403]);
    assert_eq!(process.admin("POST", "/drain").await.0, 202);
    assert!(process.ended().await.success());
}

#[tokio::test]
async fn endpoints_are_told_with_cause_and_time() {
    let endpoint = Recorder::start().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let upstream = format!("{},{closed}", endpoint.address());
    let process = Process::start(&["--listen", "127.0.0.1:0", "--upstream", &upstream]);
    let get = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let deadline = Instant::now() + PATIENCE;
    let page = loop {
        assert_eq!(statuses(&exchange(process.proxy, get).await), [200]);
        let (_, page) = process.admin("GET", "/endpoints").await;
        if page.contains("unreachable") {
            break page;
        }
        assert!(Instant::now() < deadline, "never picked: {page}");
    };
    let line = page.lines().find(|line| line.contains(&closed.to_string())).unwrap();
    assert!(line.contains(&format!("unreachable: {closed} refused the connection, ")), "{line}");
    assert!(line.contains(" s ago ("), "{line}");

    let ask = async || {
        let head = b"GET /endpoints HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nConnection: close\r\n\r\n";
        let answer = String::from_utf8(exchange(process.admin, head).await).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let page: serde_json::Value = serde_json::from_str(body).unwrap();
        let endpoints = page[0]["endpoints"].as_array().unwrap().clone();
        let named = |id: &str| endpoints.iter().find(|one| one["id"] == id).unwrap().clone();
        [named(&endpoint.address().to_string()), named(&closed.to_string())]
    };
    let [ready, gone] = ask().await;
    assert_eq!((&ready["state"], &gone["state"]), (&"ready".into(), &"unreachable".into()));
    assert_eq!(gone["reason"], format!("{closed} refused the connection"));
    let seconds = |of: &serde_json::Value| of["sinceSeconds"].as_f64().unwrap();
    assert!(seconds(&gone) <= seconds(&ready), "it is in its set for longer than it is gone");
    let [_, later] = ask().await;
    assert!(seconds(&later) > seconds(&gone), "{later} after {gone}");
}

#[tokio::test]
async fn promtool_finds_nothing_to_say_of_the_metrics() {
    let Some(promtool) = testkit::parts::find("proxy_metrics_by_promtool", "promtool") else {
        return;
    };
    let endpoint = Recorder::start().await;
    let upstream = endpoint.address().to_string();
    let process = Process::start(&["--listen", "127.0.0.1:0", "--upstream", &upstream]);
    let get = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&exchange(process.proxy, get).await), [200]);
    assert_eq!(statuses(&exchange(process.proxy, b"GET / HTTP/1.1\r\n\r\n").await), [400]);
    let (status, answer) = process.admin("GET", "/metrics").await;
    let (_, page) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(status, 200);

    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{page}");
    assert!(page.contains("mesh_build_info{version="), "{page}");
}

#[tokio::test]
async fn upgraded_connections_are_seen_while_they_are_open() {
    let endpoint = Recorder::start().await;
    let upstream = endpoint.address().to_string();
    let process = Process::start(&["--listen", "127.0.0.1:0", "--upstream", &upstream]);
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(process.proxy).await.unwrap();
        let ask = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nx";
        stream.write_all(ask).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nx") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed early");
        }
        tunnels.push(stream);
    }
    let open = |count: usize| {
        (
            format!("{count} in flight, {count} connections"),
            format!("mesh_proxy_connections_open {count}\n"),
        )
    };
    for count in [2, 0] {
        let (endpoints, metrics) = open(count);
        until(&process, "/endpoints", |page| page.contains(&endpoints)).await;
        until(&process, "/metrics", |page| page.contains(&metrics)).await;
        tunnels.clear();
    }
}

#[test]
fn flags_are_printed_as_yaml() {
    let flags = ["--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--print-config"];
    let output = Command::new(env!("CARGO_BIN_EXE_mesh-proxy")).args(flags).output().unwrap();
    assert!(output.status.success());
    let yaml = String::from_utf8(output.stdout).unwrap();
    assert!(yaml.contains("kind: Service") && yaml.contains("kind: Listener"), "{yaml}");
}

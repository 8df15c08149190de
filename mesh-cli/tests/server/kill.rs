//! `kill -9` of the server, again and again, while clients write.
//!
//! Every acknowledged write is there afterwards, no index goes back, and what clients saw of a
//! counter that they raise by check-and-set has one order (is linearizable). `MESH_KILLS=20` for a
//! full run; two otherwise.

#![expect(clippy::disallowed_methods, reason = "the order of real events is what is checked")]

use super::Server;
use rustix::process::Signal;
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Clients that write keys of their own, and that raise the counter.
const WRITERS: usize = 8;
/// Writes that are acknowledged before a kill, at least.
const WRITES: usize = 500;

/// A client with one connection.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        Some(Self { stream: BufReader::new(stream) })
    }

    /// Status, index, and body; `None` when the server went away.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> Option<(u16, u64, String)> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes()).ok()?;
        let (mut status, mut index, mut length) = (0, 0, 0);
        for number in 0.. {
            let mut line = String::new();
            if self.stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                _ if line.is_empty() => break,
                Some(("content-length", value)) => length = value.parse().ok()?,
                Some(("x-consul-index", value)) => index = value.parse().ok()?,
                _ if number == 0 => status = line.split(' ').nth(1)?.parse().ok()?,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        Some((status, index, String::from_utf8(body).ok()?))
    }
}

/// What a client did with the counter, and saw of it.
#[derive(Clone, Debug)]
enum Seen {
    /// It read this value, of this revision.
    Read { value: u64, revision: u64 },
    /// It raised what was of this revision.
    Raised { from: u64 },
}

/// Something that a client saw, from when to when.
#[derive(Clone, Debug)]
struct Event {
    began: Instant,
    ended: Instant,
    seen: Seen,
}

/// Whether one order of all events explains what everyone saw: revisions are that order, so it is
/// enough that they agree with the clock, that each has one value, and each is raised once.
fn one_order(events: &[Event]) -> Result<(), String> {
    let mut values = HashMap::new();
    let mut raised = HashSet::new();
    for event in events {
        match event.seen {
            Seen::Read { value, revision } => {
                if *values.entry(revision).or_insert(value) != value {
                    return Err(format!("revision {revision} has two values"));
                }
            }
            Seen::Raised { from } => {
                if !raised.insert(from) {
                    return Err(format!("revision {from} was raised twice"));
                }
            }
        }
    }
    let mut by_revision: Vec<_> = values.into_iter().collect();
    by_revision.sort_unstable();
    if let Some(pair) = by_revision.windows(2).find(|pair| pair[0].1 >= pair[1].1) {
        return Err(format!("the counter fell: {pair:?}"));
    }
    // What must be seen by whoever asks after the event ended.
    let floor = |event: &Event| match event.seen {
        Seen::Read { revision, .. } => revision,
        Seen::Raised { from } => from + 1,
    };
    let mut by_end: Vec<_> = events.iter().collect();
    by_end.sort_by_key(|event| event.ended);
    let mut by_start: Vec<_> = events.iter().collect();
    by_start.sort_by_key(|event| event.began);
    let (mut ended, mut newest) = (by_end.into_iter().peekable(), 0);
    for event in by_start {
        while let Some(before) = ended.next_if(|before| before.ended < event.began) {
            newest = newest.max(floor(before));
        }
        let saw = match event.seen {
            Seen::Read { revision, .. } => revision,
            Seen::Raised { from } => from,
        };
        if saw < newest {
            return Err(format!("{event:?} did not see revision {newest}"));
        }
    }
    Ok(())
}

/// Raises the counter until the server goes.
fn raise(address: &str, acknowledged: &SyncSender<()>) -> Vec<Event> {
    let mut events = Vec::new();
    let Some(mut client) = Client::connect(address) else { return events };
    loop {
        let began = Instant::now();
        let Some((status, _, body)) = client.ask("GET", "/v1/kv/counter", "") else { break };
        let field = |name: &str| {
            let (_, rest) = body.split_once(&format!("\"{name}\":"))?;
            rest.split([',', '}']).next()?.parse::<u64>().ok()
        };
        // The value is the flags: numbers need no decoding.
        let (value, revision) = match status {
            404 => (0, 0),
            _ => (field("Flags").expect("a number"), field("ModifyIndex").expect("a number")),
        };
        let seen = Seen::Read { value, revision };
        events.push(Event { began, ended: Instant::now(), seen });

        let began = Instant::now();
        let path = format!("/v1/kv/counter?cas={revision}&flags={}", value + 1);
        let Some((_, _, done)) = client.ask("PUT", &path, "") else { break };
        if done == "true" {
            let seen = Seen::Raised { from: revision };
            events.push(Event { began, ended: Instant::now(), seen });
            let _enough = acknowledged.send(());
        }
    }
    events
}

/// Writes keys until the server goes; how many were acknowledged.
fn write(address: &str, prefix: &str, acknowledged: &SyncSender<()>) -> usize {
    let Some(mut client) = Client::connect(address) else { return 0 };
    let mut done = 0;
    while let Some((_, _, answer)) =
        client.ask("PUT", &format!("/v1/kv/{prefix}/{done}"), &format!("value {done}"))
    {
        assert_eq!(answer, "true");
        done += 1;
        let _enough = acknowledged.send(());
    }
    done
}

#[test]
fn no_acknowledged_write_is_lost_and_no_index_goes_back() {
    let kills: u32 =
        std::env::var("MESH_KILLS").map_or(2, |kills| kills.parse().expect("a number"));
    let folder = tempfile::tempdir().unwrap();
    let args = ["server", "--data-dir", folder.path().to_str().unwrap()];
    let (mut written, mut events, mut newest) = (HashMap::new(), Vec::new(), 0);
    for kill in 0..=kills {
        let server = Server::start(&args);
        let mut client = Client::connect(&server.address).expect("connects");
        let (_, index, _) = client.ask("GET", "/v1/kv/?keys", "").expect("answers");
        assert!(index >= newest, "start {kill}: {index} is below {newest}");
        // At each start those of the round before, at the last one all of them.
        let checked = written.iter().filter(|((round, _), _)| kill == kills || round + 1 == kill);
        for ((round, writer), count) in checked {
            for n in 0..*count {
                let path = format!("/v1/kv/{round}/{writer}/{n}?raw");
                let (status, _, body) = client.ask("GET", &path, "").expect("answers");
                assert_eq!((status, body), (200, format!("value {n}")), "start {kill}: {path}");
            }
        }
        if kill == kills {
            break;
        }
        let (acknowledged, acknowledgements) = sync_channel(WRITES);
        let address = server.address.clone();
        thread::scope(|scope| {
            let (address, acknowledged) = (&address, &acknowledged);
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let prefix = format!("{kill}/{writer}");
                    let writes = scope.spawn(move || write(address, &prefix, acknowledged));
                    ((kill, writer), writes)
                })
                .collect();
            let raisers: Vec<_> =
                (0..WRITERS).map(|_| scope.spawn(|| raise(address, acknowledged))).collect();
            for _ in 0..WRITES {
                let next = acknowledgements.recv_timeout(Duration::from_secs(60));
                next.expect("the server does not keep up");
            }
            // Nobody waits for a count any more: they write on, into the kill.
            drop(acknowledgements);
            let (_, index, _) = client.ask("GET", "/v1/kv/none", "").expect("answers");
            newest = newest.max(index);
            assert_eq!(server.end(Signal::KILL), None);
            for (name, writes) in writers {
                written.insert(name, writes.join().expect("a writer"));
            }
            events.extend(raisers.into_iter().flat_map(|raiser| raiser.join().expect("a raiser")));
        });
    }
    let count: usize = written.values().sum();
    let raised = events.iter().filter(|event| matches!(event.seen, Seen::Raised { .. })).count();
    println!("{kills} kills, {count} writes and {raised} raises acknowledged");
    assert!(count > 0 && raised > 0);
    one_order(&events).unwrap();
}

#[test]
fn a_history_without_one_order_is_seen() {
    let start = Instant::now();
    let at = |began: u64, ended: u64, seen: Seen| Event {
        began: start + Duration::from_millis(began),
        ended: start + Duration::from_millis(ended),
        seen,
    };
    let read = |value, revision| Seen::Read { value, revision };
    let raised = |from| Seen::Raised { from };
    let fine =
        [at(0, 1, read(0, 0)), at(1, 9, raised(0)), at(2, 3, read(0, 0)), at(4, 5, read(1, 7))];
    assert_eq!(one_order(&fine), Ok(()));
    for wrong in [
        vec![at(0, 1, read(1, 7)), at(2, 3, read(0, 0))],
        vec![at(0, 1, raised(7)), at(2, 3, read(1, 7))],
        vec![at(0, 9, raised(7)), at(0, 9, raised(7))],
        vec![at(0, 9, read(1, 7)), at(0, 9, read(2, 7))],
        vec![at(0, 9, read(2, 7)), at(0, 9, read(1, 8))],
    ] {
        assert!(one_order(&wrong).is_err(), "{wrong:?}");
    }
}

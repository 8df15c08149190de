//! `mesh server` and `mesh dev` as a user runs them.

mod kill;

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// A server; killed when it goes.
struct Server {
    child: Child,
    address: String,
    data: String,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mesh"))
            .args(args)
            .args(["--http", "127.0.0.1:0", "--dns-listen", "127.0.0.1:0"])
            .env("MESH_LOG", "warn")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr")).lines();
        let mut next = |start: &str| {
            let line = lines.next().expect("a line").expect("text");
            line.strip_prefix(start).map(str::to_owned).unwrap_or_else(|| panic!("{line}"))
        };
        let (address, data) = (next("listening on http://"), next("data in "));
        Self { child, address, data }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("connects");
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        write!(stream, "{head}connection: close\r\ncontent-length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        answer
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("there");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[test]
fn a_server_keeps_what_it_acknowledged_and_ends_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let server = Server::start(&["server", "--data-dir", data]);
    assert!(server.data.starts_with(data), "{}", server.data);
    assert!(server.ask("PUT", "/v1/kv/a", "hello").ends_with("true"));
    assert_eq!(server.end(Signal::TERM), Some(0));

    let server = Server::start(&["server", "--data-dir", data]);
    assert!(server.ask("GET", "/v1/kv/a?raw", "").ends_with("hello"));
    assert_eq!(server.end(Signal::INT), Some(0));
}

#[test]
fn a_development_server_says_that_it_forgets() {
    let server = Server::start(&["dev"]);
    assert!(server.data.starts_with("memory"), "{}", server.data);
    assert!(server.ask("PUT", "/v1/kv/a", "hello").ends_with("true"));
    let pretty = server.ask("GET", "/v1/kv/a", "");
    assert!(pretty.contains("\n        \"LockIndex\": 0,\n"), "{pretty}");
    assert_eq!(server.end(Signal::TERM), Some(0));
}

#[test]
fn a_server_wants_to_know_where_its_data_goes() {
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_mesh")).args(args).output().unwrap();
    let neither = run(&["server"]);
    assert_eq!(neither.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&neither.stderr).contains("--data-dir"));
    let both = run(&["server", "--dev", "--data-dir", "d"]);
    assert_eq!(both.status.code(), Some(2));
}

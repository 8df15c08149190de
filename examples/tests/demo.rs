//! The demo, as a person with a pipe runs it.

use std::io::Write;
use std::process::{Command, Stdio};

/// The demo's own measure decides: it exits with 0 only if success stayed high enough in every
/// phase.
#[test]
fn the_demo_keeps_its_promise() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--plain", "--seconds", "12", "--rate", "100"])
        .stdin(Stdio::null())
        .output()
        .expect("the demo starts");
    let text = String::from_utf8_lossy(&output.stdout);
    // Shown when the test fails.
    println!("{text}\n{}", String::from_utf8_lossy(&output.stderr));

    assert!(output.status.success(), "{}", output.status);
    for phase in ["calm", "errors", "healed", "slow", "quick", "killed", "back"] {
        let row = text.lines().find(|line| line.starts_with(phase)).expect(phase);
        let calls: u64 = row.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect(row);
        assert!(calls > 0, "{row}");
    }
    for said in [
        "> counting b answers 503 to everything",
        "b ejected after ",
        "> counting c takes 400 ms for everything",
        "> counting a is killed",
        "a unreachable after ",
        "Good: at least 99.9 % in every phase.",
    ] {
        assert!(text.contains(said), "{said}");
    }
}

#[test]
fn what_it_does_not_understand_it_says() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--seconds", "9"])
        .output()
        .expect("the demo starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("10..=3600"));
}

/// A child whose parent is gone, in whatever way, does not stay behind.
#[test]
fn a_child_ends_with_its_parent() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["greeter", "--listen", "127.0.0.1:0"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the greeter starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"still here").expect("it reads");
    assert!(child.try_wait().expect("a state").is_none());
    drop(stdin);
    assert!(child.wait().expect("a status").success());
}

//! What is said of wrong configuration, letter by letter; and that no input takes long.
//!
//! Each `config_errors/*.yaml` has a `.txt` with what is said of it. After a wanted change run
//! with `UPDATE_EXPECTED=1` and read the difference.

use mesh_core::config::{self, Source};
use std::path::Path;
use std::time::Duration;
use std::{env, fs};

fn said(name: &str, text: &str) -> String {
    let documents = match config::parse(&[Source::new(name, text)]) {
        Ok(documents) => documents,
        Err(errors) => return errors.to_string(),
    };
    match config::compile(&documents, 1) {
        Ok(snapshot) => {
            snapshot.warnings().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
        }
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn wrong_configuration_is_told_where_what_and_why() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_errors");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("folder")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 15, "the cases are there");
    let mut wrong = Vec::new();
    for path in files {
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        let said = said(&name, &fs::read_to_string(&path).expect("text")) + "\n";
        let expected = path.with_extension("txt");
        if env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &said).expect("written");
        } else if fs::read_to_string(&expected).unwrap_or_default() != said {
            wrong.push(format!("{name}:\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "other than expected:\n{}", wrong.join("\n"));
}

/// Processor time of this thread: other work on the machine does not count.
fn spent() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

#[test]
fn hostile_input_is_refused_within_a_second() {
    let alias_bomb = {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..30 {
            let below = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", [below.as_str(); 9].join(", "));
        }
        text
    };
    let cases = [
        ("alias bomb", alias_bomb),
        ("deep flow", "[".repeat(100_000)),
        ("deep blocks", (0..2_000).fold(String::new(), |t, n| t + &" ".repeat(n) + "a:\n")),
        ("deep maps", "{a: ".repeat(100_000)),
        ("100 MB", "x".repeat(100 << 20)),
        ("many nodes", format!("[{}]", "1,".repeat(1_000_000))),
        ("many documents", "---\n1\n".repeat(500_000)),
        ("many keys", (0..150_000).fold(String::new(), |t, n| t + &format!("k{n}: 1\n"))),
        ("binary", "\u{0}\u{1}\u{2}".repeat(1000)),
        ("recursive alias", "a: &a [*a]".to_owned()),
    ];
    for (name, text) in cases {
        let start = spent();
        let errors = config::parse(&[Source::new(name, text)]).expect_err(name);
        let took = spent() - start;
        // Debug builds are an order of magnitude slower than what users run.
        let bound = if cfg!(debug_assertions) { 10 } else { 1 };
        assert!(took < Duration::from_secs(bound), "{name} took {took:?}");
        let place = errors.diagnostics()[0].places.first().expect(name);
        assert_eq!(&*place.file, name);
        assert!(errors.to_string().len() < 64 << 10, "{name}: the message stays readable");
        println!("{name}: {took:?}");
    }
}

#[test]
fn truncation_anywhere_is_an_error_or_less_configuration_never_a_panic() {
    let whole = include_str!("config_errors/same_level_twice.yaml");
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        said("cut.yaml", &whole[..end]);
    }
}

use bytes::Bytes;

use super::*;

fn records() -> Vec<Record> {
    let record = |table, name: &str, value: &'static [u8]| Record {
        key: Key::new(table, name),
        value: Bytes::from_static(value),
        create_index: 1,
        modify_index: 2,
    };
    vec![
        record(Table::Kv, "a\n\"", b"\xff\0"),
        record(Table::Kv, "b", b""),
        record(Table::Session, "a", b"{}"),
    ]
}

#[test]
fn what_was_saved_is_read() {
    let packed = archive::pack(&write(7, &records()), 7).unwrap();
    let (revision, read) = read(&archive::unpack(&packed).unwrap()).unwrap();
    assert_eq!((revision, read), (7, records()));
}

#[test]
fn a_damaged_archive_is_seen() {
    let packed = archive::pack(&write(7, &records()), 7).unwrap();
    for end in 0..packed.len() {
        assert!(archive::unpack(&packed[..end]).is_err(), "cut off at {end}");
    }
    for at in 0..packed.len() {
        for bit in [0, 7] {
            let mut packed = packed.clone();
            packed[at] ^= 1 << bit;
            // The header of gzip has bytes that mean nothing: then it is what it was.
            if let Ok(state) = archive::unpack(&packed) {
                assert_eq!(read(&state).unwrap(), (7, records()), "bit {bit} of {at}");
            }
        }
    }
}

#[test]
fn a_state_that_is_not_ours_is_refused_with_its_line() {
    let state = String::from_utf8(write(7, &records())).unwrap();
    let lines: Vec<_> = state.lines().collect();
    let without = |at: usize| {
        let left = lines.iter().enumerate().filter(|(n, _)| *n != at);
        left.map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    for (state, place) in [
        (String::new(), "line 1 of its state: it is empty"),
        ("\u{1}consul".to_owned(), "line 1 of"),
        (without(0), "line 1 of"),
        (without(2), "2 records follow, and it says 3"),
        (state.replace("\"meshState\":1", "\"meshState\":2"), "its format is 2"),
        (state.replace("\"table\":2", "\"table\":99"), "line 4 of its state: no table 99"),
        (state.replace("\"name\":\"b\"", "\"name\":\"A\""), "not in order"),
    ] {
        let error = read(state.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(place), "{error} has no {place:?}");
    }
}

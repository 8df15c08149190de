//! Merge: several levels of one policy to one, with the origin of every value.
//!
//! A value of a narrower level replaces that of a wider one: mesh < namespace < service < subset <
//! route < call. Maps are merged key by key; anything else, lists too, is one value. Two objects
//! of the same level may set different values, not the same one.

use super::super::diagnostic::Problem;
use super::super::source::{Location, Origin, Origins, Source};
use super::super::tree::{Key, Node, Value};

/// Adds `over` to `base`, an object of the same level. What both set is a problem.
pub(super) fn join(base: &mut Node, over: &Node, problems: &mut Vec<Problem>) {
    let clash = |path: &str, first: Location, second: Location| {
        Problem::error(format!("`{path}` is set twice for the same target"))
            .at(second)
            .other(first, "first here")
            .help("objects of one level have no order: keep one of the two")
    };
    combine(base, over, &mut String::new(), &mut |path, base, over| {
        problems.push(clash(path, base.at, over.at));
    });
}

/// Lays `over`, a narrower level, on `base`.
pub(super) fn overlay(base: &mut Node, over: &Node) {
    combine(base, over, &mut String::new(), &mut |_, base, over| *base = over.clone());
}

fn combine(
    base: &mut Node,
    over: &Node,
    path: &mut String,
    meet: &mut impl FnMut(&str, &mut Node, &Node),
) {
    let (Value::Map(known), Value::Map(entries)) = (&mut base.value, &over.value) else {
        return meet(path, base, over);
    };
    for (key, value) in entries {
        match known.iter_mut().find(|(known, _)| known.text == key.text) {
            Some((_, below)) => within(path, key, |path| combine(below, value, path, meet)),
            None => known.push((key.clone(), value.clone())),
        }
    }
}

fn within(path: &mut String, key: &Key, work: impl FnOnce(&mut String)) {
    let outer = path.len();
    if outer > 0 {
        path.push('.');
    }
    path.push_str(&key.text);
    work(path);
    path.truncate(outer);
}

/// Where each value of a merged tree is written.
pub(super) fn origins(sources: &[Source], node: &Node) -> Origins {
    fn walk(sources: &[Source], node: &Node, path: &mut String, origins: &mut Origins) {
        match &node.value {
            Value::Map(entries) => {
                for (key, value) in entries {
                    within(path, key, |path| {
                        if matches!(&value.value, Value::Map(inside) if inside.is_empty()) {
                            origins.insert(path.clone(), Origin::new(sources, key.at));
                        }
                        walk(sources, value, path, origins);
                    });
                }
            }
            _ => origins.insert(path.clone(), Origin::new(sources, node.at)),
        }
    }
    let mut origins = Origins::default();
    walk(sources, node, &mut String::new(), &mut origins);
    origins
}

/// A map with one entry.
pub(super) fn entry(key: &str, at: Location, value: Node) -> Node {
    Node { at, value: Value::Map(vec![(Key { at, text: key.to_owned() }, value)]) }
}

/// A map without entries.
pub(super) const fn nothing() -> Node {
    Node { at: Location { source: 0, line: 0, column: 0, width: 0 }, value: Value::Map(Vec::new()) }
}

//! Check: tells what is wrong with the values of a section, where they are written.

use super::super::source::Location;
use super::super::tree::Node;
use super::Problem;
use std::time::Duration;

/// The shortest span that can be written.
pub(super) const MS: Duration = Duration::from_millis(1);

/// Tells what is wrong with a section.
pub(super) struct Check<'a> {
    node: &'a Node,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Check<'a> {
    pub(super) const fn new(node: &'a Node, problems: &'a mut Vec<Problem>) -> Self {
        Self { node, problems }
    }

    /// Where a value is written; the section, if it is a default.
    fn at(&self, path: &[&str]) -> Location {
        let mut node = self.node;
        for key in path {
            match node.step(key) {
                Some(below) => node = below,
                None => break,
            }
        }
        node.at
    }

    pub(super) fn wrong(&mut self, path: &[&str], what: impl Into<String>, help: &str) {
        let (what, at) = (what.into(), self.at(path));
        // What several services inherit is wrong once.
        if !self.problems.iter().any(|known| known.at == Some(at) && known.to_string() == what) {
            self.problems.push(Problem::error(what).at(at).help(help));
        }
    }

    /// A number below its least value.
    pub(super) fn at_least(&mut self, path: &[&str], value: impl Into<u64>, least: u64) {
        let (value, name) = (value.into(), path.last().copied().unwrap_or_default());
        if value < least {
            let what = format!("`{name}` is {value}; the least is {least}");
            self.wrong(path, what, &format!("write {least} or more"));
        }
    }

    /// A span that is too short to mean anything.
    pub(super) fn lasts(&mut self, path: &[&str], span: Duration) {
        if span < MS {
            let name = path.last().copied().unwrap_or_default();
            self.wrong(path, format!("`{name}` is zero"), "the shortest is `1ms`");
        }
    }
}

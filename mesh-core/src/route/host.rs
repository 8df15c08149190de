//! Host table: from the authority of a request to what is configured for it.
//!
//! An exact name wins over a wildcard, a longer wildcard over a shorter one, and `*` comes last.
//! `*.example.com` stands for one or more labels before `.example.com`, not for `example.com`
//! itself (Gateway API). An exact name costs one hash; a wildcard one more per label.

use foldhash::fast::FixedState;
use std::borrow::Cow;
use std::collections::HashMap;

/// Hosts of requests are looked up and never inserted, so that nobody can choose keys that
/// collide: a fast hash will do.
type Hosts<T> = HashMap<Box<str>, T, FixedState>;

/// Values by host name or wildcard.
#[derive(Clone, Debug)]
pub(crate) struct HostTable<T> {
    exact: Hosts<T>,
    /// By suffix with its leading dot: `.example.com`.
    wildcard: Hosts<T>,
    any: Option<T>,
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        Self { exact: Hosts::default(), wildcard: Hosts::default(), any: None }
    }
}

impl<T> HostTable<T> {
    /// Sets the value of a host: a lower-case name, `*.suffix` or `*`.
    pub(crate) fn insert(&mut self, host: &str, value: T) {
        if host == "*" {
            self.any = Some(value);
        } else if let Some(suffix) = host.strip_prefix('*') {
            self.wildcard.insert(suffix.into(), value);
        } else {
            self.exact.insert(host.into(), value);
        }
    }

    /// The value of the most specific entry that covers `host`, a name as [`canonical`] gives it.
    pub(crate) fn find(&self, host: &str) -> Option<&T> {
        if let Some(found) = self.exact.get(host) {
            return Some(found);
        }
        if !self.wildcard.is_empty() {
            let mut rest = host;
            // The dot must not stand first: a wildcard covers at least one label.
            while let Some(dot) = rest.get(1..).and_then(|tail| tail.find('.')) {
                rest = &rest[dot + 1..];
                if let Some(found) = self.wildcard.get(rest) {
                    return Some(found);
                }
            }
        }
        self.any.as_ref()
    }
}

/// The host of an authority as the table knows it: without port and final dot, in lower case.
///
/// Allocates only if a letter is upper case.
pub(crate) fn canonical(authority: &str) -> Cow<'_, str> {
    // Byte by byte, since names are short.
    let host = match authority.bytes().rposition(|byte| byte == b':') {
        // Not the colons inside `[::1]`, nor those of a bare IPv6 address.
        Some(colon)
            if authority.ends_with(']')
                || (authority[..colon].contains(':') && !authority.starts_with('[')) =>
        {
            authority
        }
        Some(colon) => &authority[..colon],
        None => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// Whether `wildcard` (`*.suffix` or `*`) covers everything `host` covers, and is not `host`.
pub(crate) fn covers(wildcard: &str, host: &str) -> bool {
    wildcard != host
        && wildcard.strip_prefix('*').is_some_and(|suffix| {
            suffix.is_empty()
                || host
                    .strip_suffix(suffix)
                    .is_some_and(|labels| !labels.is_empty() && labels != "*")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_then_the_longest_wildcard_then_any() {
        let mut table = HostTable::default();
        for host in ["*", "*.example.com", "*.b.example.com", "a.example.com"] {
            table.insert(host, host);
        }
        for (host, expected) in [
            ("a.example.com", "a.example.com"),
            ("c.example.com", "*.example.com"),
            ("x.y.example.com", "*.example.com"),
            ("b.example.com", "*.example.com"),
            ("x.b.example.com", "*.b.example.com"),
            ("example.com", "*"),
            (".example.com", "*"),
            ("badexample.com", "*"),
            ("", "*"),
        ] {
            assert_eq!(table.find(host), Some(&expected), "{host}");
        }
        assert_eq!(HostTable::<()>::default().find("a"), None);
    }

    #[test]
    fn ports_final_dots_and_case_do_not_matter() {
        for (authority, host) in [
            ("inventory", "inventory"),
            ("inventory:80", "inventory"),
            ("Inventory.Shop.:443", "inventory.shop"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            (":80", ""),
            ("", ""),
        ] {
            assert_eq!(canonical(authority), host, "{authority}");
        }
    }

    #[test]
    fn a_wildcard_covers_names_and_longer_wildcards() {
        assert!(covers("*.a", "x.a"));
        assert!(covers("*.a", "*.x.a"));
        assert!(covers("*", "*.a"));
        assert!(!covers("*.a", "*.a"));
        assert!(!covers("*.x.a", "*.a"));
        assert!(!covers("*.a", "a"));
        assert!(!covers("a", "a"));
    }
}

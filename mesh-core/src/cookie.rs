//! Cookies of a request: one reading for matches of routes, hashes and sessions.
//!
//! They stand in one field, or divided over several (RFC 9113 §8.2.3), as `name=value` between
//! semicolons. Of several of one name the first counts, in all its uses: a second one moves no
//! request to another rule or endpoint. White space around name and value, and double quotes around
//! the value, are not part of them. What has no `=` is no cookie.
//!
//! Source: RFC 6265 §4.1.1, §5.4; Envoy `parseCookieValue`.

use http::HeaderMap;
use http::header::COOKIE;

/// The value of a cookie; it may be empty.
pub(crate) fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get_all(COOKIE).iter().find_map(|field| {
        field.as_bytes().split(|byte| *byte == b';').find_map(|pair| {
            let value = pair.trim_ascii_start().strip_prefix(name.as_bytes())?;
            let value = value.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
            let quoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
            Some(quoted.unwrap_or(value))
        })
    })
}

/// Whether a text can be the name of a cookie: a token (RFC 6265 §4.1.1).
pub(crate) fn is_name(text: &str) -> bool {
    let is_token = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
    };
    !text.is_empty() && text.bytes().all(is_token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::cookie::Cookie;
    use crate::route::{CookieMatch, ValueMatch};
    use http::HeaderValue;

    fn headers(fields: &[&'static str]) -> HeaderMap {
        fields.iter().map(|field| (COOKIE, HeaderValue::from_static(field))).collect()
    }

    /// Each case is read by the rule itself, by a match of a route, and for a hash or session, to which
    /// an empty value says nothing.
    #[test]
    fn matches_hashes_and_sessions_read_the_same_value() {
        let hashed = Cookie::new("sid").unwrap();
        for (fields, expected) in [
            (&["sid=1"][..], Some("1")),
            (&["a=0; sid=1; sid=2"], Some("1")),
            (&["a=0;sid=1;b"], Some("1")),
            (&["a=0", "sid=1"], Some("1")),
            (&["sid=\"1\""], Some("1")),
            (&["sid = 1 ; a=0"], Some("1")),
            (&["\tsid=1\t"], Some("1")),
            (&["sid=a=b="], Some("a=b=")),
            (&["sid=", "sid=2"], Some("")),
            (&["sid=\"\"; sid=2"], Some("")),
            (&["sid; sid=2"], Some("2")),
            (&["sid=\""], Some("\"")),
            (&["SID=1"], None),
            (&["xsid=1; sidx=1; sid"], None),
            (&["x y=1; sid x=1"], None),
            (&[";;=;"], None),
            (&[""], None),
            (&[], None),
        ] {
            let headers = headers(fields);
            let read = value(&headers, "sid");
            assert_eq!(read, expected.map(str::as_bytes), "{fields:?}");
            let said = read.filter(|value| !value.is_empty());
            assert_eq!(hashed.of(&headers), said, "{fields:?}");
            for text in ["1", "2", "", "a=b=", "\""] {
                let matched = CookieMatch::new("sid", ValueMatch::Exact(text.into()));
                assert_eq!(matched.is_match(&headers), expected == Some(text), "{fields:?} {text}");
            }
        }
    }

    #[test]
    fn names_are_tokens() {
        for (name, expected) in [
            ("sid", true),
            ("__Host-sid", true),
            ("a!#$%&'*+-.^_`|~9", true),
            ("", false),
            ("a b", false),
            ("a=b", false),
            ("a;b", false),
            ("a\"", false),
            ("\u{e4}", false),
        ] {
            assert_eq!(is_name(name), expected, "{name:?}");
        }
    }
}

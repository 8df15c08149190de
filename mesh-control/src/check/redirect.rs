//! Where a redirect leads: a reference, seen from the URL that answered with it.
//!
//! Source: RFC 3986 §5.2, without the fragment, which is not sent.

use http::Uri;

/// The URL that `reference` names from `base`; none if it is none.
pub(super) fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or_default();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if has_scheme(reference) {
        return reference.parse().ok();
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    let target = if reference.is_empty() {
        base.path_and_query()?.to_string()
    } else if reference.starts_with('?') {
        format!("{}{reference}", base.path())
    } else {
        let (path, query) = match reference.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (reference, None),
        };
        let path = match path.starts_with('/') {
            true => without_dots(path),
            false => {
                let folder = base.path().rfind('/').map_or("/", |end| &base.path()[..=end]);
                without_dots(&format!("{folder}{path}"))
            }
        };
        query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"))
    };
    format!("{scheme}://{authority}{target}").parse().ok()
}

fn has_scheme(reference: &str) -> bool {
    let end = reference.find([':', '/', '?']).filter(|end| reference[*end..].starts_with(':'));
    end.is_some_and(|end| {
        let name = &reference.as_bytes()[..end];
        name.first().is_some_and(u8::is_ascii_alphabetic)
            && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
    })
}

/// The path without `.` and `..`: RFC 3986 §5.2.4.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_lead_where_the_rfc_says() {
        // RFC 3986 §5.4, from this base.
        let base: Uri = "http://a/b/c/d;p?q".parse().unwrap();
        for (reference, expected) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("g#s", "http://a/b/c/g"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
            ("/./g", "http://a/g"),
            ("/../g", "http://a/g"),
            ("g.", "http://a/b/c/g."),
            ("./g/.", "http://a/b/c/g/"),
            ("g/../h", "http://a/b/c/h"),
            ("g?y/../x", "http://a/b/c/g?y/../x"),
            ("https://other:1/x", "https://other:1/x"),
            ("a:b", "a:b"),
            ("g?x:y", "http://a/b/c/g?x:y"),
        ] {
            let led = resolve(&base, reference).map(|url| url.to_string());
            assert_eq!(led.as_deref(), Some(expected), "{reference:?}");
        }
        for nowhere in ["http://", "//", "http://a b/", "/\u{1}"] {
            assert_eq!(resolve(&base, nowhere), None, "{nowhere:?}");
        }
    }
}

//! Fields: looks for a name among few.
//!
//! A header map hashes each name that it is asked for, byte by byte: 250 instructions for
//! `x-envoy-expected-rq-timeout-ms`, 150 for `traceparent`, whatever the request carries. Going
//! through the fields costs some 30 for each, so a request of at most [`FEW`] is gone through.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields up to which going through them costs less than the hash of a long name.
const FEW: usize = 6;

/// The first value of a name, as [`HeaderMap::get`] has it.
pub(crate) fn get<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.len() > FEW {
        return headers.get(name);
    }
    headers.iter().find_map(|(known, value)| (known == name).then_some(value))
}

/// Whether there is a value, as [`HeaderMap::contains_key`] has it.
pub(crate) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    get(headers, name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HOST;

    #[test]
    fn few_fields_or_many_it_finds_what_the_map_finds() {
        let sought = HeaderName::from_static("traceparent");
        for others in 0..=FEW + 2 {
            let mut headers = HeaderMap::new();
            for number in 0..others {
                let name = HeaderName::try_from(format!("x-{number}")).unwrap();
                headers.append(name, HeaderValue::from(number));
            }
            assert!(get(&headers, &sought).is_none() && !has(&headers, &HOST), "{others}");
            headers.append(&sought, HeaderValue::from_static("first"));
            headers.append(HOST, HeaderValue::from_static("a"));
            headers.append(&sought, HeaderValue::from_static("second"));
            assert_eq!(get(&headers, &sought).unwrap(), "first", "{others}");
            assert_eq!(get(&headers, &sought), headers.get(&sought), "{others}");
            assert!(has(&headers, &HOST), "{others}");
        }
    }
}

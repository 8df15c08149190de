//! What an endpoint says of itself, completed by what its server sees of it.
//!
//! An application that reports its utilization by ORCA knows nothing of what `mesh.server()` or the
//! proxy in front of it counts. Both go out as one report:
//!
//! | theirs | what becomes of it |
//! |---|---|
//! | cannot be read, or is longer than [`MAX_LEN`] | taken out: as good as none |
//! | says what is in flight | left: whoever says that runs our inbound stack, and is nearer |
//! | binary | ours follows: protobuf reads two messages in a row as one |
//! | `TEXT` | our pairs follow, and count where theirs make no sense |
//! | `JSON` | written anew, with the numbers that are known here |
//!
//! Theirs wins wherever both say something.

use super::{BASE64, HEADER, HEADER_BIN, MAX_LEN, Report, text};
use base64::Engine;
use http::{HeaderMap, HeaderValue};

impl Report {
    /// Adds this report to the one that a head or trailers carry already. False if there is none
    /// that can be read; then there is none any more.
    ///
    /// ```
    /// use http::{HeaderMap, HeaderValue};
    /// use mesh_core::load::report::{HEADER, Report};
    ///
    /// let mut own = Report::default();
    /// own.in_flight = Some(3);
    /// let theirs = HeaderValue::from_static("TEXT cpu_utilization=0.5,named_metrics.queue=7");
    /// let mut headers = HeaderMap::from_iter([(HEADER, theirs)]);
    ///
    /// assert!(own.complete(&mut headers));
    /// let both = Report::of(&headers, &[]).expect("there").expect("valid");
    /// assert_eq!((both.in_flight, both.cpu_utilization), (Some(3), 0.5));
    /// assert!(headers[HEADER].to_str().unwrap().contains("queue=7"));
    /// ```
    pub fn complete(&self, headers: &mut HeaderMap) -> bool {
        let theirs = match Self::of(headers, &[]) {
            Some(Ok(theirs)) => theirs,
            unreadable => {
                if unreadable.is_some() {
                    headers.remove(HEADER_BIN);
                    headers.remove(HEADER);
                }
                return false;
            }
        };
        if theirs.in_flight.is_some() {
            return true;
        }
        let whole = || self.behind(&theirs);
        let (name, value) = match (headers.get(HEADER_BIN), headers.get(HEADER)) {
            (Some(value), _) => {
                let value = self.after_base64(&theirs, value.as_bytes());
                (HEADER_BIN, value.unwrap_or_else(|| whole().to_header()))
            }
            (None, Some(value)) => {
                let value = self.after_text(&theirs, value.as_bytes());
                (HEADER, value.unwrap_or_else(|| whole().to_json_header()))
            }
            (None, None) => return false,
        };
        headers.insert(name, value);
        true
    }

    /// Theirs, and what it does not say.
    fn behind(&self, theirs: &Self) -> Self {
        let either = |theirs: f64, own: f64| if theirs > 0.0 { theirs } else { own };
        let rates = if theirs.qps > 0.0 { theirs } else { self };
        Self {
            in_flight: self.in_flight,
            service_time: theirs.service_time.or(self.service_time),
            error_share: theirs.error_share.or(self.error_share),
            latency: theirs.latency.or(self.latency),
            cpu_utilization: either(theirs.cpu_utilization, self.cpu_utilization),
            application_utilization: either(
                theirs.application_utilization,
                self.application_utilization,
            ),
            named_utilization: theirs.named_utilization,
            qps: rates.qps,
            eps: rates.eps,
        }
    }

    /// What theirs does not say.
    fn rest(&self, theirs: &Self) -> Self {
        let unsaid = |theirs: f64, own: f64| if theirs > 0.0 { 0.0 } else { own };
        Self {
            in_flight: self.in_flight,
            service_time: self.service_time.filter(|_| theirs.service_time.is_none()),
            error_share: self.error_share.filter(|_| theirs.error_share.is_none()),
            latency: self.latency.filter(|_| theirs.latency.is_none()),
            cpu_utilization: unsaid(theirs.cpu_utilization, self.cpu_utilization),
            application_utilization: unsaid(
                theirs.application_utilization,
                self.application_utilization,
            ),
            named_utilization: 0.0,
            qps: unsaid(theirs.qps, self.qps),
            eps: unsaid(theirs.qps, self.eps),
        }
    }

    fn after_base64(&self, theirs: &Self, value: &[u8]) -> Option<HeaderValue> {
        let mut message = BASE64.decode(value.trim_ascii()).ok()?;
        message.extend(self.rest(theirs).to_binary());
        short(BASE64.encode(message))
    }

    fn after_text(&self, theirs: &Self, value: &[u8]) -> Option<HeaderValue> {
        let value = std::str::from_utf8(value).ok()?;
        let pairs = value.strip_prefix("TEXT ")?;
        let own = text::format(&self.rest(theirs));
        let own = own.strip_prefix("TEXT ").unwrap_or_default();
        let comma = if pairs.trim().is_empty() { "" } else { "," };
        // Ours last, since the later of two counts: theirs may have said what is not believed.
        short(format!("{value}{comma}{own}"))
    }
}

fn short(value: String) -> Option<HeaderValue> {
    if value.len() <= MAX_LEN { HeaderValue::try_from(value).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn own() -> Report {
        Report {
            in_flight: Some(3),
            service_time: Some(Duration::from_millis(40)),
            error_share: Some(0.25),
            cpu_utilization: 0.1,
            qps: 50.0,
            eps: 5.0,
            ..Report::default()
        }
    }

    fn foreign() -> Report {
        Report { application_utilization: 0.7, qps: 80.0, ..Report::default() }
    }

    #[test]
    fn whatever_form_theirs_has_both_are_read_as_one() {
        let expected = Report {
            application_utilization: 0.7,
            cpu_utilization: 0.1,
            qps: 80.0,
            eps: 0.0,
            ..own()
        };
        let bin = format!("BIN {}", foreign().to_header().to_str().expect("ASCII"));
        for (name, value) in [
            (HEADER_BIN, foreign().to_header()),
            (HEADER, foreign().to_text_header()),
            (HEADER, foreign().to_json_header()),
            (HEADER, HeaderValue::try_from(bin).expect("ASCII")),
        ] {
            let mut headers = HeaderMap::from_iter([(name, value.clone())]);
            assert!(own().complete(&mut headers));
            assert_eq!(Report::of(&headers, &[]), Some(Ok(expected)), "{value:?}");
            assert_eq!(headers.len(), 1);
        }
    }

    #[test]
    fn metrics_that_mean_nothing_to_us_are_kept_for_those_to_whom_they_do() {
        let names = ["named_metrics.queue".to_owned()];
        // `named_metrics { key: "queue" value: 0.5 }`
        let entry = [&[0x42, 16, 0x0a, 5][..], b"queue", &[0x11], &0.5f64.to_le_bytes()].concat();
        let binary = HeaderValue::try_from(BASE64.encode(entry)).expect("ASCII");
        for (name, value) in [
            (HEADER_BIN, binary),
            (HEADER, HeaderValue::from_static("TEXT named_metrics.queue=0.5")),
        ] {
            let mut headers = HeaderMap::from_iter([(name, value)]);
            assert!(own().complete(&mut headers));
            let read = Report::of(&headers, &names).expect("there").expect("valid");
            assert_eq!((read.named_utilization, read.in_flight), (0.5, Some(3)));
        }
    }

    #[test]
    fn who_says_what_is_in_flight_is_believed() {
        let theirs = Report { in_flight: Some(9), ..Report::default() }.to_header();
        let mut headers = HeaderMap::from_iter([(HEADER_BIN, theirs.clone())]);
        assert!(own().complete(&mut headers));
        assert_eq!(headers[HEADER_BIN], theirs);
    }

    #[test]
    fn what_cannot_be_read_is_taken_out() {
        let long = format!("TEXT {}", "eps=1,".repeat(4_000));
        for value in ["", "TEXT eps=x", "JSON {", "XML <a/>", "BIN !!!!", &long] {
            let value = HeaderValue::try_from(value).expect("visible");
            for name in [HEADER, HEADER_BIN] {
                let mut headers = HeaderMap::from_iter([(name.clone(), value.clone())]);
                let empty = name == HEADER_BIN && value.is_empty();
                assert_eq!(own().complete(&mut headers), empty, "{value:?}");
                assert_eq!(headers.is_empty(), !empty);
            }
        }
        assert!(!own().complete(&mut HeaderMap::new()));
    }

    #[test]
    fn one_that_would_become_too_long_keeps_the_numbers_that_are_known() {
        let long = format!("TEXT application_utilization=0.7,{}", "a=1,".repeat(2_030));
        assert!(long.len() < MAX_LEN);
        let value = HeaderValue::try_from(long).expect("visible");
        let mut headers = HeaderMap::from_iter([(HEADER, value)]);
        assert!(own().complete(&mut headers));
        assert!(headers[HEADER].len() < 300);
        let read = Report::of(&headers, &[]).expect("there").expect("valid");
        assert_eq!((read.application_utilization, read.in_flight), (0.7, Some(3)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_is_left_can_be_read(
            bytes in prop::collection::vec(any::<u8>(), 0..200), form in 0usize..4,
        ) {
            let prefix = ["", "TEXT ", "JSON ", "BIN "][form];
            let value = [prefix.as_bytes(), &bytes].concat();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for name in [HEADER, HEADER_BIN] {
                    let mut headers = HeaderMap::from_iter([(name, value.clone())]);
                    let completed = own().complete(&mut headers);
                    let read = Report::of(&headers, &[]);
                    prop_assert_eq!(completed, read.is_some_and(|read| read.is_ok()));
                }
            }
        }
    }
}

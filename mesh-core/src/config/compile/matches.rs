//! Matches: from what a rule writes to what a request is compared with.

use super::super::de::Located;
use super::super::kinds::{GrpcMatch, HttpMatch, MatchType, NamedMatch, PathMatchType};
use super::super::source::Location;
use super::{Compiler, Problem};
use crate::cookie::is_name;
use crate::route::{CookieMatch, HeaderMatch, Match, PathMatch, Pattern, QueryMatch, ValueMatch};
use http::{HeaderName, Method};

/// The methods that a rule may name.
pub(super) const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

impl Compiler<'_> {
    pub(super) fn http_match(&mut self, written: &Located<HttpMatch>) -> Option<Match> {
        let path = match &written.path {
            None => PathMatch::any(),
            Some(path) => {
                let text = path.text();
                let at = path.value.value.as_ref().map_or(path.at, |value| value.at);
                if path.kind != PathMatchType::RegularExpression && !is_path(text) {
                    self.problems.push(
                        Problem::error(format!("`{}` is not a path", text.escape_debug()))
                            .at(at)
                            .help("it starts with `/`, and has neither `//`, `.` or `..` as a segment, nor a query"),
                    );
                    return None;
                }
                match path.kind {
                    PathMatchType::Exact => PathMatch::Exact(text.into()),
                    PathMatchType::PathPrefix => PathMatch::prefix(text),
                    PathMatchType::RegularExpression => {
                        PathMatch::RegularExpression(self.pattern(text, at)?)
                    }
                }
            }
        };
        let method = match &written.method {
            None => None,
            Some(method) => Some(self.method(method)?),
        };
        let headers = self.headers(&written.headers)?;
        let mut query: Vec<QueryMatch> = Vec::new();
        for parameter in &written.query_params {
            if query.iter().any(|known| *known.name == **parameter.name) {
                self.repeated(parameter, "query parameter");
                continue;
            }
            query.push(QueryMatch::new(&parameter.name, self.value(parameter)?));
        }
        let mut cookies: Vec<CookieMatch> = Vec::new();
        for cookie in &written.cookies {
            if !is_name(&cookie.name) {
                let what = format!("`{}` is no name of a cookie", cookie.name.escape_debug());
                self.problems.push(Problem::error(what).at(cookie.name.at));
            } else if cookies.iter().any(|known| *known.name == **cookie.name) {
                self.repeated(cookie, "cookie");
            } else {
                cookies.push(CookieMatch::new(&cookie.name, self.value(cookie)?));
            }
        }
        let fraction = match &written.fraction {
            Some(share) => Some(self.fraction(share.numerator, share.denominator, share.at)?),
            None => None,
        };
        Some(Match { path, method, headers, query, cookies, fraction })
    }

    pub(super) fn grpc_match(&mut self, written: &Located<GrpcMatch>) -> Option<Match> {
        let (mut service, mut method) = (None, None);
        if let Some(both) = &written.method {
            if both.service.is_none() && both.method.is_none() {
                self.problems
                    .push(Problem::error("`method` needs `service`, `method` or both").at(both.at));
                return None;
            }
            for (text, side) in [(&both.service, &mut service), (&both.method, &mut method)] {
                let Some(text) = text else { continue };
                *side = Some(match both.kind {
                    MatchType::Exact => {
                        if text.is_empty() || text.contains('/') {
                            self.problems.push(
                                Problem::error(format!(
                                    "`{}` is no name of a gRPC service or method",
                                    text.escape_debug()
                                ))
                                .at(text.at),
                            );
                            return None;
                        }
                        ValueMatch::Exact(text.as_str().into())
                    }
                    MatchType::RegularExpression => {
                        ValueMatch::RegularExpression(self.pattern(text, text.at)?)
                    }
                });
            }
        }
        let headers = self.headers(&written.headers)?;
        Some(Match { path: PathMatch::Grpc { service, method }, headers, ..Match::any() })
    }

    fn method(&mut self, written: &Located<String>) -> Option<Method> {
        if METHODS.contains(&&***written) {
            return written.parse().ok();
        }
        let problem = Problem::error(format!("unknown method `{}`", written.escape_debug()));
        self.problems.push(problem.at(written.at).suggest(written, METHODS));
        None
    }

    fn headers(&mut self, written: &[Located<NamedMatch>]) -> Option<Vec<HeaderMatch>> {
        let mut headers: Vec<HeaderMatch> = Vec::new();
        for header in written {
            let Ok(name) = header.name.parse::<HeaderName>() else {
                self.problems.push(
                    Problem::error(format!("`{}` is no header name", header.name.escape_debug()))
                        .at(header.name.at),
                );
                return None;
            };
            if headers.iter().any(|known| known.name == name) {
                self.repeated(header, "header");
                continue;
            }
            headers.push(HeaderMatch::new(name, self.value(header)?));
        }
        Some(headers)
    }

    fn repeated(&mut self, written: &Located<NamedMatch>, what: &str) {
        self.problems.push(
            Problem::error(format!("{what} `{}` is matched twice", written.name.escape_debug()))
                .at(written.at)
                .help("one request meets both only if they are equal; use two `matches` for `or`"),
        );
    }

    fn value(&mut self, written: &Located<NamedMatch>) -> Option<ValueMatch> {
        Some(match written.kind {
            MatchType::Exact => ValueMatch::Exact(written.value.value.value.as_str().into()),
            MatchType::RegularExpression => ValueMatch::RegularExpression(
                self.pattern(&written.value.value, written.value.value.at)?,
            ),
        })
    }

    pub(super) fn pattern(&mut self, text: &str, at: Location) -> Option<Pattern> {
        match Pattern::new(text) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let why = match &error {
                    regex::Error::CompiledTooBig(_) => {
                        "it grows too large when compiled".to_owned()
                    }
                    other => other.to_string().lines().last().unwrap_or_default().trim().to_owned(),
                };
                let shown: String = text.chars().take(60).collect();
                self.problems.push(
                    Problem::error(format!(
                        "`{}` is no regular expression: {}",
                        shown.escape_debug(),
                        why.trim_start_matches("error: ")
                    ))
                    .at(at)
                    .help("the syntax is RE2's, which has no look-around and no back references"),
                );
                None
            }
        }
    }
}

/// Whether a path can be what a request carries after it is normalized.
pub(super) fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && text.len() <= 1024
        && !text.contains("//")
        && !text.contains(['?', '#', ' '])
        && !text.chars().any(char::is_control)
        && !text.split('/').any(|segment| matches!(segment, "." | ".."))
}

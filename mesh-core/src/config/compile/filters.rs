//! Filters: from what a rule writes to what is done to requests and responses.

use super::super::de::Located;
use super::super::filters::{
    CorsFilter, DirectResponse, ExtensionRef, FilterType, HeaderModifier, PathModifier,
    PathModifierType, RequestMirror, RequestRedirect, RouteFilter, UrlRewrite,
};
use super::super::kinds::{Kind, OURS};
use super::super::parse::{Object, Spec};
use super::super::source::Location;
use super::destinations::host_problem;
use super::matches::{METHODS, is_path};
use super::{Compiler, Problem, destination};
use crate::policy::{Policy, Timeouts};
use crate::route::filter::{
    Allowed, Answer, Cors, Direct, Filters, Fraction, HeaderEdits, MAX_BODY, Mirror, Origin,
    PathEdit, Redirect, Rewrite,
};
use crate::route::{Match, PathMatch};
use crate::snapshot::Snapshot;
use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, StatusCode};
use std::collections::HashSet;
use std::sync::Arc;

/// Longest value of a field (Gateway API).
const MAX_VALUE: usize = 4096;

/// Fields that say how a message is framed or where it goes: they are not a rule's to edit.
const FIXED: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Where filters stand.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) object: &'a Object,
    /// Of the rule.
    pub(super) matches: &'a [(Match, Location)],
    /// Whether it is a `backendRef` of the rule.
    pub(super) backend: bool,
}

impl Compiler<'_> {
    /// What the filters of a rule or `backendRef` do. What is wrong is told and left out.
    pub(super) fn filters(
        &mut self,
        written: &[Located<RouteFilter>],
        place: Place<'_>,
    ) -> Filters {
        let mut filters = Filters::default();
        let mut seen: HashSet<FilterType> = HashSet::new();
        for filter in written {
            let kind = filter.kind.value;
            if !self.belongs(filter, place) {
                continue;
            }
            let many = matches!(kind, FilterType::ExtensionRef | FilterType::RequestMirror);
            if !seen.insert(kind) && !many {
                let what = format!("filter `{}` stands here twice", kind.name());
                self.problems.push(Problem::error(what).at(filter.kind.at));
                continue;
            }
            self.filter(filter, place, &mut filters);
        }
        if filters.answer.is_some() && (filters.rewrite.is_some() || !filters.mirrors.is_empty()) {
            let at = written.first().map(|first| first.at).unwrap_or_default();
            self.problems.push(
                Problem::error("a rule that answers by itself has nothing to rewrite or to copy")
                    .at(at),
            );
        }
        filters
    }

    /// Whether a filter of this type may stand here, with its own part and no other.
    fn belongs(&mut self, filter: &Located<RouteFilter>, place: Place<'_>) -> bool {
        let kind = filter.kind.value;
        let route = place.object.kind;
        let for_grpc = [
            FilterType::RequestHeaderModifier,
            FilterType::ResponseHeaderModifier,
            FilterType::RequestMirror,
        ];
        if route != Kind::HttpRoute && !(route == Kind::GrpcRoute && for_grpc.contains(&kind)) {
            let what = format!("a {} has no filter `{}`", route.name(), kind.name());
            self.problems.push(Problem::error(what).at(filter.kind.at));
            return false;
        }
        let parts = [
            (
                FilterType::RequestHeaderModifier,
                filter.request_header_modifier.as_ref().map(|p| p.at),
            ),
            (
                FilterType::ResponseHeaderModifier,
                filter.response_header_modifier.as_ref().map(|p| p.at),
            ),
            (FilterType::RequestRedirect, filter.request_redirect.as_ref().map(|p| p.at)),
            (FilterType::UrlRewrite, filter.url_rewrite.as_ref().map(|p| p.at)),
            (FilterType::RequestMirror, filter.request_mirror.as_ref().map(|p| p.at)),
            (FilterType::Cors, filter.cors.as_ref().map(|p| p.at)),
            (FilterType::ExtensionRef, filter.extension_ref.as_ref().map(|p| p.at)),
        ];
        let mut right = true;
        for (part, at) in parts {
            let problem = match (part == kind, at) {
                (true, None) => Problem::error(format!("`{}` is missing", kind.key()))
                    .at(filter.kind.at)
                    .help(format!("`type: {}` needs it", kind.name())),
                (false, Some(at)) => Problem::error(format!(
                    "`{}` belongs to `type: {}`, this is `{}`",
                    part.key(),
                    part.name(),
                    kind.name()
                ))
                .at(at),
                _ => continue,
            };
            self.problems.push(problem);
            right = false;
        }
        right
    }

    fn filter(&mut self, written: &RouteFilter, place: Place<'_>, filters: &mut Filters) {
        if let Some(edits) = &written.request_header_modifier {
            let edits = self.edits(edits);
            filters.request_headers.extend(Some(edits).filter(|edits| !edits.is_empty()));
        }
        if let Some(edits) = &written.response_header_modifier {
            let edits = self.edits(edits);
            filters.response_headers.extend(Some(edits).filter(|edits| !edits.is_empty()));
        }
        if let Some(rewrite) = &written.url_rewrite {
            filters.rewrite = Some(self.rewrite(rewrite, place));
        }
        if let Some(cors) = &written.cors {
            filters.cors = Some(self.cors(cors));
        }
        if let Some(mirror) = &written.request_mirror {
            filters.mirrors.extend(self.mirror(mirror, place));
        }
        let answer = match (&written.request_redirect, &written.extension_ref) {
            (Some(redirect), _) => Some((self.redirect(redirect, place), redirect.at)),
            (_, Some(reference)) => {
                let direct = self.extension(reference, place.object);
                direct.map(|direct| (Answer::Direct(direct), reference.at))
            }
            _ => None,
        };
        let Some((answer, at)) = answer else { return };
        if place.backend {
            let what = "an answer of its own in a `backendRef`";
            self.problems.push(
                Problem::not_supported(what)
                    .at(at)
                    .help("write it among the `filters` of the rule"),
            );
        } else if filters.answer.replace(answer).is_some() {
            self.problems.push(Problem::error("this rule has two answers of its own").at(at));
        }
    }

    fn edits(&mut self, written: &HeaderModifier) -> HeaderEdits {
        let mut names: HashSet<HeaderName> = HashSet::new();
        let mut edits = HeaderEdits::default();
        for (fields, side) in [(&written.set, &mut edits.set), (&written.add, &mut edits.add)] {
            for field in fields {
                let name = self.field_name(&field.name, &mut names);
                let value = self.field_value(&field.name, &field.value.value);
                side.extend(name.zip(value));
            }
        }
        for name in &written.remove {
            edits.remove.extend(self.field_name(name, &mut names));
        }
        edits
    }

    pub(super) fn field_name(
        &mut self,
        written: &Located<String>,
        known: &mut HashSet<HeaderName>,
    ) -> Option<HeaderName> {
        let Ok(name) = written.parse::<HeaderName>() else {
            let what = format!("`{}` is no header name", written.escape_debug());
            self.problems.push(Problem::error(what).at(written.at));
            return None;
        };
        if FIXED.contains(&name.as_str()) {
            let problem = Problem::error(format!("`{name}` cannot be edited")).at(written.at);
            self.problems.push(if name == "host" {
                problem.help("use a `URLRewrite` with `hostname`")
            } else {
                problem.help("it belongs to the connection, not to the message")
            });
            return None;
        }
        if !known.insert(name.clone()) {
            self.problems.push(
                Problem::error(format!("header `{name}` is edited twice"))
                    .at(written.at)
                    .help("a name may stand once in `set`, `add` and `remove` together; join values by commas"),
            );
            return None;
        }
        Some(name)
    }

    pub(super) fn field_value(
        &mut self,
        name: &Located<String>,
        text: &Located<String>,
    ) -> Option<HeaderValue> {
        let why = match HeaderValue::from_str(text) {
            _ if text.is_empty() => "it is empty; `remove` takes a field away",
            _ if text.len() > MAX_VALUE => "it is longer than 4,096 bytes",
            Ok(value) => return Some(value),
            Err(_) => "it has characters that no header can carry",
        };
        let what = format!("the value of header `{}` cannot be sent: {why}", name.escape_debug());
        self.problems.push(Problem::error(what).at(text.at));
        None
    }

    fn rewrite(&mut self, written: &UrlRewrite, place: Place<'_>) -> Rewrite {
        let mut rewrite = Rewrite::default();
        if let Some(host) = written.hostname.as_ref().and_then(|host| self.hostname(host)) {
            rewrite.host = host.parse().ok();
        }
        rewrite.path = written.path.as_ref().and_then(|path| self.path_edit(path, place));
        rewrite
    }

    fn redirect(&mut self, written: &RequestRedirect, place: Place<'_>) -> Answer {
        let before = self.problems.len();
        let mut redirect = Redirect::default();
        if let Some(scheme) = &written.scheme {
            redirect.scheme = match scheme.as_str() {
                "http" => Some(Scheme::HTTP),
                "https" => Some(Scheme::HTTPS),
                _ => {
                    let what = format!("unknown scheme `{}`", scheme.escape_debug());
                    let problem = Problem::error(what).at(scheme.at);
                    self.problems.push(problem.suggest(scheme, ["http", "https"]));
                    None
                }
            };
        }
        redirect.host =
            written.hostname.as_ref().and_then(|host| self.hostname(host)).map(Box::from);
        if let Some(port) = &written.port {
            redirect.port = u16::try_from(port.value).ok().filter(|port| *port > 0);
            if redirect.port.is_none() {
                let what = format!("{} is no port from 1 to 65535", port.value);
                self.problems.push(Problem::error(what).at(port.at));
            }
        }
        redirect.path = written.path.as_ref().and_then(|path| self.path_edit(path, place));
        if let Some(status) = &written.status_code {
            let known = [301, 302, 303, 307, 308].contains(&status.value);
            match u16::try_from(status.value).ok().and_then(|code| StatusCode::from_u16(code).ok())
            {
                Some(code) if known => redirect.status = code,
                _ => self.problems.push(
                    Problem::error(format!("{} is no status of a redirect", status.value))
                        .at(status.at)
                        .help("301, 302, 303, 307 and 308 are"),
                ),
            }
        }
        if self.problems.len() > before {
            // Where it leads is not known, so it is not looked at as a loop.
            self.warned.extend(place.matches.iter().map(|(_, at)| *at));
        }
        Answer::Redirect(redirect)
    }

    fn hostname<'a>(&mut self, written: &'a Located<String>) -> Option<&'a str> {
        match host_problem(written, false) {
            None => Some(written),
            Some(why) => {
                let what = format!("`{}` is not a host name: {why}", written.escape_debug());
                self.problems.push(Problem::error(what).at(written.at));
                None
            }
        }
    }

    fn path_edit(&mut self, written: &Located<PathModifier>, place: Place<'_>) -> Option<PathEdit> {
        let (full, prefix) = (&written.replace_full_path, &written.replace_prefix_match);
        let (text, other, name) = match written.kind.value {
            PathModifierType::ReplaceFullPath => (full, prefix, "replaceFullPath"),
            PathModifierType::ReplacePrefixMatch => (prefix, full, "replacePrefixMatch"),
        };
        let (Some(text), None) = (text, other) else {
            self.problems.push(
                Problem::error(format!("this type of path needs `{name}`, and nothing else"))
                    .at(written.at),
            );
            return None;
        };
        let whole = written.kind.value == PathModifierType::ReplaceFullPath;
        if !(is_path(text) || (!whole && text.is_empty()))
            || text.parse::<http::Uri>().is_err() && !text.is_empty()
        {
            let what = format!("`{}` is not a path", text.escape_debug());
            self.problems.push(Problem::error(what).at(text.at).help(
                "it starts with `/`, and has neither `//`, `.` or `..` as a segment, nor a query",
            ));
            return None;
        }
        if whole {
            return Some(PathEdit::Full(text.as_str().into()));
        }
        match place.matches {
            [] => Some(PathEdit::prefix("/", text)),
            [(Match { path: PathMatch::Prefix(matched), .. }, _)] => {
                Some(PathEdit::prefix(matched, text))
            }
            _ => {
                self.problems.push(
                    Problem::error("`ReplacePrefixMatch` needs a rule with exactly one match, of type `PathPrefix`")
                        .at(written.at)
                        .help("it is the prefix that is replaced: write a rule for each"),
                );
                None
            }
        }
    }

    fn mirror(&mut self, written: &RequestMirror, place: Place<'_>) -> Option<Mirror> {
        let fraction = match (&written.percent, &written.fraction) {
            (None, None) => Some(Fraction::ALL),
            (Some(percent), None) => self.fraction(percent.value, 100, percent.at),
            (None, Some(share)) => self.fraction(share.numerator, share.denominator, share.at),
            (Some(_), Some(share)) => {
                let what = "either `percent` or `fraction` says how many, not both";
                self.problems.push(Problem::error(what).at(share.at));
                None
            }
        };
        let target = &written.backend_ref;
        if let Some(weight) = &target.weight {
            let what = "a mirror has no weight: use `percent` or `fraction`";
            self.problems.push(Problem::error(what).at(weight.at));
        }
        if let Some(filter) = target.filters.first() {
            let problem = Problem::not_supported("a filter of copies alone").at(filter.at);
            self.problems.push(problem);
        }
        let id = self.referred(place.object, target)?;
        let known = destination(place.snapshot, id)?;
        let subset = self.subset(&target.subsets, known);
        let mut policy = Policy::clone(&known.policy);
        policy.retry.attempts = 0;
        policy.fault = None;
        policy.hedge = None;
        // Bounds the whole, and still blames no endpoint for a caller that sends slowly.
        let Timeouts { request, max_stream_duration, .. } = policy.timeouts;
        let whole = max_stream_duration.map_or(request, |most| most.min(request));
        policy.timeouts.max_stream_duration = Some(whole);
        policy.timeouts.explicit = false;
        Some(Mirror {
            destination: known.name.clone(),
            subset,
            fraction: fraction?,
            policy: Arc::new(policy),
        })
    }

    /// A share of requests.
    pub(super) fn fraction(
        &mut self,
        numerator: u32,
        denominator: u32,
        at: Location,
    ) -> Option<Fraction> {
        let fraction = Fraction::new(numerator, denominator);
        if fraction.is_none() {
            let what = format!("{numerator} of {denominator} is no share from 0 to 1");
            self.problems.push(Problem::error(what).at(at));
        }
        fraction
    }

    fn cors(&mut self, written: &CorsFilter) -> Cors {
        let mut origins = Vec::new();
        let all = written.allow_origins.iter().any(|origin| **origin == "*");
        for origin in &written.allow_origins {
            if all && written.allow_origins.len() > 1 {
                self.alone(origin, "origins");
            } else if !all {
                match Origin::parse(origin) {
                    Some(origin) => origins.push(origin),
                    None => self.problems.push(
                        Problem::error(format!("`{}` is no origin", origin.escape_debug()))
                            .at(origin.at)
                            .help("write `https://shop.example`, `https://*.shop.example:8443`, or `*` for all"),
                    ),
                }
            }
        }
        let mut cors = Cors {
            origins: (!all).then_some(origins),
            credentials: written.allow_credentials.unwrap_or_default(),
            methods: self
                .allowed(&written.allow_methods, "methods", |name| METHODS.contains(&name)),
            ..Cors::default()
        };
        let header = |name: &str| name.parse::<HeaderName>().is_ok();
        cors.headers = self.allowed(&written.allow_headers, "headers", header);
        cors.expose = self.allowed(&written.expose_headers, "headers", header);
        if let Some(age) = &written.max_age {
            cors.max_age = age.value;
            if age.value == 0 {
                let problem = Problem::error("`maxAge` is 0, the least is 1").at(age.at);
                self.problems.push(problem);
            }
        }
        cors
    }

    /// Names that are allowed, each of which must be one.
    fn allowed(
        &mut self,
        written: &[Located<String>],
        what: &str,
        is_name: impl Fn(&str) -> bool,
    ) -> Allowed {
        if written.iter().any(|name| **name == "*") {
            if let [first, _, ..] = written {
                self.alone(first, what);
            }
            return Allowed::Any;
        }
        for name in written.iter().filter(|name| !is_name(name)) {
            let what = format!("`{}` is none of the {what}", name.escape_debug());
            self.problems.push(Problem::error(what).at(name.at));
        }
        let names: Vec<&str> = written.iter().map(|name| name.as_str()).collect();
        match HeaderValue::from_str(&names.join(", ")) {
            Ok(value) if !names.is_empty() => Allowed::These(value),
            _ => Allowed::Safelisted,
        }
    }

    fn alone(&mut self, written: &Located<String>, what: &str) {
        let problem =
            Problem::error(format!("`*` stands for all {what}, beside it others say nothing"));
        self.problems.push(problem.at(written.at));
    }

    /// What the object says that a filter names.
    fn extension(&mut self, written: &Located<ExtensionRef>, route: &Object) -> Option<Direct> {
        let ours = OURS.split('/').next().unwrap_or_default();
        if written.group.value != ours || *written.kind.value != *Kind::HttpRouteFilter.name() {
            let what = format!("an extension of kind `{}`", written.kind.escape_debug());
            self.problems.push(
                Problem::not_supported(&what)
                    .at(written.kind.at)
                    .help(format!("write `group: {ours}` and `kind: HTTPRouteFilter`")),
            );
            return None;
        }
        let known: Vec<&Object> = self
            .objects(Kind::HttpRouteFilter)
            .filter(|known| known.namespace == route.namespace)
            .collect();
        let found = known.iter().find(|known| known.name.value == written.name.value);
        match found.map(|found| &found.spec) {
            Some(Spec::HttpFilter(spec)) => self.direct(&spec.direct_response),
            _ => {
                let what = format!(
                    "there is no HTTPRouteFilter `{}` in namespace `{}`",
                    written.name.escape_debug(),
                    route.namespace
                );
                let names: Vec<&str> = known.iter().map(|known| known.name.as_str()).collect();
                self.problems
                    .push(Problem::error(what).at(written.name.at).suggest(&written.name, names));
                None
            }
        }
    }

    fn direct(&mut self, written: &DirectResponse) -> Option<Direct> {
        let code = &written.status_code;
        let status = u16::try_from(code.value)
            .ok()
            .filter(|code| (200..600).contains(code))
            .and_then(|code| StatusCode::from_u16(code).ok());
        let Some(status) = status else {
            let what = format!("{} is no status from 200 to 599", code.value);
            self.tell_once(Problem::error(what).at(code.at), code.at);
            return None;
        };
        let mut direct = Direct::new(status, Bytes::new());
        if let Some(body) = &written.body {
            if body.len() > MAX_BODY {
                let what = format!("the body has {} bytes, the most is {MAX_BODY}", body.len());
                self.tell_once(Problem::error(what).at(body.at), body.at);
            } else if matches!(code.value, 204 | 205 | 304) && !body.is_empty() {
                let what = format!("an answer with status {} has no body", code.value);
                self.tell_once(Problem::error(what).at(body.at), body.at);
            }
            direct.body = Bytes::copy_from_slice(body.as_bytes());
        }
        if let Some(kind) = &written.content_type {
            match HeaderValue::from_str(kind) {
                Ok(value) if !kind.is_empty() => direct.content_type = value,
                _ => {
                    let what = format!("`{}` is no content type", kind.escape_debug());
                    self.tell_once(Problem::error(what).at(kind.at), kind.at);
                }
            }
        }
        Some(direct)
    }
}

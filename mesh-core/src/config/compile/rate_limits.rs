//! Questions for a rate limit service that can be read, and mean nothing or contradict each other.

use super::check::Check;
use crate::rate_limit::global::{
    Action, Config, MAX_ACTIONS, MAX_RATE_LIMITS, MatchType, Matcher, RequestHeaders, Rule,
};
use crate::route::Pattern;
use http::HeaderName;

const SECTION: [&str; 2] = ["rateLimit", "global"];
/// Longest domain, key and value that is written.
const MAX_TEXT: usize = 1024;
/// What a call counts at most.
const MAX_HITS: u32 = 1_000_000_000;

/// Checks whom to ask what; `inbound` if the peer is known.
pub(super) fn global(config: &Config, inbound: bool, check: &mut Check<'_>) {
    let at = |key| [SECTION[0], SECTION[1], key];
    text(&config.domain, "domain", &at("domain"), check);
    check.lasts(&at("timeout"), config.timeout);
    let limits = at("rateLimits");
    if config.rate_limits.is_empty() {
        check.wrong(
            &limits,
            "`global` asks about nothing",
            "write what to ask about in `rateLimits`",
        );
    }
    if config.rate_limits.len() > MAX_RATE_LIMITS {
        let what = format!("more than {MAX_RATE_LIMITS} of `rateLimits`");
        check.wrong(&limits, what, "every call is asked about by each of them");
    }
    for (number, one) in config.rate_limits.iter().enumerate() {
        let index = number.to_string();
        let path = [&limits[..], &[&index]].concat();
        rule(one, inbound, &path, check);
        if config.rate_limits.iter().take(number).any(|known| known.actions == one.actions) {
            let help = "the service would count each call twice";
            check.wrong(&path, "the same actions as in another of `rateLimits`", help);
        }
    }
}

fn rule(rule: &Rule, inbound: bool, path: &[&str], check: &mut Check<'_>) {
    let at = |key| [path, &[key]].concat();
    check.at_least(&at("hitsAddend"), rule.hits_addend, 1);
    if rule.hits_addend > MAX_HITS {
        let what = format!("`hitsAddend` is {}; the most is {MAX_HITS}", rule.hits_addend);
        check.wrong(&at("hitsAddend"), what, "a call counts once unless this says otherwise");
    }
    if rule.actions.is_empty() {
        let help = "`genericKey` makes one that is the same for all calls";
        check.wrong(&at("actions"), "a descriptor without `actions`", help);
    }
    if rule.actions.len() > MAX_ACTIONS {
        check.wrong(&at("actions"), format!("more than {MAX_ACTIONS} `actions`"), "write fewer");
    }
    for (number, one) in rule.actions.iter().enumerate() {
        let index = number.to_string();
        let path = [&at("actions")[..], &[&index]].concat();
        action(one, inbound, &path, check);
        if rule.actions.iter().take(number).any(|known| known == one) {
            check.wrong(&path, "the same action twice in one descriptor", "leave one of them out");
        }
    }
}

fn action(action: &Action, inbound: bool, path: &[&str], check: &mut Check<'_>) {
    let at = |keys: &[&'static str]| [path, keys].concat();
    let peerless = "a TrafficPolicy knows no peer: all its calls are our own";
    let instead = "write it in the ServerPolicy of who is called";
    match action {
        Action::RemoteAddress(_) | Action::MaskedRemoteAddress(_) | Action::SourceIdentity(_)
            if !inbound =>
        {
            check.wrong(path, peerless, instead);
        }
        Action::RequestHeaders(by) => {
            let section = "requestHeaders";
            let RequestHeaders { header_name, descriptor_key, .. } = by;
            if !is_field(header_name) {
                let what = format!("`{}` is no header name", header_name.escape_debug());
                let help = "write the name of a field, `:path`, `:method` or `:authority`";
                check.wrong(&at(&[section, "headerName"]), what, help);
            }
            key(descriptor_key, &at(&[section, "descriptorKey"]), check);
        }
        Action::QueryParameters(by) => {
            let section = "queryParameters";
            let path = at(&[section, "queryParameterName"]);
            text(&by.query_parameter_name, "queryParameterName", &path, check);
            key(&by.descriptor_key, &at(&[section, "descriptorKey"]), check);
        }
        Action::MaskedRemoteAddress(mask) => {
            let section = "maskedRemoteAddress";
            for (name, length, most) in [
                ("v4PrefixMaskLen", mask.v4_prefix_mask_len, 32),
                ("v6PrefixMaskLen", mask.v6_prefix_mask_len, 128),
            ] {
                if length > most {
                    let what = format!("`{name}` is {length}; the most is {most}");
                    check.wrong(&at(&[section, name]), what, "an address has no more bits");
                }
            }
        }
        Action::GenericKey(by) => {
            let section = "genericKey";
            let path = at(&[section, "descriptorValue"]);
            text(&by.descriptor_value, "descriptorValue", &path, check);
            key(&by.descriptor_key, &at(&[section, "descriptorKey"]), check);
        }
        Action::HeaderValueMatch(by) => {
            let section = "headerValueMatch";
            let path = at(&[section, "descriptorValue"]);
            text(&by.descriptor_value, "descriptorValue", &path, check);
            key(&by.descriptor_key, &at(&[section, "descriptorKey"]), check);
            matchers(&by.headers, &at(&[section, "headers"]), true, check);
        }
        Action::QueryParameterValueMatch(by) => {
            let section = "queryParameterValueMatch";
            let path = at(&[section, "descriptorValue"]);
            text(&by.descriptor_value, "descriptorValue", &path, check);
            key(&by.descriptor_key, &at(&[section, "descriptorKey"]), check);
            matchers(&by.query_parameters, &at(&[section, "queryParameters"]), false, check);
        }
        Action::SourceCluster(_)
        | Action::DestinationCluster(_)
        | Action::SourceIdentity(_)
        | Action::RemoteAddress(_) => {}
    }
}

fn matchers(all: &[Matcher], path: &[&str], fields: bool, check: &mut Check<'_>) {
    if all.is_empty() {
        check.wrong(path, "nothing to match", "a value for all calls is a `genericKey`");
    }
    for (number, one) in all.iter().enumerate() {
        let index = number.to_string();
        let at = |key| [path, &[&index, key]].concat();
        if fields && one.name.parse::<HeaderName>().is_err() {
            let what = format!("`{}` is no header name", one.name.escape_debug());
            check.wrong(&at("name"), what, "as in `name: x-tenant`");
        }
        if !fields {
            text(&one.name, "name", &at("name"), check);
        }
        let expression = one.value.as_ref().filter(|_| one.kind == MatchType::RegularExpression);
        if expression.is_some_and(|text| Pattern::new(text).is_err()) {
            let help = "the syntax is RE2's, which has no look-around and no back references";
            check.wrong(&at("value"), "this is no regular expression, or too large a one", help);
        }
    }
}

fn is_field(name: &str) -> bool {
    matches!(name, ":path" | ":method" | ":authority") || name.parse::<HeaderName>().is_ok()
}

fn key(value: &str, path: &[&str], check: &mut Check<'_>) {
    text(value, "descriptorKey", path, check);
}

/// A text that the service needs.
fn text(value: &str, name: &str, path: &[&str], check: &mut Check<'_>) {
    if value.is_empty() {
        check.wrong(path, format!("`{name}` is empty"), "the service refuses what has no name");
    } else if value.len() > MAX_TEXT {
        let what = format!("`{name}` is longer than {MAX_TEXT} bytes");
        check.wrong(path, what, "write a shorter one");
    }
}

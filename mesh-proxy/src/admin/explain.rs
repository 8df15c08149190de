//! Explain: what this proxy would do now with a request that is described and not sent.
//!
//! | parameter | what |
//! |---|---|
//! | `url` | of the request, with a host |
//! | `method` | `GET` unless it is told |
//! | `header` | `name: value`; may be repeated |
//! | `listener` | name of the listener that it comes to; needed where the proxy has several that send to different places |
//! | `source` | IP address of the client, for policies that hash by that |
//!
//! The page tells facts of the configuration and of endpoints, as the others do, and changes
//! nothing: no draw, no turn and no count is used up. Calls of clients are never told to them: what
//! a call would tell about the inside is for who runs the proxy.

use super::Page;
use crate::proxy::Proxy;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use mesh_core::DestinationName;
use mesh_core::explain::Asked;
use mesh_core::route::RouteRequest;
use std::net::IpAddr;

/// What is asked.
struct Question {
    method: Method,
    url: Uri,
    headers: HeaderMap,
    listener: Option<String>,
    source: Option<IpAddr>,
}

impl Question {
    fn read(query: &str) -> Result<Self, String> {
        let (mut method, mut url) = (Method::GET, None);
        let (mut headers, mut listener, mut source) = (HeaderMap::new(), None, None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let wrong = |what: &str| format!("`{}` is {what}", value.escape_debug());
            match &*key {
                "method" => method = value.parse().map_err(|_| wrong("no method"))?,
                "url" => url = Some(value.parse::<Uri>().map_err(|_| wrong("no URL"))?),
                "header" => {
                    let (name, value) = header(&value).ok_or_else(|| {
                        wrong("no header; one is written `name: value`, without control characters")
                    })?;
                    headers.try_append(name, value).map_err(|_| "too many headers")?;
                }
                "listener" => listener = Some(value.into_owned()),
                "source" => source = Some(value.parse().map_err(|_| wrong("no IP address"))?),
                _ => {
                    return Err(format!(
                        "unknown parameter `{}`; known: method, url, header, listener, source",
                        key.escape_debug()
                    ));
                }
            }
        }
        let url = url.filter(|url| url.authority().is_some());
        let url = url.ok_or("give the URL with its host: /explain?url=http://inventory/items")?;
        Ok(Self { method, url, headers, listener, source })
    }
}

fn header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    // No other space than that around a field: what breaks a line is no header.
    Some((name.trim().parse().ok()?, value.trim_matches([' ', '\t']).parse().ok()?))
}

/// The page; an error says what is wrong with the question.
pub(super) async fn page(proxy: &Proxy, query: &str) -> Result<Page, String> {
    let Question { method, url, headers, listener, source } = Question::read(query)?;
    let to = destination(proxy, listener.as_deref()).await?;
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let https = url.scheme() == Some(&::http::uri::Scheme::HTTPS);
    let request = RouteRequest::new(authority, &method, url.path(), url.query(), &headers);
    let told = proxy.mesh().explain(to.as_ref(), &Asked::new(request).https(https), source);
    let json = serde_json::to_value(&told).map_err(|error| error.to_string())?;
    Ok(Page { text: told.to_string(), json })
}

/// Where a listener sends everything, or all of them do if none is named; none if the host of each
/// request decides.
async fn destination(
    proxy: &Proxy,
    named: Option<&str>,
) -> Result<Option<DestinationName>, String> {
    let listeners = proxy.listeners().await;
    let known = || listeners.iter().map(|(own, ..)| &**own).collect::<Vec<_>>().join(", ");
    let to = match named {
        Some(name) => match listeners.iter().find(|(own, ..)| &**own == name) {
            Some((.., to)) => to.as_deref(),
            None => {
                return Err(format!(
                    "no listener `{}`; there are: {}",
                    name.escape_debug(),
                    known()
                ));
            }
        },
        None => {
            let mut all = listeners.iter().map(|(.., to)| to.as_deref());
            let first = all.next().flatten();
            if all.any(|other| other != first) {
                return Err(format!(
                    "name the listener that the request comes to (`listener`); there are: {}",
                    known()
                ));
            }
            first
        }
    };
    Ok(to.and_then(|to| to.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_or_refused_with_the_reason() {
        let query = "method=POST&url=http%3A%2F%2Fshop%2Fa%3Fb%3D1&header=x-user%3A+ada&header=X-User%3Abob\
                     &listener=in&source=10.0.0.1";
        let read = Question::read(query).expect("well formed");
        assert_eq!(
            (read.method, read.url.to_string()),
            (Method::POST, "http://shop/a?b=1".to_owned())
        );
        assert_eq!(read.headers.get_all("x-user").iter().collect::<Vec<_>>(), ["ada", "bob"]);
        assert_eq!(read.listener.as_deref(), Some("in"));
        assert_eq!(read.source, Some(IpAddr::from([10, 0, 0, 1])));
        for (query, why) in [
            ("", "give the URL"),
            ("url=/path", "give the URL"),
            ("url=http://a/%20b%00", "no URL"),
            ("url=http://a/&method=G%20T", "no method"),
            ("url=http://a/&header=nothing", "no header"),
            ("url=http://a/&header=a:%0d%0ab", "no header"),
            ("url=http://a/&source=here", "no IP address"),
            ("uri=http://a/", "unknown parameter `uri`"),
        ] {
            let Err(said) = Question::read(query) else { panic!("{query} is refused") };
            assert!(said.contains(why), "{query}: {said}");
        }
    }
}

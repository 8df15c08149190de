//! `/v1/event`: tells everyone who listens. Best effort: events are kept in memory, the newest 256.

use std::sync::Arc;

use axum::extract::State;
use base64::Engine as _;
use http::StatusCode;
use regex::RegexBuilder;
use serde::Serialize;

use super::body::Payload;
use super::query::Name;
use super::{Answer, Api, ApiError, GET, PUT, Parameters, Route};
use crate::registry::events::Event;
use crate::registry::{Indexed, Topic, View};

/// Memory that one filter's expression may take.
const FILTER: usize = 64 * 1024;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(
            PUT,
            "/v1/event/fire/{*name}",
            &["node", "service", "tag", "dc"],
            "fires an event",
            fire,
        ),
        Route::new(
            GET,
            "/v1/event/list",
            &["name", "index", "wait"],
            "lists the newest events, oldest first",
            list,
        ),
    ]
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    payload: Option<String>,
    node_filter: String,
    service_filter: String,
    tag_filter: String,
    version: u8,
    #[serde(rename = "LTime")]
    time: u64,
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        let payload = base64::engine::general_purpose::STANDARD.encode(&event.payload);
        Self {
            id: event.id,
            name: event.name,
            payload: (!payload.is_empty()).then_some(payload),
            node_filter: event.node_filter,
            service_filter: event.service_filter,
            tag_filter: event.tag_filter,
            version: 1,
            time: event.time,
        }
    }
}

async fn fire(
    State(api): State<Arc<Api>>,
    name: Name,
    parameters: Parameters,
    Payload(payload): Payload,
) -> Result<Answer, ApiError> {
    parameters.datacenter(&api)?;
    let event = Event {
        name: name.or_missing("name")?,
        payload: payload.to_vec(),
        node_filter: filter(&parameters, "node")?,
        service_filter: filter(&parameters, "service")?,
        tag_filter: filter(&parameters, "tag")?,
        ..Event::default()
    };
    if !event.tag_filter.is_empty() && event.service_filter.is_empty() {
        return Err(failed("Cannot provide tag filter without service filter"));
    }
    let event = Told::from(api.registry.fire(event));
    // Its number is that of whoever receives it.
    Ok(Answer::json(&api, &parameters, &Told { time: 0, ..event }))
}

fn filter(parameters: &Parameters, name: &str) -> Result<String, ApiError> {
    let filter = parameters.value(name).unwrap_or_default();
    match RegexBuilder::new(filter).size_limit(FILTER).build() {
        Ok(_) => Ok(filter.to_owned()),
        Err(error) => Err(failed(format!("Invalid {name} filter: {error}"))),
    }
}

fn failed(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}

async fn list(State(api): State<Arc<Api>>, parameters: Parameters) -> Result<Answer, ApiError> {
    let name = parameters.value("name");
    let read = |_: &View| {
        let mut events = api.registry.events();
        events.retain(|event| name.is_none_or(|name| event.name == name));
        let index = events.last().map_or(0, |event| event.index);
        Indexed::new(index, events)
    };
    let found = api.blocking(&parameters, &[Topic::Events], read).await?;
    let told: Vec<_> = found.value.into_iter().map(Told::from).collect();
    Ok(Answer::json(&api, &parameters, &told).at(found.index))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::Asked;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_for_events_of_a_name_gets_the_next() {
        let server = Asked::new();
        let none = server.get("/v1/event/list?name=deploy").await;
        assert_eq!((none.json(), none.index()), (json!([]), 1));
        let fired = server.ask("PUT", "/v1/event/fire/deploy?service=web&tag=v1", "v2").await;
        assert_eq!(fired.json()["Payload"], "djI=");
        let all = server.get("/v1/event/list").await;
        assert_eq!(all.json()[0]["ID"], fired.json()["ID"]);
        assert_eq!(
            (&all.json()[0]["TagFilter"], &all.json()[0]["LTime"]),
            (&json!("v1"), &json!(1))
        );

        let path = format!("/v1/event/list?name=deploy&index={}&wait=60s", all.index());
        let (waited, ..) = tokio::join!(server.get(&path), async {
            server.ask("PUT", "/v1/event/fire/other", "").await;
            server.ask("PUT", "/v1/event/fire/deploy", "").await
        });
        assert_eq!(waited.json().as_array().map(Vec::len), Some(2));
        assert!(waited.index() > all.index());
    }

    #[tokio::test]
    async fn an_event_without_a_name_or_with_a_filter_that_is_none_is_refused() {
        let server = Asked::new();
        for (path, status, text) in [
            ("/v1/event/fire/", 400, "Missing name"),
            ("/v1/event/fire/a?tag=b", 500, "Cannot provide tag filter without service filter"),
            ("/v1/event/fire/a?node=(", 500, "Invalid node filter: "),
            ("/v1/event/fire/a?node=x{1000}{1000}", 500, "Invalid node filter: "),
        ] {
            let said = server.ask("PUT", path, "").await;
            assert_eq!(said.status, status, "{path}");
            assert!(said.text.starts_with(text), "{path}: {}", said.text);
        }
    }
}

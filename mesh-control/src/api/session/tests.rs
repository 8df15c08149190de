use std::time::Duration;

use serde_json::{Value, json};

use super::super::testing::Asked;

async fn make(server: &Asked, body: Value) -> String {
    let made = server.put("/v1/session/create", body).await.json();
    made["ID"].as_str().expect("an ID").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_told_as_it_was_asked_for() {
    let server = Asked::new();
    let body = json!({"Name": "n", "TTL": "20s", "LockDelay": "3s", "Behavior": "delete"});
    let id = make(&server, body).await;
    let told = server.get(&format!("/v1/session/info/{id}")).await;
    assert_eq!(
        told.json(),
        json!([{
            "ID": id, "Name": "n", "Node": "here", "LockDelay": 3_000_000_000_u64,
            "Behavior": "delete", "TTL": "20s", "NodeChecks": [], "ServiceChecks": null,
            "CreateIndex": 1, "ModifyIndex": 1,
        }])
    );
    assert_eq!(told.index(), 1);
    for (path, found) in [
        ("/v1/session/list", 1),
        ("/v1/session/node/HERE", 1),
        ("/v1/session/node/there", 0),
        ("/v1/session/info/00000000-0000-0000-0000-000000000000", 0),
    ] {
        let told = server.get(path).await;
        assert_eq!(told.json().as_array().map(Vec::len), Some(found), "{path}");
    }
    let empty = server.ask("PUT", "/v1/session/create", "").await;
    let other = server.ask("PUT", "/v1/session/create", r#"{"LockDelay":15,"Other":1}"#).await;
    assert_eq!((empty.status, other.status), (200, 200), "{empty:?} {other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_session_is_refused_as_by_consul() {
    let server = Asked::new();
    for (body, status, text) in [
        (r#"{"Node":"none"}"#, 500, "Missing node registration"),
        (r#"{"Checks":["none"]}"#, 500, "Missing check 'none' registration"),
        (r#"{"TTL":"5s"}"#, 500, "Invalid Session TTL '5000000000', must be between [10s=24h0m0s]"),
        (r#"{"TTL":"x"}"#, 500, "Session TTL 'x' invalid: time: invalid duration \"x\""),
        (r#"{"Behavior":"x"}"#, 500, "Invalid Behavior setting 'x'"),
        (r#"{"LockDelay":"x"}"#, 400, "Request decode failed: time: invalid duration \"x\""),
    ] {
        let said = server.ask("PUT", "/v1/session/create", body).await;
        assert_eq!((said.status, said.text.as_str()), (status, text), "{body}");
    }
    for (method, path, status, text) in [
        ("GET", "/v1/session/info/", 400, "Missing session"),
        ("GET", "/v1/session/node/", 400, "Missing node name"),
        ("PUT", "/v1/session/destroy/", 400, "Missing session"),
        (
            "PUT",
            "/v1/session/renew/x",
            500,
            "failed session lookup: index error: UUID must be 36 characters",
        ),
        (
            "PUT",
            "/v1/session/renew/00000000-0000-0000-0000-000000000000",
            404,
            "Session id '00000000-0000-0000-0000-000000000000' not found",
        ),
        ("PUT", "/v1/session/destroy/00000000-0000-0000-0000-000000000000", 200, "true"),
    ] {
        let said = server.ask(method, path, "").await;
        assert_eq!((said.status, said.text.as_str()), (status, text), "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_one_sessions_until_it_gives_it_back() {
    let server = Asked::new();
    let (one, other) = (make(&server, json!({})).await, make(&server, json!({})).await);
    let put = async |query: String| server.ask("PUT", &format!("/v1/kv/l?{query}"), "v").await.text;
    let lock = async || {
        let pair = server.get("/v1/kv/l").await.json();
        (pair[0]["LockIndex"].clone(), pair[0]["Session"].clone())
    };
    assert_eq!(put(format!("acquire={one}")).await, "true");
    assert_eq!(put(format!("acquire={other}")).await, "false");
    assert_eq!(put(format!("release={other}")).await, "false");
    assert_eq!(put(format!("acquire={one}&flags=7")).await, "true", "again, by its holder");
    assert_eq!(put("flags=1".to_owned()).await, "true", "locks bind who asks for them");
    assert_eq!(lock().await, (json!(1), json!(one)));
    assert_eq!(put(format!("release={one}")).await, "true");
    assert_eq!(lock().await, (json!(1), Value::Null));
    assert_eq!(put(format!("acquire={other}")).await, "true", "no delay after a release");
    assert_eq!(lock().await, (json!(2), json!(other)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_destroyed_session_held_is_free_after_the_delay() {
    let server = Asked::new();
    let one = make(&server, json!({"LockDelay": "200ms"})).await;
    let other = make(&server, json!({"Behavior": "delete", "LockDelay": "0s"})).await;
    for (key, session) in [("a", &one), ("b", &other)] {
        let path = format!("/v1/kv/{key}?acquire={session}");
        assert_eq!(server.ask("PUT", &path, "v").await.text, "true");
    }
    server.ask("PUT", &format!("/v1/session/destroy/{other}"), "").await;
    assert_eq!(server.get("/v1/kv/b").await.status, 404, "it deletes what it held");
    let other = make(&server, json!({})).await;
    server.ask("PUT", &format!("/v1/session/destroy/{one}"), "").await;
    assert_eq!(server.get("/v1/kv/a").await.json()[0].get("Session"), None);

    let acquire = format!("/v1/kv/a?acquire={other}");
    assert_eq!(server.ask("PUT", &acquire, "v").await.text, "false", "not yet");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while server.ask("PUT", &acquire, "v").await.text != "true" {
        assert!(tokio::time::Instant::now() < deadline, "never free");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(server.get("/v1/kv/a").await.json()[0]["LockIndex"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_checks_and_its_node() {
    let server = Asked::new();
    let check = |status: &str| {
        json!({"Node": "n1", "Address": "127.0.0.1",
            "Check": {"CheckID": "alive", "Name": "alive", "Status": status}})
    };
    for how in ["check", "node"] {
        server.put("/v1/catalog/register", check("passing")).await;
        let body = json!({"Node": "n1", "Checks": ["alive"], "LockDelay": "0s"});
        let id = make(&server, body).await;
        let path = format!("/v1/kv/{how}?acquire={id}");
        assert_eq!(server.ask("PUT", &path, "v").await.text, "true");
        if how == "check" {
            server.put("/v1/catalog/register", check("critical")).await;
        } else {
            server.put("/v1/catalog/deregister", json!({"Node": "n1"})).await;
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while server.get(&format!("/v1/kv/{how}")).await.json()[0].get("Session").is_some() {
            assert!(tokio::time::Instant::now() < deadline, "still locked: {how}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(server.get(&format!("/v1/session/info/{id}")).await.json(), json!([]));
    }
    let dead = server.put("/v1/catalog/register", check("critical")).await;
    assert_eq!(dead.text, "true");
    let refused =
        server.ask("PUT", "/v1/session/create", r#"{"Node":"n1","Checks":["alive"]}"#).await;
    assert_eq!(refused.text, "Check 'alive' is in critical state");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_takes_all_its_keys_along_however_many() {
    let server = Asked::new();
    let id = make(&server, json!({"Behavior": "delete"})).await;
    for batch in 0..65 {
        let lock = |n: u32| {
            let key = format!("k/{batch}/{n}");
            json!({"KV": {"Verb": "lock", "Key": key, "Value": "", "Session": id}})
        };
        server.put("/v1/txn", (0..64).map(lock).collect()).await;
    }
    server.ask("PUT", &format!("/v1/session/destroy/{id}"), "").await;
    let left = server.get("/v1/kv/k/?keys").await;
    assert_eq!(left.status, 404, "{}", left.text);
}

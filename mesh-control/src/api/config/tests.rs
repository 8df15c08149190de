use serde_json::json;

use super::super::testing::Asked;

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_put_told_listed_and_removed() {
    let server = Asked::new();
    let none = server.get("/v1/config/service-defaults").await;
    assert_eq!((none.json(), none.index()), (json!([]), 1));
    let put = server
        .put("/v1/config", json!({"kind": "service-defaults", "name": "web", "protocol": "HTTP"}))
        .await;
    assert_eq!(put.text, "true");
    server.put("/v1/config", json!({"Kind": "service-defaults", "Name": "api"})).await;

    let one = server.get("/v1/config/service-defaults/Web").await;
    let (created, index) = (one.json()["CreateIndex"].clone(), one.index());
    assert_eq!(
        one.json(),
        json!({"Kind": "service-defaults", "Name": "web", "Protocol": "http", "MeshGateway": {},
            "Expose": {}, "CreateIndex": created, "ModifyIndex": created})
    );
    let all = server.get("/v1/config/service-defaults").await.json();
    let names: Vec<_> = all.as_array().unwrap().iter().map(|entry| &entry["Name"]).collect();
    assert_eq!(names, ["api", "web"]);
    assert_eq!(server.get("/v1/config/service-router").await.json(), json!([]));

    let path = format!("/v1/config/service-defaults?index={index}&wait=60s");
    let (waited, deleted) = tokio::join!(
        server.get(&path),
        server.ask("DELETE", "/v1/config/service-defaults/web", "")
    );
    assert_eq!((deleted.status, deleted.json()), (200, json!({})));
    assert_eq!(waited.json().as_array().map(Vec::len), Some(1));
    assert!(waited.index() > index);
    let gone = server.get("/v1/config/service-defaults/web").await;
    let text = r#"Config entry not found for "service-defaults" / "web""#;
    assert_eq!((gone.status, gone.text.as_str(), gone.index()), (404, text, waited.index()));
}

#[tokio::test(flavor = "multi_thread")]
async fn putting_and_removing_compare_if_they_are_asked_to() {
    let server = Asked::new();
    let put = async |query: &str, protocol: &str| {
        let entry = json!({"Kind": "service-defaults", "Name": "web", "Protocol": protocol});
        server.put(&format!("/v1/config{query}"), entry).await.text
    };
    assert_eq!(put("?cas=5", "http").await, "false");
    assert_eq!(put("?cas=0", "http").await, "true");
    assert_eq!(put("?cas=0", "grpc").await, "false");
    let path = "/v1/config/service-defaults/web";
    let index = &server.get(path).await.json()["ModifyIndex"];
    assert_eq!(put(&format!("?cas={index}"), "grpc").await, "true");
    let stale = server.ask("DELETE", &format!("{path}?cas={index}"), "").await;
    assert_eq!((stale.status, stale.text.as_str()), (200, "false"));
    let index = &server.get(path).await.json()["ModifyIndex"];
    assert_eq!(server.ask("DELETE", &format!("{path}?cas={index}"), "").await.text, "true");
    assert_eq!(server.get(path).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_told() {
    let server = Asked::new();
    server
        .put("/v1/config", json!({"Kind": "service-defaults", "Name": "web", "Protocol": "http"}))
        .await;
    let splits = |splits: serde_json::Value| {
        json!({"Kind": "service-splitter", "Name": "web", "Splits": splits}).to_string()
    };
    let bad = "Bad request: Request decoding failed: ";
    for (method, path, body, status, text) in [
        ("GET", "/v1/config/nope", String::new(), 500, "invalid config entry kind: nope"),
        ("GET", "/v1/config/nope/x", String::new(), 500, "invalid config entry kind: nope"),
        ("DELETE", "/v1/config/nope/x", String::new(), 400, "invalid config entry kind: nope"),
        (
            "DELETE",
            "/v1/config/service-router",
            String::new(),
            404,
            "Must provide both a kind and name to delete",
        ),
        (
            "PUT",
            "/v1/config?cas=x",
            String::new(),
            500,
            "strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        ("PUT", "/v1/config?dc=x", String::new(), 500, "No path to datacenter"),
        (
            "PUT",
            "/v1/config",
            r#"{"kind":"foo","name":"a"}"#.to_owned(),
            400,
            &format!("{bad}invalid config entry kind: foo"),
        ),
        ("PUT", "/v1/config", r#"{"kind":"service-defaults"}"#.to_owned(), 500, "Name is required"),
        ("PUT", "/v1/config", splits(json!([])), 500, "no splits configured"),
        (
            "PUT",
            "/v1/config",
            splits(json!([{"Weight": 50}, {"Weight": 40, "Service": "b"}])),
            500,
            "service-splitter/web: the weights sum up to 90, not to 100",
        ),
        (
            "PUT",
            "/v1/config",
            r#"{"Kind":"service-resolver","Name":"web","DefaultSubset":"v9"}"#.to_owned(),
            500,
            "DefaultSubset \"v9\" is not a valid subset",
        ),
    ] {
        let said = server.ask(method, path, body.clone()).await;
        assert_eq!((said.status, said.text.as_str()), (status, text), "{method} {path} {body}");
    }
    assert_eq!(server.get("/v1/config/service-splitter").await.json(), json!([]));
}

use serde_json::{Value, json};

use super::super::testing::{Asked, Said};

async fn txn(server: &Asked, operations: Value) -> Said {
    server.ask("PUT", "/v1/txn", operations.to_string()).await
}

fn kv(verb: &str, key: &str, mut more: Value) -> Value {
    more["Verb"] = verb.into();
    more["Key"] = key.into();
    json!({ "KV": more })
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_see_what_those_before_them_did() {
    let server = Asked::new();
    let done = txn(
        &server,
        json!([
            kv("set", "x/a", json!({"Value": "aGVsbG8="})),
            kv("get", "x/a", json!({})),
            kv("delete", "x/a", json!({})),
            kv("check-not-exists", "x/a", json!({})),
            kv("set", "x/b", json!({"Flags": 4})),
            kv("get-tree", "x/", json!({})),
        ]),
    )
    .await;
    let pair = |key: &str, flags: u64, value: Value| {
        json!({"KV": {"LockIndex": 0, "Key": key, "Flags": flags, "Value": value,
            "CreateIndex": 1, "ModifyIndex": 1}})
    };
    let expected = json!({"Results": [
        pair("x/a", 0, Value::Null), pair("x/a", 0, json!("aGVsbG8=")),
        pair("x/b", 4, Value::Null), pair("x/b", 4, Value::Null),
    ], "Errors": null});
    assert_eq!((done.status, done.json()), (200, expected));
    assert_eq!(server.get("/v1/kv/?keys").await.json(), json!(["x/b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_undoes_all_and_each_failure_is_told() {
    let server = Asked::new();
    server.ask("PUT", "/v1/kv/a", "1").await;
    let nobody = "00000000-0000-0000-0000-000000000000";
    let operations = [
        (kv("set", "b", json!({})), None),
        (kv("cas", "a", json!({"Index": 9})), Some("failed to set key \"a\", index is stale")),
        (kv("get", "none", json!({})), Some("key \"none\" doesn't exist")),
        (
            kv("check-index", "a", json!({"Index": 9})),
            Some("failed index check for key \"a\", current modify index 1 != 9"),
        ),
        (
            kv("check-session", "a", json!({"Session": "x"})),
            Some("failed session check for key \"a\", current session \"\" != \"x\""),
        ),
        (kv("check-not-exists", "a", json!({})), Some("key \"a\" exists")),
        (kv("lock", "a", json!({})), Some("missing session")),
        (
            kv("lock", "a", json!({"Session": nobody})),
            Some("invalid session \"00000000-0000-0000-0000-000000000000\""),
        ),
        (
            kv("unlock", "a", json!({"Session": nobody})),
            Some("failed to unlock key \"a\", lock isn't held, or is held by another session"),
        ),
        (
            kv("delete-cas", "a", json!({"Index": 9})),
            Some("failed to delete key \"a\", index is stale"),
        ),
        (kv("bogus", "a", json!({})), Some("unknown KV verb \"bogus\"")),
        (kv("set", "", json!({})), Some("Must provide key")),
    ];
    let asked: Vec<_> = operations.iter().map(|(operation, _)| operation).collect();
    let errors: Vec<_> = operations
        .iter()
        .enumerate()
        .filter_map(|(index, (_, what))| Some(json!({"OpIndex": index, "What": (*what)?})))
        .collect();
    let done = txn(&server, json!(asked)).await;
    assert_eq!((done.status, done.json()), (409, json!({"Results": null, "Errors": errors})));
    assert_eq!(server.get("/v1/kv/?keys").await.json(), json!(["a"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_reads_tells_how_fresh_it_is() {
    let server = Asked::new();
    let done = txn(&server, json!([])).await;
    let text = r#"{"Results":[],"Errors":null,"Index":0,"LastContact":0,"KnownLeader":true,"ConsistencyLevel":""}"#;
    assert_eq!((done.status, done.text.as_str()), (200, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_transaction_is_refused() {
    let server = Asked::new();
    let many: Vec<_> = (0..65).map(|n| kv("get", &n.to_string(), json!({}))).collect();
    for (body, status, text) in [
        (json!({}), 400, "Failed to parse body: "),
        (json!([{"Bogus": {}}]), 400, "Failed to parse body: "),
        (json!([{}]), 400, "Failed to parse body: an operation has no KV"),
        (
            json!([kv("set", "a", json!({"Value": "!"}))]),
            400,
            "Failed to parse body: illegal base64",
        ),
        (json!(many), 413, "Transaction contains too many operations (65 > 64)"),
        (json!([{"Node": {"Verb": "set"}}]), 501, "mesh does not serve operations on nodes"),
    ] {
        let said = txn(&server, body).await;
        assert_eq!(said.status, status, "{}", said.text);
        assert!(said.text.starts_with(text), "{}", said.text);
    }
}

use serde_json::json;

use super::super::testing::Asked;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_read() {
    let server = Asked::new();
    let put = server.ask("PUT", "/v1/kv/a/b?flags=3", "hello").await;
    assert_eq!((put.status, put.text.as_str()), (200, "true"));
    assert!(!put.headers.contains_key("x-consul-index"));
    let read = server.get("/v1/kv/a/b").await;
    let json = r#"[{"LockIndex":0,"Key":"a/b","Flags":3,"Value":"aGVsbG8=","CreateIndex":1,"ModifyIndex":1}]"#;
    assert_eq!((read.index(), read.text.as_str()), (1, json));
    let raw = server.get("/v1/kv/a/b?raw").await;
    assert_eq!((raw.index(), raw.text.as_str()), (1, "hello"));
    assert_eq!(raw.headers["content-security-policy"], "sandbox");
    let none = server.get("/v1/kv/a").await;
    assert_eq!((none.status, none.index(), none.text.as_str()), (404, 1, ""));
    server.ask("PUT", "/v1/kv/empty", "").await;
    assert_eq!(server.get("/v1/kv/empty").await.json()[0]["Value"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_value_changes_no_index() {
    let server = Asked::new();
    for (value, index) in [("x", 1), ("x", 1), ("y", 2)] {
        assert_eq!(server.ask("PUT", "/v1/kv/a", value).await.text, "true");
        assert_eq!(server.get("/v1/kv/a").await.json()[0]["ModifyIndex"], index);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_and_names_are_listed_in_order() {
    let server = Asked::new();
    for key in ["web/sub/2", "web/sub/1", "web/a", "webb", "x"] {
        server.ask("PUT", &format!("/v1/kv/{key}"), key).await;
    }
    let keys = async |query: &str| server.get(&format!("/v1/kv/{query}")).await.json();
    assert_eq!(keys("web?keys").await, json!(["web/a", "web/sub/1", "web/sub/2", "webb"]));
    assert_eq!(keys("web/?keys&separator=/").await, json!(["web/a", "web/sub/"]));
    assert_eq!(keys("?keys&separator=/").await, json!(["web/", "webb", "x"]));
    assert_eq!(keys("web?keys&separator=b").await, json!(["web/a", "web/sub", "webb"]));
    let tree = server.get("/v1/kv/web/sub?recurse").await;
    assert_eq!((tree.index(), tree.json().as_array().map(Vec::len)), (2, Some(2)));
    let none = server.get("/v1/kv/none?recurse").await;
    assert_eq!((none.status, none.text.as_str()), (404, ""));

    assert_eq!(server.ask("DELETE", "/v1/kv/web/?recurse", "").await.text, "true");
    assert_eq!(keys("?keys").await, json!(["webb", "x"]));
    assert_eq!(server.get("/v1/kv/web?recurse").await.index(), 6, "that of the deletion");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_compares_if_it_is_asked_to() {
    let server = Asked::new();
    server.ask("PUT", "/v1/kv/a", "1").await;
    let delete = async |query: &str| server.ask("DELETE", query, "").await.text;
    assert_eq!(delete("/v1/kv/a?cas=0").await, "false");
    assert_eq!(delete("/v1/kv/a?cas=9").await, "false");
    assert_eq!(delete("/v1/kv/a?cas=1").await, "true");
    assert_eq!(delete("/v1/kv/a?cas=1").await, "true", "it is not there, as it was wanted");
    assert_eq!(delete("/v1/kv/a").await, "true");
    assert_eq!(server.get("/v1/kv/a").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_told_as_consul_tells_it() {
    let server = Asked::new();
    let nobody = "00000000-0000-0000-0000-000000000000";
    for (method, path, status, text) in [
        ("PUT", "/v1/kv/", 400, "Missing key name"),
        ("GET", "/v1/kv/", 400, "Missing key name"),
        ("DELETE", "/v1/kv/", 400, "Missing key name"),
        ("PUT", "/v1/kv/a?cas=5&acquire=x", 400, "Conflicting flags: acquire=x&cas=5"),
        ("DELETE", "/v1/kv/a?cas=1&recurse", 400, "Conflicting flags: cas=1&recurse="),
        ("PUT", "/v1/kv/a?cas=x", 500, "strconv.ParseUint: parsing \"x\": invalid syntax"),
        ("PUT", "/v1/kv/a?flags=-1", 500, "strconv.ParseUint: parsing \"-1\": invalid syntax"),
        (
            "PUT",
            "/v1/kv/a?acquire=x",
            500,
            "failed session lookup: index error: UUID must be 36 characters",
        ),
        (
            "PUT",
            &format!("/v1/kv/a?acquire={nobody}"),
            500,
            &format!("invalid session \"{nobody}\""),
        ),
        ("PUT", &format!("/v1/kv/a?release={nobody}"), 200, "false"),
        ("POST", "/v1/kv/a", 405, "method POST not allowed"),
        ("PUT", "/v1/kv/a?dc=elsewhere", 500, "No path to datacenter"),
        ("DELETE", "/v1/kv/%ff?recurse", 400, "the path is not UTF-8"),
        ("PUT", "/v1/kv/a%00b", 400, "the key holds a NUL, which keys must not"),
        (
            "PUT",
            "/v1/kv/a//b",
            400,
            "the path has empty parts, `.` or `..` in it; without them it is /v1/kv/a/b",
        ),
        ("GET", "/v1/kv/%2e%2e/a?raw", 301, ""),
        ("GET", "/v1/nonsense", 404, ""),
        (
            "PUT",
            "/v1/acl/bootstrap",
            501,
            "mesh does not serve PUT /v1/acl/bootstrap; what it serves of Consul's API is listed \
             in docs/consul-compatibility.md",
        ),
    ] {
        let said = server.ask(method, path, "x").await;
        assert_eq!((said.status, said.text.as_str()), (status, text), "{method} {path}");
    }
    assert_eq!(server.get("/v1/kv/?keys").await.status, 404, "nothing of that was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_half_a_mebibyte_at_most() {
    let server = Asked::new();
    assert_eq!(server.ask("PUT", "/v1/kv/a", vec![0; 512 << 10]).await.text, "true");
    let said = server.ask("PUT", "/v1/kv/a", vec![0; (512 << 10) + 1]).await;
    assert_eq!(said.status, 413);
    assert!(said.text.ends_with("too large, max size: 524288 bytes."), "{}", said.text);
}

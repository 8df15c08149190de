use serde_json::{Value, json};

use super::super::testing::Asked;

const REGISTER: &str = "/v1/catalog/register";

async fn with_two_nodes() -> Asked {
    let asked = Asked::new();
    let web = json!({"Service": "web", "ID": "web-1", "Port": 80, "Tags": ["v1", "v2"]});
    asked
        .put(
            REGISTER,
            json!({"Node": "n1", "Address": "10.0.0.1", "NodeMeta": {"a": "b:c"},
            "Service": web, "Check": {"Name": "c", "ServiceID": "web-1", "Status": "passing"}}),
        )
        .await;
    asked
        .put(REGISTER, json!({"Node": "n2", "Address": "10.0.0.2", "Service": {"Service": "web"}}))
        .await;
    asked
}

fn names(list: &Value, key: &str) -> Vec<String> {
    let list = list.as_array().expect("a list");
    list.iter().map(|one| one[key].as_str().expect("a name").to_owned()).collect()
}

/// Word for word what Consul 1.8.7 answers.
#[tokio::test]
async fn an_instance_is_told_as_consul_tells_it() {
    let asked = with_two_nodes().await;
    let said = asked.get("/v1/catalog/service/web").await;
    assert_eq!((said.status, said.index()), (200, 2));
    assert_eq!(
        said.json()[0],
        json!({
            "ID": "", "Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1",
            "TaggedAddresses": null, "NodeMeta": {"a": "b:c"}, "ServiceKind": "",
            "ServiceID": "web-1", "ServiceName": "web", "ServiceTags": ["v1", "v2"],
            "ServiceAddress": "", "ServiceWeights": {"Passing": 1, "Warning": 1},
            "ServiceMeta": {}, "ServicePort": 80, "ServiceEnableTagOverride": false,
            "ServiceProxy": {"MeshGateway": {}, "Expose": {}}, "ServiceConnect": {},
            "CreateIndex": 1, "ModifyIndex": 1
        })
    );
    let node = json!({"ID": "", "Node": "n2", "Address": "10.0.0.2", "Datacenter": "dc1",
        "TaggedAddresses": null, "Meta": null, "CreateIndex": 2, "ModifyIndex": 2});
    let service = json!({"ID": "web", "Service": "web", "Tags": [], "Address": "", "Meta": null,
        "Port": 0, "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false,
        "Proxy": {"MeshGateway": {}, "Expose": {}}, "Connect": {},
        "CreateIndex": 2, "ModifyIndex": 2});
    let said = asked.get("/v1/catalog/node/n2").await;
    assert_eq!(said.json(), json!({"Node": node, "Services": {"web": service}}));
    let said = asked.get("/v1/catalog/node-services/n2").await;
    assert_eq!(said.json(), json!({"Node": node, "Services": [service]}));
}

#[tokio::test]
async fn what_is_not_there_is_empty_or_null_as_in_consul() {
    let asked = with_two_nodes().await;
    for (path, answer) in [
        ("/v1/catalog/service/none", json!([])),
        ("/v1/catalog/connect/web", json!([])),
        ("/v1/catalog/node/none", json!(null)),
        ("/v1/catalog/node-services/none", json!({"Node": null, "Services": null})),
        ("/v1/catalog/services?node-meta=x:y", json!({})),
        ("/v1/catalog/nodes?node-meta=x:y", json!([])),
        ("/v1/catalog/datacenters", json!(["dc1"])),
        ("/v1/catalog/services", json!({"web": ["v1", "v2"]})),
    ] {
        let said = asked.get(path).await;
        assert_eq!((said.status, said.json()), (200, answer), "{path}");
    }
    for (path, message) in [
        ("/v1/catalog/service/", "Missing service name"),
        ("/v1/catalog/connect/", "Missing service name"),
        ("/v1/catalog/node/", "Missing node name"),
        ("/v1/catalog/nodes?index=x", "Invalid index"),
    ] {
        let said = asked.get(path).await;
        assert_eq!((said.status, &*said.text), (400, message), "{path}");
    }
    let said = asked.get("/v1/catalog/nodes?dc=dc9").await;
    assert_eq!((said.status, &*said.text), (500, "No path to datacenter"));
}

#[tokio::test]
async fn a_list_is_narrowed_and_ordered() {
    let asked = with_two_nodes().await;
    for (query, nodes) in [
        ("", &["n1", "n2"][..]),
        ("?tag=V1", &["n1"]),
        ("?tag=v1&tag=v2", &["n1"]),
        ("?tag=v1&tag=v3", &[]),
        ("?node-meta=a:b:c", &["n1"]),
        ("?node-meta=a:b", &[]),
        ("?near=N2", &["n2", "n1"]),
        ("?near=elsewhere", &["n1", "n2"]),
    ] {
        let said = asked.get(&format!("/v1/catalog/service/web{query}")).await;
        assert_eq!(names(&said.json(), "Node"), nodes, "{query}");
        if !query.contains("tag") {
            let said = asked.get(&format!("/v1/catalog/nodes{query}")).await;
            assert_eq!(names(&said.json(), "Node"), nodes, "{query}");
        }
    }
}

#[tokio::test]
async fn bodies_that_are_wrong_are_refused() {
    let asked = Asked::new();
    for (body, status, message) in [
        ("", 400, "Request decode failed: "),
        ("[]", 400, "Request decode failed: "),
        (
            r#"{"Node":"n","Address":"a","Bogus":1}"#,
            400,
            "Request decode failed: unknown field \"Bogus\"",
        ),
        (
            r#"{"Node":"n","Address":"a","Service":{"Service":"w","Port":"80"}}"#,
            400,
            "Request decode failed: Service.Port",
        ),
        (r#"{"Node":"n","Address":"a","Datacenter":"dc9"}"#, 500, "No path to datacenter"),
        ("{}", 500, "Must provide node"),
    ] {
        let said = asked.ask("PUT", REGISTER, body).await;
        assert_eq!(said.status, status, "{body}: {}", said.text);
        assert!(said.text.starts_with(message), "{body}: {}", said.text);
    }
    let said = asked.ask("PUT", "/v1/catalog/deregister", "{}").await;
    assert_eq!((said.status, &*said.text), (500, "Must provide node"));
}

#[tokio::test]
async fn what_is_deregistered_is_gone() {
    let asked = with_two_nodes().await;
    let deregister = "/v1/catalog/deregister";
    let said = asked.put(deregister, json!({"Node": "n1", "ServiceID": "web-1"})).await;
    assert_eq!(said.text, "true");
    let said = asked.get("/v1/catalog/service/web").await;
    assert_eq!((names(&said.json(), "Node"), said.index()), (vec!["n2".to_owned()], 3));
    asked.put(deregister, json!({"Node": "n2"})).await;
    let said = asked.get("/v1/catalog/nodes").await;
    assert_eq!(names(&said.json(), "Node"), ["n1"]);
    asked.put(deregister, json!({"Node": "absent"})).await;
}

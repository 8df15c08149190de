use std::sync::Arc;

use serde_json::{Value, json};

use super::super::testing::Asked;

const REGISTER: &str = "/v1/catalog/register";

/// `web` on n1 (passing), n2 (warning), n3 (critical by a check of the node).
async fn with_three_nodes() -> Asked {
    let asked = Asked::new();
    for (node, of_it, of_node) in
        [("n1", "passing", "passing"), ("n2", "warning", "passing"), ("n3", "passing", "critical")]
    {
        let body = json!({"Node": node, "Address": "10.0.0.1", "NodeMeta": {"name": node},
            "Service": {"Service": "web", "Tags": [node]},
            "Checks": [
                {"CheckID": "of-it", "ServiceID": "web", "Status": of_it, "Output": "said"},
                {"CheckID": "of-node", "Status": of_node}]});
        asked.put(REGISTER, body).await;
    }
    asked
}

/// The names of the nodes, of checks as of instances.
fn nodes(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list").iter();
    let name = list.map(|one| one["Node"].as_str().or_else(|| one["Node"]["Node"].as_str()));
    name.map(|name| name.expect("a name")).collect()
}

/// Word for word what Consul 1.8.7 answers.
#[tokio::test]
async fn an_instance_is_told_with_node_and_checks() {
    let asked = with_three_nodes().await;
    let said = asked.get("/v1/health/service/web?tag=n1").await;
    assert_eq!(said.index(), 3, "the index is that of the service, not of what is left");
    let check = |id: &str, output: &str, service: &str, tags: &[&str]| {
        json!({"Node": "n1", "CheckID": id, "Name": "", "Status": "passing", "Notes": "",
            "Output": output, "ServiceID": service, "ServiceName": service, "ServiceTags": tags,
            "Type": "", "Definition": {}, "CreateIndex": 1, "ModifyIndex": 1})
    };
    assert_eq!(
        said.json(),
        json!([{
            "Node": {"ID": "", "Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1",
                "TaggedAddresses": null, "Meta": {"name": "n1"},
                "CreateIndex": 1, "ModifyIndex": 1},
            "Service": {"ID": "web", "Service": "web", "Tags": ["n1"], "Address": "",
                "Meta": null, "Port": 0, "Weights": {"Passing": 1, "Warning": 1},
                "EnableTagOverride": false, "Proxy": {"MeshGateway": {}, "Expose": {}},
                "Connect": {}, "CreateIndex": 1, "ModifyIndex": 1},
            "Checks": [check("of-it", "said", "web", &["n1"]), check("of-node", "", "", &[])],
        }])
    );
}

#[tokio::test]
async fn instances_are_narrowed() {
    let asked = with_three_nodes().await;
    for (query, wanted) in [
        ("", &["n1", "n2", "n3"][..]),
        ("?passing", &["n1"]),
        ("?passing=true", &["n1"]),
        ("?passing=0", &["n1", "n2", "n3"]),
        ("?tag=N2", &["n2"]),
        ("?node-meta=name:n3", &["n3"]),
        ("?near=n2", &["n2", "n1", "n3"]),
        ("?filter=Checks.Status%20==%20warning", &["n2"]),
        ("?filter=Node.Meta.name%20!=%20n1&passing", &[]),
    ] {
        let said = asked.get(&format!("/v1/health/service/web{query}")).await;
        assert_eq!((said.status, nodes(&said.json())), (200, wanted.to_vec()), "{query}");
    }
    for (query, status, message) in [
        ("?passing=x", 400, "Invalid value for ?passing"),
        ("?filter=Nod==x", 500, "Failed to create boolean expression evaluator: "),
        ("?stale&consistent", 400, "Cannot specify ?stale with ?consistent"),
    ] {
        let said = asked.get(&format!("/v1/health/service/web{query}")).await;
        assert_eq!(said.status, status, "{query}");
        assert!(said.text.starts_with(message), "{query}: {}", said.text);
    }
}

#[tokio::test]
async fn checks_are_listed_by_node_by_service_and_by_state() {
    let asked = with_three_nodes().await;
    for (path, wanted) in [
        ("node/n2", &["n2", "n2"][..]),
        ("node/none", &[]),
        ("checks/web", &["n1", "n2", "n3"]),
        ("checks/web?near=n3&node-meta=name:n3", &["n3"]),
        ("checks/none", &[]),
        ("state/any", &["n1", "n1", "n2", "n2", "n3", "n3"]),
        ("state/warning", &["n2"]),
        ("state/critical", &["n3"]),
        ("state/passing?node-meta=name:n1&filter=CheckID==%22of-node%22", &["n1"]),
        ("state/bogus", &[]),
        ("connect/web", &[]),
    ] {
        let said = asked.get(&format!("/v1/health/{path}")).await;
        assert_eq!((said.status, nodes(&said.json())), (200, wanted.to_vec()), "{path}");
    }
    for (path, what) in [
        ("service", "service name"),
        ("connect", "service name"),
        ("checks", "service name"),
        ("node", "node name"),
        ("state", "check state"),
    ] {
        let said = asked.get(&format!("/v1/health/{path}/")).await;
        assert_eq!((said.status, said.text), (400, format!("Missing {what}")), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_query_answers_when_a_check_changes() {
    let asked = Arc::new(with_three_nodes().await);
    let index = asked.get("/v1/health/service/web").await.index();
    let waiting = Arc::clone(&asked);
    let waits = tokio::spawn(async move {
        let path = format!("/v1/health/service/web?passing&index={index}&wait=60s");
        waiting.get(&path).await
    });
    let other = json!({"Node": "n9", "Address": "a", "Service": {"Service": "api"}});
    asked.put(REGISTER, other).await;
    let well = json!({"Node": "n2", "Address": "10.0.0.1", "NodeMeta": {"name": "n2"},
        "Check": {"CheckID": "of-it", "ServiceID": "web", "Status": "passing"}});
    asked.put(REGISTER, well).await;
    let said = waits.await.unwrap();
    assert_eq!((said.index(), nodes(&said.json())), (index + 2, vec!["n1", "n2"]));
}

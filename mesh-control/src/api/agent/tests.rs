use serde_json::json;

use super::super::testing::Asked;

const REGISTER: &str = "/v1/agent/service/register";

async fn with_web() -> Asked {
    let asked = Asked::with_agent().await;
    let web = json!({"Name": "web", "ID": "web-1", "Port": 80, "Tags": ["a"],
        "Check": {"TTL": "100s"}, "Connect": {"SidecarService": {}}});
    assert_eq!(asked.put(REGISTER, web).await.text, "");
    asked
}

/// Word for word what Consul 1.8.7 answers.
#[tokio::test]
async fn services_are_told_as_consul_tells_them() {
    let asked = with_web().await;
    let web = json!({"ID": "web-1", "Service": "web", "Tags": ["a"], "Meta": {}, "Port": 80,
        "Address": "", "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false});
    let sidecar = json!({"Kind": "connect-proxy", "ID": "web-1-sidecar-proxy",
        "Service": "web-sidecar-proxy", "Tags": ["a"], "Meta": {}, "Port": 21000, "Address": "",
        "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false,
        "Proxy": {"DestinationServiceName": "web", "DestinationServiceID": "web-1",
            "LocalServiceAddress": "127.0.0.1", "LocalServicePort": 80,
            "MeshGateway": {}, "Expose": {}}});
    let all = json!({"web-1": web, "web-1-sidecar-proxy": sidecar});
    assert_eq!(asked.get("/v1/agent/services").await.json(), all);
    let said = asked.get("/v1/agent/services?filter=Service==web").await;
    assert_eq!(said.json(), json!({"web-1": web}));

    let said = asked.get("/v1/agent/service/web-1").await;
    let hash = said.headers["x-consul-contenthash"].to_str().unwrap().to_owned();
    assert_eq!(said.json()["ContentHash"], json!(hash));
    let said = asked.get(&format!("/v1/agent/service/web-1?hash={hash}&wait=1ms")).await;
    assert_eq!(said.json()["ContentHash"], json!(hash));
    let said = asked.get("/v1/agent/service/none").await;
    assert_eq!((said.status, &*said.text), (404, "unknown service ID: none"));
}

#[tokio::test]
async fn a_service_stands_as_its_owner_says() {
    let asked = with_web().await;
    for (path, body, status, word) in [
        ("", "", 503, "critical"),
        ("pass/service:web-1?note=well", "", 200, "passing"),
        ("update/service:web-1", r#"{"Status":"warning","Output":"so-so"}"#, 429, "warning"),
        ("fail/service:web-1", "", 503, "critical"),
        ("pass/service:web-1", "", 200, "passing"),
    ] {
        if !path.is_empty() {
            let said = asked.ask("PUT", &format!("/v1/agent/check/{path}"), body).await;
            assert_eq!((said.status, &*said.text), (200, ""), "{path}");
        }
        let said = asked.get("/v1/agent/health/service/id/web-1").await;
        assert_eq!(said.status, status, "{path}: {said:?}");
        assert_eq!(said.headers["x-consul-reason"], word, "{path}");
        assert_eq!(said.json()["AggregatedStatus"], json!(word));
        let said = asked.get("/v1/agent/health/service/name/web?format=text").await;
        assert_eq!((said.status, &*said.text), (status, word), "{path}");
    }
    let said = asked.get("/v1/agent/health/service/id/none").await;
    let nobody = json!({"AggregatedStatus": "critical", "Service": null, "Checks": null});
    assert_eq!((said.status, said.json()), (404, nobody));
    assert_eq!(said.headers["x-consul-reason"], "ServiceId none not found");
    let said = asked.get("/v1/agent/health/service/name/none").await;
    assert_eq!((said.status, said.json()), (404, json!([])));
}

#[tokio::test]
async fn maintenance_begins_and_ends() {
    let asked = with_web().await;
    asked.put("/v1/agent/check/pass/service:web-1", json!(null)).await;
    let path = "/v1/agent/service/maintenance/web-1";
    asked.put(&format!("{path}?enable=true&reason=new+disk"), json!(null)).await;
    let checks = asked.get("/v1/agent/checks").await.json();
    let check = &checks["_service_maintenance:web-1"];
    assert_eq!((&check["Status"], &check["Notes"]), (&json!("critical"), &json!("new disk")));
    assert_eq!(asked.get("/v1/agent/health/service/id/web-1").await.status, 503);
    asked.put(&format!("{path}?enable=false"), json!(null)).await;
    assert_eq!(asked.get("/v1/agent/health/service/id/web-1").await.status, 200);
    asked.put("/v1/agent/maintenance?enable=true", json!(null)).await;
    assert!(asked.get("/v1/agent/checks").await.json()["_node_maintenance"].is_object());
    asked.put("/v1/agent/maintenance?enable=0", json!(null)).await;
    assert!(asked.get("/v1/agent/checks").await.json()["_node_maintenance"].is_null());
}

#[tokio::test]
async fn what_is_wrong_is_said_as_consul_says_it() {
    let asked = with_web().await;
    for (path, body, status, message) in [
        (REGISTER, "{}", 400, "Missing service name"),
        (REGISTER, r#"{"Name":"x","Bogus":1}"#, 400, "Request decode failed: unknown field"),
        ("/v1/agent/check/register", r#"{"TTL":"1s"}"#, 400, "Missing check name"),
        (
            "/v1/agent/check/register",
            r#"{"Name":"c","TTL":"1s","ServiceID":"none"}"#,
            500,
            "ServiceID \"none\" does not exist",
        ),
        ("/v1/agent/check/pass/none", "", 500, "CheckID \"none\" does not have associated TTL"),
        (
            "/v1/agent/check/update/service:web-1",
            r#"{"Status":"bogus"}"#,
            400,
            "Invalid check status: 'bogus'",
        ),
        ("/v1/agent/check/deregister/", "", 400, "CheckID missing"),
        ("/v1/agent/service/deregister/", "", 400, "ServiceID missing"),
        ("/v1/agent/service/maintenance/web-1", "", 400, "Missing value for enable"),
        (
            "/v1/agent/service/maintenance/web-1?enable=x",
            "",
            400,
            "Invalid value for enable: \"x\"",
        ),
        (
            "/v1/agent/service/maintenance/none?enable=true",
            "",
            404,
            "No service registered with ID \"none\"",
        ),
        ("/v1/agent/maintenance", "", 400, "Missing value for enable"),
    ] {
        let said = asked.ask("PUT", path, body).await;
        assert_eq!(said.status, status, "{path} {body}: {}", said.text);
        assert!(said.text.starts_with(message), "{path} {body}: {}", said.text);
    }
    // Removing what is not there is no error.
    for path in ["service/deregister/none", "check/deregister/none"] {
        assert_eq!(asked.ask("PUT", &format!("/v1/agent/{path}"), "").await.status, 200);
    }
}

#[tokio::test]
async fn the_node_tells_what_it_is() {
    let asked = with_web().await;
    let this = asked.get("/v1/agent/self").await.json();
    assert_eq!(this["Config"]["NodeName"], json!("here"));
    assert_eq!(this["Stats"]["agent"]["services"], json!("2"));
    let members = asked.get("/v1/agent/members").await.json();
    assert_eq!((&members[0]["Name"], &members[0]["Status"]), (&json!("here"), &json!(1)));
    let figures = asked.get("/v1/agent/metrics").await.json();
    assert_eq!(figures["Gauges"][0]["Name"], json!("mesh.store.revision"));
    let lines = asked.get("/v1/agent/metrics?format=prometheus").await.text;
    assert!(lines.contains("\nmesh_catalog_nodes "), "{lines}");
    asked.put("/v1/agent/reload", json!(null)).await;
}

/// What is registered at the agent is found in the catalog.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_brings_its_services_to_the_catalog() {
    let asked = with_web().await;
    let mut said = asked.get("/v1/health/service/web").await;
    for _ in 0..20 {
        if said.json()[0]["Checks"][0]["CheckID"] == json!("service:web-1") {
            break;
        }
        let path = format!("/v1/health/service/web?index={}&wait=10s", said.index());
        said = asked.get(&path).await;
    }
    assert_eq!(said.json()[0]["Checks"][0]["CheckID"], json!("service:web-1"), "{said:?}");
    asked.ask("PUT", "/v1/agent/service/deregister/web-1", "").await;
    while said.json() != json!([]) {
        let path = format!("/v1/health/service/web?index={}&wait=10s", said.index());
        let next = asked.get(&path).await;
        assert!(next.index() > said.index(), "it never went: {said:?}");
        said = next;
    }
}

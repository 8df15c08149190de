//! Sidecars: what `connect { sidecar_service {} }` of a service stands for.
//!
//! | field | where it is left out |
//! |---|---|
//! | ID | always `<ID of the service>-sidecar-proxy` |
//! | Name | `<name of the service>-sidecar-proxy` |
//! | Kind | `connect-proxy` |
//! | Tags, Meta, Address, Token | those of the service |
//! | Port | the one it had, else the first free one from 21000 to 21255 |
//! | Check, Checks | TCP to the port every 10 s, and an alias of the service |
//! | Proxy.DestinationServiceName, …ID | name and ID of the service |
//! | Proxy.LocalServiceAddress, …Port | 127.0.0.1, port of the service |
//! | DestinationType of an upstream | `service` |
//!
//! Source: Consul's "Sidecar Service Registration", and what 1.8.7 registers.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::types::{CheckDefinition, GoDuration, ServiceDefinition, ServiceKind};

/// Ports for sidecars that name none, unless settings say otherwise.
pub const SIDECAR_PORTS: RangeInclusive<u16> = 21000..=21255;

/// What the ID and the name of a sidecar end with.
pub const SIDECAR_SUFFIX: &str = "-sidecar-proxy";

/// Why a sidecar is refused. The texts are Consul's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SidecarError {
    /// It names an ID.
    #[error("A SidecarService cannot specify an ID as this is managed by the agent")]
    Id,
    /// It has a sidecar of its own.
    #[error("A SidecarService cannot have a nested SidecarService")]
    Nested,
    /// It would speak mutual TLS by itself.
    #[error("A Proxy cannot also be Connect Native, only typical services")]
    Native,
    /// No port is left.
    #[error(
        "unable to find a free port for sidecar proxy in range [{}, {}]",
        .0.start(), .0.end()
    )]
    NoPort(RangeInclusive<u16>),
}

/// The sidecar that a service asks for, with everything filled in.
///
/// `port` is asked for a port only if the definition names none; it gets the sidecar's ID, so that
/// the port that this sidecar has already can be kept. See [`free_port`].
///
/// ```
/// use mesh_control::decode;
/// use mesh_control::definition::sidecar;
///
/// let web = br#"{"Name": "web", "Port": 8080, "Connect": {"SidecarService": {}}}"#;
/// let web = decode::from_json(web).unwrap();
/// let proxy = sidecar(&web, |_id| Ok(21000)).unwrap().unwrap();
/// assert_eq!((&*proxy.id, proxy.port), ("web-sidecar-proxy", 21000));
/// assert_eq!(proxy.proxy.unwrap().local_service_port, 8080);
/// ```
///
/// # Errors
/// What Consul refuses, too; and that of `port`.
pub fn sidecar(
    service: &ServiceDefinition,
    port: impl FnOnce(&str) -> Result<u16, SidecarError>,
) -> Result<Option<ServiceDefinition>, SidecarError> {
    let Some(written) =
        service.connect.as_ref().and_then(|connect| connect.sidecar_service.as_deref())
    else {
        return Ok(None);
    };
    if !written.id.is_empty() {
        return Err(SidecarError::Id);
    }
    if let Some(connect) = &written.connect {
        if connect.sidecar_service.is_some() {
            return Err(SidecarError::Nested);
        }
        if connect.native {
            return Err(SidecarError::Native);
        }
    }
    let service_id = if service.id.is_empty() { &service.name } else { &service.id };
    let mut made = written.clone();
    made.id = format!("{service_id}{SIDECAR_SUFFIX}");
    if made.kind.is_typical() {
        made.kind = ServiceKind::ConnectProxy;
    }
    let or = |text: &mut String, other: &str| {
        if text.is_empty() {
            other.clone_into(text);
        }
    };
    or(&mut made.name, &format!("{}{SIDECAR_SUFFIX}", service.name));
    or(&mut made.address, &service.address);
    if made.token.is_empty() {
        made.token.clone_from(&service.token);
    }
    if made.tags.is_empty() {
        made.tags.clone_from(&service.tags);
    }
    if made.meta.is_empty() {
        made.meta.clone_from(&service.meta);
    }
    if made.port == 0 {
        made.port = port(&made.id)?;
    }
    let proxy = made.proxy.get_or_insert_default();
    or(&mut proxy.destination_service_name, &service.name);
    or(&mut proxy.destination_service_id, service_id);
    or(&mut proxy.local_service_address, "127.0.0.1");
    if proxy.local_service_port == 0 {
        proxy.local_service_port = service.port;
    }
    for upstream in &mut proxy.upstreams {
        or(&mut upstream.destination_type, "service");
    }
    if made.check.is_none() && made.checks.is_empty() {
        made.checks = vec![
            CheckDefinition {
                name: "Connect Sidecar Listening".to_owned(),
                tcp: format!("127.0.0.1:{}", made.port),
                interval: GoDuration::new(Duration::from_secs(10)),
                ..CheckDefinition::default()
            },
            CheckDefinition {
                name: format!("Connect Sidecar Aliasing {service_id}"),
                alias_service: service_id.clone(),
                ..CheckDefinition::default()
            },
        ];
    }
    Ok(Some(made))
}

/// The port that a sidecar had, or else the first of `range` that is not taken.
///
/// # Errors
/// When all are.
pub fn free_port(
    range: RangeInclusive<u16>,
    before: Option<u16>,
    taken: impl Fn(u16) -> bool,
) -> Result<u16, SidecarError> {
    before.or_else(|| range.clone().find(|port| !taken(*port))).ok_or(SidecarError::NoPort(range))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decode;

    fn service(value: &Value) -> ServiceDefinition {
        decode::from_value(value).unwrap()
    }

    fn made(value: &Value) -> Value {
        let made = sidecar(&service(value), |_| Ok(21000)).unwrap().unwrap();
        serde_json::to_value(made).unwrap()
    }

    #[test]
    fn an_empty_one_stands_for_all_the_defaults() {
        let web = json!({
            "Name": "web", "ID": "web-1", "Port": 8080, "Address": "10.9.9.9", "Tags": ["a"],
            "Meta": {"m": "1"}, "EnableTagOverride": true, "Weights": {"Passing": 3},
            "TaggedAddresses": {"lan": {"Address": "1.1.1.1", "Port": 2}},
            "Connect": {"SidecarService": {}},
        });
        // As Consul registers it, but for what its agent adds to every service.
        let wanted = json!({
            "Kind": "connect-proxy", "ID": "web-1-sidecar-proxy", "Name": "web-sidecar-proxy",
            "Tags": ["a"], "Meta": {"m": "1"}, "Port": 21000, "Address": "10.9.9.9",
            "Checks": [
                {"Name": "Connect Sidecar Listening", "TCP": "127.0.0.1:21000", "Interval": "10s"},
                {"Name": "Connect Sidecar Aliasing web-1", "AliasService": "web-1"},
            ],
            "Proxy": {
                "DestinationServiceName": "web", "DestinationServiceID": "web-1",
                "LocalServiceAddress": "127.0.0.1", "LocalServicePort": 8080,
                "MeshGateway": {}, "Expose": {},
            },
        });
        assert_eq!(made(&web), wanted);
        let without = json!({"Name": "web"});
        assert_eq!(sidecar(&service(&without), |_| Ok(1)), Ok(None));
    }

    #[test]
    fn what_is_written_stays() {
        let web = json!({
            "Name": "web", "Port": 8080, "Tags": ["a"], "Meta": {"m": "1"}, "Token": "t",
            "Connect": {"SidecarService": {
                "Name": "other", "Tags": ["t"], "Meta": {"n": "2"}, "Address": "127.0.0.9",
                "Port": 30000, "Check": {"TTL": "10s"}, "Kind": "mesh-gateway",
                "Proxy": {
                    "LocalServicePort": 1, "DestinationServiceName": "zz",
                    "Upstreams": [
                        {"DestinationName": "db", "LocalBindPort": 9191},
                        {"DestinationName": "q", "DestinationType": "prepared_query"},
                    ],
                },
            }},
        });
        let made = sidecar(&service(&web), |_| panic!("a port is named")).unwrap().unwrap();
        assert_eq!(made.token.reveal(), "t", "it is registered with the service's token");
        let made = serde_json::to_value(made).unwrap();
        for (path, wanted) in [
            ("/ID", json!("web-sidecar-proxy")),
            ("/Name", json!("other")),
            ("/Kind", json!("mesh-gateway")),
            ("/Tags", json!(["t"])),
            ("/Meta", json!({"n": "2"})),
            ("/Port", json!(30000)),
            ("/Check/TTL", json!("10s")),
            ("/Proxy/LocalServicePort", json!(1)),
            ("/Proxy/DestinationServiceName", json!("zz")),
            ("/Proxy/DestinationServiceID", json!("web")),
            ("/Proxy/Upstreams/0/DestinationType", json!("service")),
            ("/Proxy/Upstreams/1/DestinationType", json!("prepared_query")),
        ] {
            assert_eq!(made.pointer(path), Some(&wanted), "{path}");
        }
        assert_eq!(made.get("Checks"), None);
    }

    #[test]
    fn what_consul_refuses_is_refused() {
        for (written, told) in [
            (json!({"ID": "x"}), SidecarError::Id),
            (json!({"Connect": {"SidecarService": {}}}), SidecarError::Nested),
            (json!({"Connect": {"Native": true}}), SidecarError::Native),
            (json!({}), SidecarError::NoPort(SIDECAR_PORTS)),
        ] {
            let web = json!({"Name": "web", "Connect": {"SidecarService": written}});
            let port = |_: &str| free_port(SIDECAR_PORTS, None, |_| true);
            assert_eq!(sidecar(&service(&web), port), Err(told));
        }
        assert_eq!(
            SidecarError::NoPort(SIDECAR_PORTS).to_string(),
            "unable to find a free port for sidecar proxy in range [21000, 21255]"
        );
    }

    #[test]
    fn ports_are_kept_and_else_the_first_free_one() {
        assert_eq!(free_port(SIDECAR_PORTS, Some(21007), |_| true), Ok(21007));
        assert_eq!(free_port(SIDECAR_PORTS, None, |port| port < 21002), Ok(21002));
        assert_eq!(free_port(7..=8, None, |_| true), Err(SidecarError::NoPort(7..=8)));
    }
}

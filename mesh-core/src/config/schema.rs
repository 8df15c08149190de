//! The JSON schema of all kinds, for editors and for whoever generates configuration.

use super::consul::{ServiceResolver, ServiceRouter, ServiceSplitter};
use super::filters::HttpRouteFilterSpec;
use super::kinds::{
    GrpcRouteSpec, HttpRouteSpec, Kind, ListenerSpec, Metadata, ServiceSpec, TargetRef,
    TcpRouteSpec, TlsRouteSpec,
};
use super::server_policy::ServerPolicy;
use crate::policy::Policy;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

/// The schema of one object of any kind (JSON Schema, draft 2020-12).
#[must_use]
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let metadata = generator.subschema_for::<Metadata>();
    let mut kinds: Vec<Value> = Kind::ALL
        .into_iter()
        .map(|kind| {
            json!({
                "title": kind.name(),
                "type": "object",
                "properties": {
                    "apiVersion": { "enum": kind.versions() },
                    "kind": { "const": kind.name() },
                    "metadata": metadata.clone(),
                    "spec": spec(kind, &mut generator),
                    "status": true,
                },
                "required": ["apiVersion", "kind", "metadata", "spec"],
                "additionalProperties": false,
            })
        })
        .collect();
    kinds.push(generator.subschema_for::<ServiceRouter>().to_value());
    kinds.push(generator.subschema_for::<ServiceSplitter>().to_value());
    kinds.push(generator.subschema_for::<ServiceResolver>().to_value());
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mesh configuration",
        "oneOf": kinds,
        "$defs": generator.take_definitions(true),
    })
}

fn spec(kind: Kind, generator: &mut SchemaGenerator) -> Value {
    let of = |schema: Schema| schema.to_value();
    match kind {
        Kind::Service => of(generator.subschema_for::<ServiceSpec>()),
        Kind::HttpRoute => of(generator.subschema_for::<HttpRouteSpec>()),
        Kind::GrpcRoute => of(generator.subschema_for::<GrpcRouteSpec>()),
        Kind::TcpRoute => of(generator.subschema_for::<TcpRouteSpec>()),
        Kind::TlsRoute => of(generator.subschema_for::<TlsRouteSpec>()),
        Kind::HttpRouteFilter => of(generator.subschema_for::<HttpRouteFilterSpec>()),
        Kind::Router => of(generator.subschema_for::<ServiceRouter>()),
        Kind::Splitter => of(generator.subschema_for::<ServiceSplitter>()),
        Kind::Resolver => of(generator.subschema_for::<ServiceResolver>()),
        Kind::Listener => of(generator.subschema_for::<ListenerSpec>()),
        Kind::TrafficPolicy => with_target(generator.root_schema_for::<Policy>(), generator),
        Kind::ServerPolicy => with_target(generator.root_schema_for::<ServerPolicy>(), generator),
    }
}

/// The schema of a policy with the target that stands beside its values.
fn with_target(policy: Schema, generator: &mut SchemaGenerator) -> Value {
    let mut policy = policy.to_value();
    let target = generator.subschema_for::<TargetRef>();
    if let Some(object) = policy.as_object_mut() {
        object.remove("$schema");
        // The definitions it refers to are in the generator already, under the same names.
        object.remove("$defs");
        if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert("targetRef".to_owned(), target.to_value());
        }
        object.insert("required".to_owned(), json!(["targetRef"]));
    }
    policy
}

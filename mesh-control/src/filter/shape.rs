//! What an endpoint lists, as far as filters can ask for it.
//!
//! Source: the tables "Filtering" of Consul's API reference, and its answers for `Expose`, which
//! they leave out.

/// The type of a value, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shape {
    /// A text: equal, in (a part of it), matches.
    Text,
    /// A whole number: equal.
    Whole,
    /// True or false: equal.
    Truth,
    /// A list of texts: in, empty.
    Texts,
    /// A free-form map: in (one of its keys), empty; and what its values have.
    Map(&'static Self),
    /// A list of records: empty; and what its items have, true if it is for one of them.
    Records(&'static [Field]),
    /// A record: only what its fields have.
    Record(&'static [Field]),
}

/// A field of a record, by its name in JSON.
pub type Field = (&'static str, Shape);

use Shape::{Map, Record, Records, Text, Texts, Truth, Whole};

impl Shape {
    /// An instance, at an agent or of a node: `NodeService`.
    pub const SERVICE: Self = Record(SERVICE);
    /// A node: `Node`.
    pub const NODE: Self = Record(NODE);
    /// A check: `HealthCheck`.
    pub const CHECK: Self = Record(CHECK);
    /// An instance with its node and its checks: `/v1/health/service/…`.
    pub const SERVICE_HEALTH: Self =
        Record(&[("Node", Record(NODE)), ("Service", Record(SERVICE)), ("Checks", Records(CHECK))]);
    /// An instance beside what its node is: `/v1/catalog/service/…`.
    pub const CATALOG_SERVICE: Self = Record(&[
        ("Address", Text),
        ("Datacenter", Text),
        ("ID", Text),
        ("Node", Text),
        ("NodeMeta", Map(&Text)),
        ("ServiceAddress", Text),
        ("ServiceConnect", Record(CONNECT)),
        ("ServiceEnableTagOverride", Truth),
        ("ServiceID", Text),
        ("ServiceKind", Text),
        ("ServiceMeta", Map(&Text)),
        ("ServiceName", Text),
        ("ServicePort", Whole),
        ("ServiceProxy", Record(PROXY)),
        ("ServiceTaggedAddresses", Map(&Record(ADDRESS))),
        ("ServiceTags", Texts),
        ("ServiceWeights", Record(WEIGHTS)),
        ("TaggedAddresses", Map(&Text)),
    ]);

    /// The fields that may be named next.
    pub(super) const fn fields(&self) -> &'static [Field] {
        match self {
            Record(fields) | Records(fields) => fields,
            _ => &[],
        }
    }
}

const SERVICE: &[Field] = &[
    ("Address", Text),
    ("Connect", Record(CONNECT)),
    ("EnableTagOverride", Truth),
    ("ID", Text),
    ("Kind", Text),
    ("Meta", Map(&Text)),
    ("Port", Whole),
    ("Proxy", Record(PROXY)),
    ("Service", Text),
    ("TaggedAddresses", Map(&Record(ADDRESS))),
    ("Tags", Texts),
    ("Weights", Record(WEIGHTS)),
];

const NODE: &[Field] = &[
    ("Address", Text),
    ("Datacenter", Text),
    ("ID", Text),
    ("Meta", Map(&Text)),
    ("Node", Text),
    ("TaggedAddresses", Map(&Text)),
];

const CHECK: &[Field] = &[
    ("CheckID", Text),
    ("Name", Text),
    ("Node", Text),
    ("Notes", Text),
    ("Output", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", Texts),
    ("Status", Text),
    ("Type", Text),
];

const PROXY: &[Field] = &[
    ("DestinationServiceID", Text),
    ("DestinationServiceName", Text),
    ("Expose", Record(EXPOSE)),
    ("LocalServiceAddress", Text),
    ("LocalServicePort", Whole),
    ("MeshGateway", Record(MESH_GATEWAY)),
    ("Upstreams", Records(UPSTREAM)),
];

const UPSTREAM: &[Field] = &[
    ("Datacenter", Text),
    ("DestinationName", Text),
    ("DestinationNamespace", Text),
    ("DestinationType", Text),
    ("LocalBindAddress", Text),
    ("LocalBindPort", Whole),
    ("MeshGateway", Record(MESH_GATEWAY)),
];

const EXPOSE: &[Field] = &[("Checks", Truth), ("Paths", Records(EXPOSE_PATH))];

const EXPOSE_PATH: &[Field] = &[
    ("ListenerPort", Whole),
    ("LocalPathPort", Whole),
    ("ParsedFromCheck", Truth),
    ("Path", Text),
    ("Protocol", Text),
];

const ADDRESS: &[Field] = &[("Address", Text), ("Port", Whole)];
const CONNECT: &[Field] = &[("Native", Truth)];
const MESH_GATEWAY: &[Field] = &[("Mode", Text)];
const WEIGHTS: &[Field] = &[("Passing", Whole), ("Warning", Whole)];

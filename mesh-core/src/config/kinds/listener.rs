//! `Listener`: where a proxy accepts connections, as it is written.

use crate::config::de::Located;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `Listener`: where a proxy accepts connections, and where they go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ListenerSpec {
    /// `Inbound`: for the service beside the proxy. `Outbound`: for what it calls.
    pub(crate) direction: Direction,
    /// `ip:port`; port 0 lets the system choose.
    pub(crate) address: Located<String>,
    /// What is spoken. `auto`: HTTP, unless the Service takes bytes.
    #[serde(default)]
    pub(crate) protocol: ListenerProtocol,
    /// TLS of the listener. Without it plain text is spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<Located<ListenerTlsBody>>,
    /// The Service that everything goes to, by its routes if it has some. Without it, the
    /// authority of each request decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Located<String>>,
}

/// The side of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Direction {
    /// For the service beside the proxy.
    Inbound,
    /// For what the service beside the proxy calls.
    Outbound,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ListenerProtocol {
    /// As the Service of the listener says: bytes if it is `appProtocol: tcp`; with a `TCPRoute`
    /// attached to it, HTTP by the first bytes, and else bytes. In all other cases as `http`.
    #[default]
    Auto,
    /// HTTP/1 or HTTP/2; all else is refused.
    Http,
    /// Bytes, which nobody looks at.
    Tcp,
    /// TLS, which is not ended here: the name that the client asks for decides, by `TLSRoute`s.
    Tls,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ListenerTlsBody {
    /// PEM file of the certificate chain.
    pub(crate) cert: Located<PathBuf>,
    /// PEM file of its key.
    pub(crate) key: Located<PathBuf>,
    /// PEM file of authorities; with it, every client must show a certificate of one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_ca: Option<Located<PathBuf>>,
}

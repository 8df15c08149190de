//! Why the agent refuses, in Consul's words.

use http::StatusCode;

use super::service::list;
use crate::check::KindError;
use crate::definition::SidecarError;

/// Why the agent refused or failed. The text is the body of the API's answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A service without a name.
    #[error("Missing service name")]
    MissingServiceName,
    /// A check without a name.
    #[error("Missing check name")]
    MissingCheckName,
    /// A check that is none.
    #[error("Invalid check: {0}")]
    InvalidCheck(#[from] KindError),
    /// A service that contradicts itself; the text says how.
    #[error("{0}")]
    InvalidService(String),
    /// A script, where scripts are off.
    #[error(
        "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true"
    )]
    RemoteScripts,
    /// A script in a file, where scripts are off.
    #[error(
        "Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or 'enable_local_script_checks' to true"
    )]
    Scripts,
    /// A check of a service that this agent does not have.
    #[error("ServiceID {0:?} does not exist")]
    NoServiceOfCheck(String),
    /// A heartbeat for a check that does not wait for any.
    #[error("CheckID {0:?} does not have associated TTL")]
    NoTtl(String),
    /// Maintenance of a service that this agent does not have.
    #[error("No service registered with ID {0:?}")]
    NoService(String),
    /// A sidecar that is none, or that no port is left for.
    #[error("{}", list(&[.0.to_string()]))]
    InvalidSidecar(#[from] SidecarError),
    /// The data directory did not take it: nothing was changed.
    #[error("the data directory refuses: {0}")]
    Disk(#[from] std::io::Error),
    /// The agent is stopping.
    #[error("the agent is shutting down")]
    Stopping,
}

impl AgentError {
    /// The status code that Consul answers with.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::MissingServiceName
            | Self::MissingCheckName
            | Self::InvalidCheck(_)
            | Self::InvalidService(_)
            | Self::InvalidSidecar(_) => StatusCode::BAD_REQUEST,
            Self::NoService(_) => StatusCode::NOT_FOUND,
            Self::RemoteScripts
            | Self::Scripts
            | Self::NoServiceOfCheck(_)
            | Self::NoTtl(_)
            | Self::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

//! Upstream: what a listener's requests and connections are handed to.

use crate::connection::Dial;
use mesh_core::{DestinationName, Error, ErrorKind};
use mesh_tower::{Channel, Mesh, Relay};

/// Where a listener sends what it accepts, as one worker sees it.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    mesh: Mesh,
    destination: Option<DestinationName>,
    /// Whether the clients are strangers.
    inbound: bool,
}

impl Upstream {
    /// To one destination, by the routes attached to it alone; without one, to the authority of each
    /// request, which on an inbound listener must be a configured host: a stranger does not choose
    /// whom we call.
    pub(crate) const fn new(
        mesh: Mesh,
        destination: Option<DestinationName>,
        inbound: bool,
    ) -> Self {
        Self { mesh, destination, inbound }
    }

    /// For requests.
    pub(crate) fn channel(&self) -> Channel {
        match &self.destination {
            Some(name) => self.mesh.channel_to(name),
            None if self.inbound => self.mesh.http_configured(),
            None => self.mesh.http(),
        }
    }
}

impl Dial for Upstream {
    type Stream = Relay;

    async fn dial_tls(&self, name: &str) -> Result<Relay, Error> {
        self.mesh.relay_tls(self.destination.as_ref(), name).await
    }

    async fn dial(&self) -> Result<Relay, Error> {
        match &self.destination {
            Some(name) => self.mesh.relay(&name.to_string()).await,
            None => Err(Error::new(
                ErrorKind::NoRoute,
                "bytes that are not HTTP name no destination; give the listener a `service`",
            )),
        }
    }
}

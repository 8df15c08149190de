//! Caps: how many connections a destination and one of its endpoints may have, and how many calls
//! may wait for one.
//!
//! Asked only when a connection is to be opened, so a call that finds one pays nothing. What
//! exceeds a cap is refused at once, never queued: the permit of a connection lives in its
//! [`Transport`](super::Transport) and ends with the socket, whatever became of the connection
//! meanwhile (idle, shared, upgraded).
//!
//! Source: Envoy "Circuit breaking" (`max_connections`, `max_pending_requests`).

use mesh_core::limit::{Kind, Limits, Overflow, Permit};
use mesh_core::{Error, ErrorKind};

/// The limits of a destination, and those of one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Caps {
    pub(crate) destination: Limits,
    pub(crate) endpoint: Limits,
}

/// One place under both.
#[derive(Debug)]
pub(super) struct Permits {
    _destination: Permit,
    _endpoint: Permit,
}

impl Caps {
    /// Takes one place under both limits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overflow`] when either has none; nothing is taken then.
    pub(super) fn acquire(&self, kind: Kind) -> Result<Permits, Error> {
        let destination =
            self.destination.acquire(kind).map_err(|overflow| refused(&overflow, "limits"))?;
        let endpoint =
            self.endpoint.acquire(kind).map_err(|overflow| refused(&overflow, "endpointLimits"))?;
        Ok(Permits { _destination: destination, _endpoint: endpoint })
    }
}

#[cold]
fn refused(overflow: &Overflow, section: &str) -> Error {
    let field = match overflow.kind {
        Kind::Pending => "maxPendingRequests",
        _ => "maxConnections",
    };
    Error::new(ErrorKind::Overflow, format!("{overflow} ({section}.{field})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::limit::Config;

    fn caps(destination: u32, endpoint: u32) -> Caps {
        let limits = |most| {
            let mut config = Config::default();
            config.max_connections = most;
            Limits::new(&config)
        };
        Caps { destination: limits(destination), endpoint: limits(endpoint) }
    }

    #[test]
    fn the_error_names_the_limit_that_is_reached() {
        for (caps, message) in [
            (caps(1, 2), "the limit of 1 connections is reached (limits.maxConnections)"),
            (caps(2, 1), "the limit of 1 connections is reached (endpointLimits.maxConnections)"),
        ] {
            let held = caps.acquire(Kind::Connection).expect("room");
            let error = caps.acquire(Kind::Connection).expect_err("full");
            assert_eq!((error.kind(), error.message()), (ErrorKind::Overflow, message));
            assert!(!error.may_have_reached());
            drop(held);
            assert!(caps.acquire(Kind::Connection).is_ok());
        }
    }

    #[test]
    fn what_one_limit_refuses_takes_no_place_under_the_other() {
        let caps = caps(5, 1);
        let _held = caps.acquire(Kind::Connection).expect("room");
        assert!(caps.acquire(Kind::Connection).is_err());
        assert_eq!(caps.destination.active(Kind::Connection), 1);
    }
}

//! From a name to a watched set of endpoints; and where configuration files are
//! ([`config_files`]).
//!
//! A source implements [`Resolve`]: [`StaticList`], [`EndpointFile`], [`Dns`] for names, and with
//! feature `consul` `Consul` for services. A [`Watch`] tells the whole set at first and again whenever it differs.
//!
//! What all sources share:
//! - The last good set stays: a failure is told as [`Update::Failed`] and changes nothing else.
//! - An endpoint keeps its identity as long as its address stays, so that its history and
//!   connections survive every other change of the set.
//! - One task per watch, which ends when the watch is dropped; no queue.
//!
//! What a source believes, the destination may doubt for a while (`pick.emptySetGrace`).
//!
//! | source | looks again | believes an empty set |
//! |---|---|---|
//! | static | never | yes |
//! | file | when the file, or a link on the way to it, changes; every 10 s besides | an empty list, not an empty file |
//! | DNS | when the TTL ends, see [`dns`] | after three NXDOMAIN in a row |
//! | Consul | when something changes there | yes |

pub mod config_files;
#[cfg(feature = "consul")]
pub mod consul;
pub mod dns;
pub mod file;
mod static_list;
mod watch;

#[cfg(feature = "consul")]
pub use consul::Consul;
pub use dns::Dns;
pub use file::EndpointFile;
pub use static_list::StaticList;
pub use watch::{Failure, Nudge, Update, Watch};

use mesh_core::ErrorKind;
use mesh_core::snapshot::EndpointSource;

/// Where the endpoints of one destination come from, over time.
pub trait Resolve: Send + Sync + 'static {
    /// Starts to watch. To be called inside a tokio runtime.
    fn watch(&self) -> Watch;
}

/// The ways to those who know endpoints; cheap to clone, shared by all destinations.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sources {
    /// The name servers.
    pub dns: Dns,
    /// The Consul of sources that name one.
    #[cfg(feature = "consul")]
    pub consul: Consul,
}

impl Sources {
    /// These name servers, and the defaults of everybody else.
    #[must_use]
    pub fn new(dns: Dns) -> Self {
        Self {
            dns,
            #[cfg(feature = "consul")]
            consul: Consul::default(),
        }
    }

    /// The source that the configuration names.
    #[must_use]
    pub fn resolver(&self, source: &EndpointSource) -> Box<dyn Resolve> {
        match source {
            EndpointSource::Static(specs) => Box::new(StaticList::new(specs.clone())),
            EndpointSource::Dns { host, port } => Box::new(self.dns.resolver(host, *port)),
            EndpointSource::File(path) => Box::new(EndpointFile::new(path)),
            #[cfg(feature = "consul")]
            EndpointSource::Consul(service) => Box::new(self.consul.service(service.clone())),
            #[cfg(not(feature = "consul"))]
            EndpointSource::Consul(_) => Box::new(Unsupported(format!(
                "{source} needs feature `consul`, which this program was built without"
            ))),
            // The configuration may grow a source before this crate does.
            other => Box::new(Unsupported(format!("no source is built in for {other}"))),
        }
    }
}

/// A source that tells only why it is none.
struct Unsupported(String);

impl Resolve for Unsupported {
    fn watch(&self) -> Watch {
        Watch::of_failure(Failure::new(ErrorKind::NoHealthyEndpoint, self.0.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::EndpointSpec;

    #[tokio::test]
    async fn a_list_is_told_once_in_order_without_duplicates() {
        let spec = |text: &str| EndpointSpec::new(text.parse().expect("address"));
        let list = vec![
            spec("10.0.0.9:80"),
            spec("10.0.0.10:80").with_priority(1),
            spec("10.0.0.2:80").with_weight(7),
            spec("10.0.0.2:80"),
        ];
        let source = Sources::new(Dns::system()).resolver(&EndpointSource::Static(list));
        let mut watch = source.watch();
        let wanted = vec![
            spec("10.0.0.9:80"),
            spec("10.0.0.2:80").with_weight(7),
            spec("10.0.0.10:80").with_priority(1),
        ];
        assert_eq!(watch.changed().await, Some(Update::Endpoints(wanted)));
        assert_eq!(watch.changed().await, None);
        assert_eq!(watch.changed().await, None);
    }
}

//! Static list: endpoints that stand in the configuration.

use crate::{Resolve, Watch};
use mesh_core::EndpointSpec;

/// A fixed set of endpoints. Each watch tells it once and ends.
///
/// ```
/// use mesh_core::EndpointSpec;
/// use mesh_discovery::{Resolve, StaticList, Update};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let list = StaticList::new(vec![EndpointSpec::new("127.0.0.1:8080".parse().unwrap())]);
/// let mut watch = list.watch();
/// assert!(matches!(watch.changed().await, Some(Update::Endpoints(set)) if set.len() == 1));
/// assert_eq!(watch.changed().await, None);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StaticList {
    specs: Vec<EndpointSpec>,
}

impl StaticList {
    /// These endpoints; of several with one identity the first counts.
    #[must_use]
    pub fn new(specs: Vec<EndpointSpec>) -> Self {
        Self { specs }
    }
}

impl Resolve for StaticList {
    fn watch(&self) -> Watch {
        Watch::of_list(self.specs.clone())
    }
}

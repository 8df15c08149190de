//! Listeners of a proxy.

use super::super::kinds::{Kind, ListenerProtocol};
use super::super::parse::Spec;
use super::super::source::{Location, Origin, Origins};
use super::{Compiler, Problem};
use crate::snapshot::{ListenerConfig, ListenerTls, Snapshot};
use std::collections::HashMap;
use std::net::SocketAddr;

impl Compiler<'_> {
    pub(super) fn listeners(&mut self, snapshot: &mut Snapshot) {
        let mut taken: HashMap<SocketAddr, Location> = HashMap::new();
        for object in self.objects(Kind::Listener) {
            let Spec::Listener(spec) = &object.spec else { continue };
            let Ok(address) = spec.address.parse::<SocketAddr>() else {
                self.problems.push(
                    Problem::error(format!(
                        "`{}` is not an address like `127.0.0.1:15001`",
                        spec.address.escape_debug()
                    ))
                    .at(spec.address.at)
                    .help("`0.0.0.0` and `[::]` listen on every interface"),
                );
                continue;
            };
            if address.port() != 0
                && let Some(first) = taken.insert(address, spec.address.at)
            {
                self.problems.push(
                    Problem::error(format!("two listeners have the address {address}"))
                        .at(spec.address.at)
                        .other(first, "the other one"),
                );
            }
            let destination =
                spec.service.as_ref().map(|name| self.service(name, &object.namespace));
            if destination.is_none() && spec.protocol == ListenerProtocol::Tcp {
                self.problems.push(
                    Problem::error("a listener for bytes needs a `service`: bytes name no host")
                        .at(object.name.at),
                );
            }
            if let (ListenerProtocol::Tls, Some(tls)) = (spec.protocol, &spec.tls) {
                self.problems.push(
                    Problem::error("a listener for `protocol: tls` does not end TLS").at(tls.at),
                );
            }
            if spec.protocol == ListenerProtocol::Tls
                && !snapshot.tls.contains_key(&destination.flatten())
            {
                self.problems.push(
                    Problem::warning("no TLSRoute says where the connections of this listener go")
                        .at(object.name.at),
                );
            }
            let mut origins = Origins::default();
            let tls = spec.tls.as_ref().map(|tls| {
                let places = [
                    ("tls", Some(tls.at)),
                    ("tls.cert", Some(tls.cert.at)),
                    ("tls.key", Some(tls.key.at)),
                    ("tls.clientCa", tls.client_ca.as_ref().map(|file| file.at)),
                ];
                self.remember(&mut origins, &places);
                ListenerTls {
                    cert: tls.cert.value.clone(),
                    key: tls.key.value.clone(),
                    client_ca: tls.client_ca.as_ref().map(|file| file.value.clone()),
                }
            });
            snapshot.listeners.push(ListenerConfig {
                name: object.name.value.as_str().into(),
                direction: spec.direction,
                address,
                protocol: spec.protocol,
                tls,
                destination: destination.flatten(),
                origin: Origin::new(&self.documents.sources, object.name.at),
                origins,
            });
        }
    }
}

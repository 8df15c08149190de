//! TLS settings: the names in them are checked as strictly as those who use them do, so that what
//! is found fine here is not refused by a proxy or a client at its start.

use super::super::de::Located;
use super::super::kinds::Tls;
use super::super::source::{Location, Origin, Origins};
use super::destinations::host_problem;
use super::{Compiler, Problem};
use crate::snapshot::TlsConfig;
use crate::spiffe::SpiffeId;
use std::net::IpAddr;
use std::path::PathBuf;

impl Compiler<'_> {
    /// The settings, checked; where each is written goes to `origins`, under `tls.`.
    pub(super) fn tls(&mut self, tls: &Located<Tls>, origins: &mut Origins) -> TlsConfig {
        if tls.cert.is_some() != tls.key.is_some() {
            self.problems.push(
                Problem::error("`cert` and `key` go together: one of them is missing").at(tls.at),
            );
        }
        if let Some(name) = &tls.server_name
            && let Some(why) = name_problem(name)
        {
            let shown = name.escape_debug();
            self.problems.push(if name.contains("://") {
                Problem::error(format!("`{shown}` is neither a DNS name nor an address"))
                    .at(name.at)
                    .help("an identity goes to `subjectAltNames`; `serverName` has no scheme")
            } else {
                Problem::error(format!("`{shown}` is neither a DNS name nor an address: {why}"))
                    .at(name.at)
            });
        }
        for name in &tls.subject_alt_names {
            self.problems.extend(alt_name_problem(name));
        }
        let places = [
            ("tls", Some(tls.at)),
            ("tls.serverName", tls.server_name.as_ref().map(|name| name.at)),
            ("tls.ca", tls.ca.as_ref().map(|file| file.at)),
            ("tls.cert", tls.cert.as_ref().map(|file| file.at)),
            ("tls.key", tls.key.as_ref().map(|file| file.at)),
            ("tls.subjectAltNames", tls.subject_alt_names.first().map(|name| name.at)),
        ];
        self.remember(origins, &places);
        let file = |file: &Option<Located<PathBuf>>| file.as_ref().map(|file| file.value.clone());
        TlsConfig {
            server_name: tls.server_name.as_ref().map(|name| name.value.clone()),
            ca: file(&tls.ca),
            cert: file(&tls.cert),
            key: file(&tls.key),
            alpn: Vec::new(),
            subject_alt_names: tls
                .subject_alt_names
                .iter()
                .map(|name| name.value.clone())
                .collect(),
        }
    }

    /// Notes where settings are written, for whoever finds only later that one cannot be used.
    pub(super) fn remember(&self, origins: &mut Origins, places: &[(&str, Option<Location>)]) {
        for (path, at) in places {
            if let Some(at) = at {
                origins.insert((*path).to_owned(), Origin::new(&self.documents.sources, *at));
            }
        }
    }
}

fn alt_name_problem(name: &Located<String>) -> Option<Problem> {
    let shown = name.escape_debug();
    let problem = if name.contains("://") {
        Problem::error(format!("`{shown}` is {}", name.parse::<SpiffeId>().err()?))
            .help("an identity is written like `spiffe://trust-domain/path`")
    } else {
        let why = name_problem(name)?;
        Problem::error(format!("`{shown}` is neither a DNS name nor an address: {why}"))
    };
    Some(problem.at(name.at))
}

/// Why a text is no name that a certificate can bear, if it is none.
pub(super) fn name_problem(name: &str) -> Option<&'static str> {
    if name.parse::<IpAddr>().is_ok() {
        return None;
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    host_problem(name, false).or_else(|| {
        last.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some("its last label is a number, and it is not an IP address")
    })
}

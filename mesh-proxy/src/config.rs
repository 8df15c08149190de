//! Config: the flags as the same documents that a file holds, and the listeners they ask for.

use crate::args::{Args, Protocol, Upstream, UpstreamProtocol};
use crate::detect::Takes;
use mesh_core::DestinationName;
use mesh_core::config::{self, AppProtocol, Diagnostic, Direction, ListenerProtocol, Source};
use mesh_core::snapshot::{DestinationId, ListenerConfig, ListenerTls, Snapshot};
use mesh_discovery::config_files::{self, ReadError};
use mesh_tower::tls;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// The name that messages give to what the flags say.
const FLAGS: &str = "<command line>";

/// The YAML that the flags stand for; `None` if they name no listener.
pub(crate) fn from_flags(args: &Args) -> Option<String> {
    let (listen, upstream) = (args.listen?, args.upstream.as_ref()?);
    let mut yaml = String::new();
    // Writing to a string cannot fail.
    let _ = write_documents(&mut yaml, args, listen, upstream);
    Some(yaml)
}

fn write_documents(
    yaml: &mut String,
    args: &Args,
    listen: SocketAddr,
    upstream: &Upstream,
) -> std::fmt::Result {
    writeln!(yaml, "apiVersion: mesh/v1\nkind: Service\nmetadata:\n  name: upstream\nspec:")?;
    if args.upstream_protocol == Some(UpstreamProtocol::Http2) {
        writeln!(yaml, "  appProtocol: http2")?;
    }
    match upstream {
        Upstream::Addresses(addresses) => {
            writeln!(yaml, "  endpoints:\n    static:")?;
            for address in addresses {
                writeln!(yaml, "    - {}", quoted(&address.to_string()))?;
            }
        }
        Upstream::Dns(name) => writeln!(yaml, "  endpoints:\n    dns: {}", quoted(name))?,
    }
    let files = [
        ("ca", &args.upstream_ca, "--upstream-ca"),
        ("cert", &args.upstream_cert, "--upstream-cert"),
        ("key", &args.upstream_key, "--upstream-key"),
    ];
    let mut tls: Vec<String> = files
        .iter()
        .filter_map(|(key, file, flag)| {
            Some(written(key, &quoted(&file.as_ref()?.to_string_lossy()), flag))
        })
        .collect();
    if let Some(name) = &args.upstream_name {
        tls.push(written("subjectAltNames", &format!("[{}]", quoted(name)), "--upstream-name"));
    }
    if !tls.is_empty() {
        writeln!(yaml, "  tls:\n{}", tls.join("\n"))?;
    } else if args.upstream_tls {
        writeln!(yaml, "  tls: {{}}")?;
    }
    let protocol = match args.protocol.unwrap_or(Protocol::Auto) {
        Protocol::Auto => "auto",
        Protocol::Http => "http",
        Protocol::Tcp => "tcp",
    };
    writeln!(
        yaml,
        "---\napiVersion: mesh/v1\nkind: Listener\nmetadata:\n  name: main\nspec:\n  direction: Inbound\n  address: {}\n  protocol: {protocol}\n  service: upstream",
        quoted(&listen.to_string()),
    )?;
    let files = [
        ("cert", &args.tls_cert, "--tls-cert"),
        ("key", &args.tls_key, "--tls-key"),
        ("clientCa", &args.tls_client_ca, "--tls-client-ca"),
    ];
    if args.tls_cert.is_some() {
        writeln!(yaml, "  tls:")?;
    }
    for (key, file, flag) in files {
        if let Some(file) = file {
            writeln!(yaml, "{}", written(key, &quoted(&file.to_string_lossy()), flag))?;
        }
    }
    Ok(())
}

/// A line under `tls:` that names its flag, for messages that show the line.
fn written(key: &str, value: &str, flag: &str) -> String {
    format!("    {key}: {value}  # {flag}")
}

/// A string in double quotes; what JSON escapes, YAML reads the same.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// All documents: the flags' first, then the files in their order.
///
/// # Errors
/// When a file cannot be read; the message names it.
pub(crate) fn sources(args: &Args) -> Result<Vec<Source>, ReadError> {
    let mut sources: Vec<Source> =
        from_flags(args).map(|yaml| Source::new(FLAGS, yaml)).into_iter().collect();
    sources.extend(config_files::read(&files(args))?);
    Ok(sources)
}

/// The files to read: those named, else the one in a usual place where no flag says what to do.
pub(crate) fn files(args: &Args) -> Vec<PathBuf> {
    match args.listen {
        Some(_) => config_files::named(&args.config),
        None => config_files::find(&args.config),
    }
}

/// The snapshot of the documents, to see what they ask for before anything is applied.
///
/// # Errors
/// When a document is wrong.
pub(crate) fn snapshot(sources: &[Source]) -> Result<Snapshot, config::Errors> {
    config::compile(&config::parse(sources)?, 0)
}

/// TLS of a listener, from its files.
///
/// # Errors
/// When a file cannot be used: which, where it is written, why, and what to do.
pub(crate) fn server_tls(
    listener: &ListenerConfig,
    sources: &[Source],
) -> Result<Option<Arc<tls::Server>>, Diagnostic> {
    let Some(files) = &listener.tls else { return Ok(None) };
    match tls::Server::from_files(&files.cert, &files.key, files.client_ca.clone()) {
        Ok(server) => Ok(Some(Arc::new(server))),
        Err(error) => {
            let setting = format!("tls.{}", error.setting());
            let what = format!(
                "`{setting}` of Listener `{}` cannot be used: {}",
                listener.name,
                error.reason()
            );
            let origin = listener.origins.of(&setting);
            Err(Diagnostic::at(sources, &origin, what).with_help(error.help()))
        }
    }
}

/// A listener to run. Two that are equal are the same listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: Arc<str>,
    pub(crate) address: SocketAddr,
    pub(crate) takes: Takes,
    pub(crate) tls: Option<ListenerTls>,
    pub(crate) destination: Option<DestinationName>,
    /// Whether its clients are strangers.
    pub(crate) inbound: bool,
}

/// The listeners that a snapshot asks for.
pub(crate) fn listeners(snapshot: &Snapshot) -> Vec<Wanted> {
    let wanted = |listener: &ListenerConfig| Wanted {
        name: Arc::clone(&listener.name),
        address: listener.address,
        takes: takes(snapshot, listener),
        tls: listener.tls.clone(),
        destination: listener
            .destination
            .and_then(|id| snapshot.destinations().get(id.index()))
            .map(|destination| destination.name.clone()),
        inbound: listener.direction == Direction::Inbound,
    };
    snapshot.listeners().iter().map(wanted).collect()
}

/// What a listener takes. Bytes need a word that says so: they pass by all rules for requests.
fn takes(snapshot: &Snapshot, listener: &ListenerConfig) -> Takes {
    let is_tcp = |id: DestinationId| {
        let destination = snapshot.destinations().get(id.index());
        destination.is_some_and(|known| known.app_protocol == AppProtocol::Tcp)
    };
    match (listener.protocol, listener.destination) {
        (ListenerProtocol::Tcp, _) => Takes::Bytes,
        (ListenerProtocol::Tls, _) => Takes::Tls,
        (ListenerProtocol::Auto, Some(id)) if is_tcp(id) => Takes::Bytes,
        (ListenerProtocol::Auto, Some(id)) if snapshot.has_tcp_route(id) => Takes::Either,
        _ => Takes::Http,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::path::Path;

    fn args(flags: &[&str]) -> Args {
        Args::try_parse_from(std::iter::once("mesh-proxy").chain(flags.iter().copied())).unwrap()
    }

    #[test]
    fn flags_are_documents_like_any_other() {
        let flags = args(&[
            "--listen",
            "127.0.0.1:8080",
            "--upstream",
            "127.0.0.1:1,[::1]:2",
            "--upstream-protocol",
            "http2",
            "--protocol",
            "http",
            "--tls-cert",
            "a\"b.crt",
            "--tls-key",
            "k",
            "--tls-client-ca",
            "ca",
            "--upstream-ca",
            "up",
            "--upstream-name",
            "spiffe://mesh.test/ns/a/sa/b",
        ]);
        let yaml = from_flags(&flags).unwrap();
        let snapshot = snapshot(&[Source::new(FLAGS, yaml.as_str())]).unwrap_or_else(|errors| {
            panic!("{errors}\n{yaml}");
        });
        let [listener] = &listeners(&snapshot)[..] else { panic!("{yaml}") };
        assert_eq!(listener.address, ([127, 0, 0, 1], 8080).into());
        assert_eq!(listener.takes, Takes::Http);
        assert_eq!(listener.destination, "upstream".parse().ok());
        let tls = listener.tls.as_ref().unwrap();
        assert_eq!(tls.cert, Path::new("a\"b.crt"));
        assert_eq!(tls.client_ca.as_deref(), Some(Path::new("ca")));
        let tls = snapshot.destinations()[0].tls.as_ref().unwrap();
        assert_eq!(tls.subject_alt_names, ["spiffe://mesh.test/ns/a/sa/b"]);
    }

    #[test]
    fn bytes_are_taken_only_where_something_says_so() {
        let read = |protocol: &str, service: &str, more: &str| {
            let yaml = format!(
                "apiVersion: mesh/v1\nkind: Service\nmetadata: {{ name: app }}\n\
                 spec: {{ endpoints: {{ static: ['127.0.0.1:9'] }}{service} }}\n---\n\
                 apiVersion: mesh/v1\nkind: Listener\nmetadata: {{ name: main }}\n\
                 spec: {{ direction: Inbound, address: '127.0.0.1:0', protocol: {protocol}, \
                 service: app }}\n{more}"
            );
            let snapshot = snapshot(&[Source::new("test", yaml)]).unwrap();
            listeners(&snapshot)[0].takes
        };
        let route = |kind: &str, parent: &str| {
            format!(
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n\
                 metadata: {{ name: r }}\nspec:\n  parentRefs: [{{ kind: Service, name: {parent} }}]\n  \
                 rules: [{{ backendRefs: [{{ name: app }}] }}]\n"
            )
        };
        let other = "---\napiVersion: mesh/v1\nkind: Service\nmetadata: { name: other }\n\
                     spec: { endpoints: { static: ['127.0.0.1:9'] }, appProtocol: tcp }\n"
            .to_owned();
        for (protocol, service, more, expected) in [
            ("auto", "", String::new(), Takes::Http),
            ("auto", ", appProtocol: grpc", String::new(), Takes::Http),
            ("auto", "", route("HTTPRoute", "app"), Takes::Http),
            ("auto", "", other.clone() + &route("TCPRoute", "other"), Takes::Http),
            ("auto", "", route("TCPRoute", "app"), Takes::Either),
            ("auto", ", appProtocol: tcp", String::new(), Takes::Bytes),
            ("auto", ", appProtocol: tcp", route("TCPRoute", "app"), Takes::Bytes),
            ("http", ", appProtocol: tcp", route("TCPRoute", "app"), Takes::Http),
            ("tcp", "", String::new(), Takes::Bytes),
        ] {
            assert_eq!(read(protocol, service, &more), expected, "{protocol}{service} {more}");
        }
    }

    #[test]
    fn a_name_is_resolved_by_dns() {
        let flags = args(&["--listen", "127.0.0.1:0", "--upstream", "dns://inventory:80"]);
        let yaml = from_flags(&flags).unwrap();
        assert!(yaml.contains("dns: \"inventory:80\""), "{yaml}");
        assert!(snapshot(&[Source::new(FLAGS, yaml)]).is_ok());
        assert_eq!(from_flags(&args(&[])), None);
    }
}

//! `mesh explain`: why a request goes where it goes, by files or by a running proxy.

use crate::ask::{self, Question};
use crate::load::{LoadError, load};
use crate::{Output, print, print_json};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use mesh_core::explain::{Asked, Explanation, explain};
use mesh_core::route::RouteRequest;
use mesh_core::snapshot::Snapshot;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Tell why a request goes where it goes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    mesh explain GET http://inventory/items/7 --config mesh.yaml\n  \
    mesh explain POST http://greeter/hello.Greeter/SayHello \\\n    \
    -H 'content-type: application/grpc' -o json\n  \
    mesh explain --proxy 127.0.0.1:19000 GET http://inventory/items/7")]
pub(crate) struct Args {
    /// Method of the request.
    method: Method,
    /// Its URL; the host decides on the destination.
    url: Uri,
    /// A header of the request; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Files; `-` is standard input. By default those of MESH_CONFIG, or mesh.yaml in a usual place.
    #[arg(short, long, value_name = "FILE", value_delimiter = ',')]
    config: Vec<PathBuf>,
    /// Ask a running proxy, by the address of its admin pages, what it would do now; nothing is sent.
    #[arg(long, value_name = "ADDR", conflicts_with = "config")]
    proxy: Option<SocketAddr>,
    /// The proxy's listener that the request comes to; by default the one it has.
    #[arg(long, value_name = "NAME", requires = "proxy")]
    listener: Option<String>,
    /// Tell the defaults of the policy too, not only what is written; JSON always has them.
    #[arg(long)]
    all: bool,
    /// How the result is printed.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a header is written `name: value`")?;
    let name = name.trim().parse().map_err(|_| format!("`{}` is no header name", name.trim()))?;
    let value = value.trim().parse().map_err(|_| "the value holds control characters")?;
    Ok((name, value))
}

pub(crate) fn run(args: &Args) -> ExitCode {
    if args.url.authority().is_none() {
        eprintln!("error: the URL names no host: write it like http://inventory/items");
        return ExitCode::from(2);
    }
    let told = match args.proxy {
        Some(admin) => ask::ask(
            admin,
            &Question {
                method: &args.method,
                url: &args.url,
                headers: &args.headers,
                listener: args.listener.as_deref(),
            },
        )
        .map_err(|error| format!("error: {error}")),
        None => by_files(args),
    };
    let told = match told {
        Ok(told) => told,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match args.output {
        Output::Json => {
            print_json(&told);
        }
        Output::Text if args.all => print(&format!("{told:#}")),
        Output::Text => print(&told.to_string()),
    }
    if told.is_sent() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn by_files(args: &Args) -> Result<Explanation, String> {
    let snapshot = match load(&args.config) {
        Ok((_, snapshot)) => snapshot,
        Err(LoadError::NoFile) => {
            eprintln!("note: no configuration file was found: this is what holds without one");
            Snapshot::empty()
        }
        Err(error) => return Err(error.to_string()),
    };
    let headers: HeaderMap =
        args.headers.iter().cloned().fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        });
    let authority = args.url.authority().map_or("", |authority| authority.as_str());
    let (path, query) = (args.url.path(), args.url.query());
    let request = RouteRequest::new(authority, &args.method, path, query, &headers);
    let https = args.url.scheme() == Some(&http::uri::Scheme::HTTPS);
    Ok(explain(&snapshot, &Asked::new(request).https(https), |_, _| None))
}

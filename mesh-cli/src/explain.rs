//! `mesh explain`: why a request goes where it goes.

use crate::load::{LoadError, load};
use crate::{Output, print, print_json};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use mesh_core::explain::explain;
use mesh_core::route::RouteRequest;
use mesh_core::snapshot::Snapshot;
use std::path::PathBuf;
use std::process::ExitCode;

/// Tell why a request goes where it goes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    mesh explain GET http://inventory/items/7 --config mesh.yaml\n  \
    mesh explain POST http://greeter/hello.Greeter/SayHello \\\n    \
    -H 'content-type: application/grpc' -o json")]
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
    let Some(authority) = args.url.authority() else {
        eprintln!("error: the URL names no host: write it like http://inventory/items");
        return ExitCode::from(2);
    };
    let snapshot = match load(&args.config) {
        Ok((_, snapshot)) => snapshot,
        Err(LoadError::NoFile) => {
            eprintln!("note: no configuration file was found: this is what holds without one");
            Snapshot::empty()
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let headers: HeaderMap =
        args.headers.iter().cloned().fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        });
    let request = RouteRequest::new(
        authority.as_str(),
        &args.method,
        args.url.path(),
        args.url.query(),
        &headers,
    );
    let https = args.url.scheme() == Some(&http::uri::Scheme::HTTPS);
    let told = explain(&snapshot, &request, https, |_| None);
    match args.output {
        Output::Json => {
            print_json(&told);
        }
        Output::Text => print(&told.to_string()),
    }
    if told.is_sent() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

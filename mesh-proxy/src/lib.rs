//! A thin proxy made of the mesh's layers, for services in any language.
//!
//! In the order in which bytes meet them:
//!
//! | file | what |
//! |---|---|
//! | `args`, `run`, `logs` | the command line and the process |
//! | `config`, `proxy`, `reload` | what is in force, and how it changes |
//! | `worker` | one thread with all its own |
//! | `listener` | one accept loop per worker and address |
//! | `connection` | one client: what it speaks, its timer, its end |
//! | `detect` | what a client speaks, by its first bytes |
//! | `framing`, `gate` | strict HTTP/1 framing, in front of the HTTP engine |
//! | `http` | one request, from head to head |
//! | `path`, `hygiene` | one canonical form for what is passed on |
//! | `inbound` | the `ServerPolicy` of what is listened for |
//! | `body`, `tunnel` | bytes on their way through |
//! | `served`, `access_log`, `counters` | what is told about it |
//! | `upstream` | where it goes: the mesh's channel |
//! | `admin` | pages for people and scrapers |
//! | `drain` | the end |

mod access_log;
mod admin;
pub mod args;
mod body;
mod config;
mod connection;
mod counters;
mod detect;
mod drain;
mod framing;
mod gate;
mod hello;
mod http;
mod hygiene;
mod inbound;
mod listener;
pub mod logs;
mod proxy;
mod reload;
mod run;
mod served;
mod tunnel;
mod upstream;
mod worker;

pub use access_log::Format;
pub use args::Args;
pub use proxy::{Proxy, StartError};
pub use run::run;

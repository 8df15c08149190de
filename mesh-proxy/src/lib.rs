//! A thin proxy made of the mesh's layers, for services in any language.
//!
//! In the order in which bytes meet them:
//!
//! | file | what |
//! |---|---|
//! | `detect` | what a client speaks, by its first bytes |
//! | `framing`, `gate` | strict HTTP/1 framing, in front of the HTTP engine |
//! | `path`, `hygiene` | one canonical form for what is passed on |

mod detect;
mod framing;
mod gate;
mod hygiene;
mod path;

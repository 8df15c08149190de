//! Affinity: where a call belongs by what it brings, found once for all its attempts.
//!
//! *Hash*: the key of [`CallOptions`], else what the policy's `hash` entries find; the policies
//! `RingHash` and `Maglev` pick by it, and under others it is not asked for. *Session*: the endpoint that the call's cookie names.
//! The answer sets the cookies that were made up for the call, and that of the session when it came
//! from another endpoint than the call named.
//!
//! The source address is that of the peer whom the proxy serves, in process that of the caller of
//! the request being served, if there is one. What forwarded fields say of it is not believed.
//!
//! Cost: a look at the policy, and one allocation for a call that has either.
//! Source: `mesh_core::hash`, `mesh_core::affinity`.

use crate::call_options::CallOptions;
use crate::draws::{CallDraws, Decision};
use crate::server::Context;
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue, Request};
use mesh_core::Policy;
use mesh_core::hash::{self, Input, Source};
use mesh_core::pick::{PickArgs, Pinned};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where a call belongs.
#[derive(Debug)]
pub(crate) struct Affinity {
    hash: Option<u64>,
    /// For the answer: cookies that were made up for this call.
    made: Vec<HeaderValue>,
    session: Option<Session>,
}

/// Who asks where a call belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) options: Option<&'a CallOptions>,
    /// Its caller, if that is not to be asked of the request being served.
    pub(crate) source: Option<IpAddr>,
    pub(crate) draws: CallDraws,
}

impl Asked<'_> {
    /// The key that the caller gives.
    fn key(&self) -> Option<u64> {
        self.options.and_then(|options| options.hash)
    }
}

/// The hash of a call.
#[derive(Debug)]
pub(crate) struct Hashed {
    /// `None`: it has nothing that is asked for.
    pub(crate) hash: Option<u64>,
    /// Cookies that were made up for it.
    made: Vec<HeaderValue>,
}

impl Hashed {
    /// By the caller's own key, or else by `entries`.
    pub(crate) fn of<B>(request: &Request<B>, entries: &[hash::Config], by: &Asked<'_>) -> Self {
        if let Some(key) = by.key() {
            return Self { hash: Some(key), made: Vec::new() };
        }
        let asked = entries.iter().any(|entry| entry.source == Source::SourceAddress);
        let source = by.source.or_else(|| Affinity::caller().filter(|_| asked));
        let input =
            Input::new(request.headers()).with_query(request.uri().query()).with_source(source);
        let hashed = hash::hash(entries, &input, &mut by.draws.of(Decision::Hash));
        Self { hash: hashed.hash, made: hashed.cookies }
    }
}

/// The session of a call, perhaps a new one.
#[derive(Debug)]
struct Session {
    /// The endpoint that the call names.
    named: Option<SocketAddr>,
}

impl Affinity {
    /// Where a call belongs; `None` if nothing says so. `hashed` is what its route has hashed
    /// already.
    pub(crate) fn of<B>(
        request: &Request<B>,
        policy: &Policy,
        asked: &Asked<'_>,
        hashed: Option<Hashed>,
    ) -> Option<Arc<Self>> {
        let hashed = match hashed {
            // Nothing else asks for it.
            None if policy.pick.policy.is_by_hash() => {
                let wanted = !policy.hash.is_empty() || asked.key().is_some();
                wanted.then(|| Hashed::of(request, &policy.hash, asked))
            }
            hashed => hashed,
        };
        if hashed.is_none() && policy.affinity.is_none() {
            return None;
        }
        let (hash, made) = hashed.map_or((None, Vec::new()), |own| (own.hash, own.made));
        let affinity = policy.affinity.as_ref();
        let session = affinity
            .filter(|config| config.cookie.covers(request.uri().path()))
            .map(|config| Session { named: config.read(request.headers()) });
        Some(Arc::new(Self { hash, made, session }))
    }

    /// Who sent the request being served.
    pub(crate) fn caller() -> Option<IpAddr> {
        Context::with(|context| context.peer.as_ref().map(|peer| peer.address().ip())).flatten()
    }

    /// The hash.
    pub(crate) const fn hash(&self) -> Option<u64> {
        self.hash
    }

    /// Adds what it says to a pick; the policy is that which it was found by.
    pub(crate) fn pick<'a>(&self, mut args: PickArgs<'a>, policy: &'a Policy) -> PickArgs<'a> {
        if let Some(hash) = self.hash {
            args = args.with_hash(hash);
        }
        let named = self.session.as_ref().and_then(|session| session.named);
        match (named, &policy.affinity) {
            (Some(address), Some(config)) => args.with_pinned(Pinned::new(address, config)),
            _ => args,
        }
    }

    /// Sets the cookies of an answer that came from an endpoint with these addresses.
    pub(crate) fn answer(
        &self,
        headers: &mut HeaderMap,
        policy: &Policy,
        addresses: &[SocketAddr],
    ) {
        for made in &self.made {
            headers.append(SET_COOKIE, made.clone());
        }
        let (Some(session), Some(config)) = (&self.session, &policy.affinity) else { return };
        let here = session.named.is_some_and(|named| addresses.contains(&named));
        if let (false, Some(address)) = (here, addresses.first())
            && let Some(set) = config.set(*address)
        {
            headers.append(SET_COOKIE, set);
        }
    }
}

//! Pick: an endpoint for an attempt, or the error that says why there is none.

use super::{Destination, Endpoint, Resolution};
use crate::workers::Workers;
use mesh_core::pick::{Labels, NoPick, PickArgs, Reason};
use mesh_core::{Draw, EndpointSet, Error, ErrorKind, Member, Timestamp};
use std::sync::Arc;

impl Destination {
    /// Waits until discovery has spoken for the first time. Where health checks decide who may be
    /// picked, waits for the first of them as well.
    pub(crate) async fn resolved(&self) {
        let mut resolution = self.resolution.subscribe();
        // An error means that the sender is gone, and it lives in `self`.
        let _ = resolution.wait_for(|seen| !matches!(seen, Resolution::Waiting)).await;
        loop {
            let seen = self.checks.seen();
            if !self.awaits_check() {
                return;
            }
            seen.await;
        }
    }

    /// Chooses an endpoint that this call has not tried, if there is one.
    pub(crate) fn pick(
        &self,
        args: &PickArgs<'_>,
        draw: &mut impl Draw,
    ) -> Result<(Arc<Endpoint>, Reason), Unpicked> {
        loop {
            let picker = self.picker.load();
            let none = match picker.pick(args, draw) {
                Ok(picked) => return Ok((picked.member.endpoint.clone(), picked.reason)),
                Err(none) => none,
            };
            return Err(match none {
                NoPick::AllOut { .. } if self.awaits_check() => Unpicked::Unresolved,
                NoPick::AllOut { total, example, .. } => {
                    Unpicked::Final(self.all_out(picker.set(), total, &example))
                }
                NoPick::NoSubset { .. } | NoPick::Session { .. } => {
                    Unpicked::Final(self.error(ErrorKind::NoHealthyEndpoint, none.to_string()))
                }
                _ => match &*self.resolution.borrow() {
                    Resolution::Waiting => Unpicked::Unresolved,
                    // The first set came after the look at what was there.
                    Resolution::Known if !std::ptr::eq(&*picker, &*self.picker.load()) => continue,
                    Resolution::Known => Unpicked::Final(
                        self.error(ErrorKind::NoHealthyEndpoint, "it has no endpoints".to_owned()),
                    ),
                    Resolution::Failed(failure) => {
                        Unpicked::Final(self.error(failure.kind(), failure.message().to_owned()))
                    }
                },
            });
        }
    }

    /// Whether it has an endpoint that is up, of those with the labels; nothing known says yes.
    pub(crate) fn can_take(&self, subset: Option<&[Labels]>, now: Timestamp) -> bool {
        let args = PickArgs::new(now).with_subset(subset.unwrap_or_default());
        let can = || self.picker.load().can_take(&args);
        // The second look is for a first set that came since.
        can()
            || matches!(*self.resolution.borrow(), Resolution::Waiting)
            || self.awaits_check()
            || can()
    }

    /// What a failed connection says when there is no other endpoint that could be picked.
    pub(crate) fn down(&self, error: &Error) -> Option<Error> {
        let picker = self.picker.load();
        let members = picker.set().members();
        if members.iter().any(|member| member.endpoint.is_selectable()) {
            return None;
        }
        Some(self.unreached(members.len(), error))
    }

    /// Why none of `total` endpoints can be picked. If that is because their certificates are
    /// refused, or because the breaker of one that is well is open, the error is of that kind.
    #[cold]
    fn all_out(&self, set: &EndpointSet<Workers>, total: usize, example: &str) -> Error {
        let members = set.members();
        let unreachable = members.iter().all(|member| member.endpoint.health().is_unreachable());
        let cause = members.first().and_then(|member| member.endpoint.connections.cause());
        match cause.filter(|_| unreachable) {
            Some(cause) => self.unreached(members.len(), &cause),
            None => {
                let message = match total {
                    1 => format!("its only endpoint cannot take a call: {example}"),
                    total => format!("none of its {total} endpoints can take a call: {example}"),
                };
                let broken = |member: &Member<Workers>| {
                    member.endpoint.health().is_selectable()
                        && !member.endpoint.breaker().is_closed()
                };
                if !members.iter().any(broken) {
                    return self.error(ErrorKind::NoHealthyEndpoint, message);
                }
                self.shared.metrics.shed(ErrorKind::Overflow);
                self.error(ErrorKind::Overflow, message)
            }
        }
    }

    /// None of its endpoints can be reached, one of them because of `cause`.
    pub(super) fn unreached(&self, total: usize, cause: &Error) -> Error {
        let kind = if is_tls(cause) { cause.kind() } else { ErrorKind::NoHealthyEndpoint };
        let cause_text = cause.message();
        let message = match total {
            1 => format!("its only endpoint cannot be reached: {cause_text}"),
            _ => format!("none of its {total} endpoints can be reached: {cause_text}"),
        };
        let error = self.error(kind, message).with_source(cause.clone());
        match cause.endpoint() {
            Some(endpoint) => error.with_endpoint(endpoint),
            None => error,
        }
    }

    pub(super) fn error(&self, kind: ErrorKind, message: String) -> Error {
        Error::new(kind, message).with_destination(self.label.clone())
    }
}

/// Why there is no endpoint for an attempt.
pub(crate) enum Unpicked {
    /// Discovery has not spoken yet, or no check has ended: worth waiting for.
    Unresolved,
    /// There is none.
    Final(Error),
}

/// Whether a connection failed because of certificates or the handshake.
fn is_tls(error: &Error) -> bool {
    use ErrorKind as K;
    matches!(error.kind(), K::Tls | K::TlsIdentity | K::TlsExpired | K::TlsUntrusted)
}

//! Connections: `TCPRoute` and `TLSRoute`, whose one rule decides where bytes go.

use super::destinations::host_problem;
use super::routes::{Attached, Route};
use super::rules::Written;
use super::{Compiler, Problem};
use crate::route::Rule;
use crate::snapshot::{DestinationId, Snapshot};
use std::sync::Arc;

impl Compiler<'_> {
    /// Compiles the one rule of a route for connections, and finds what it is attached to.
    fn only_rule(
        &mut self,
        snapshot: &Snapshot,
        route: &Route<'_>,
        mut rules: Vec<Written<'_>>,
    ) -> Option<(Arc<Rule>, Vec<DestinationId>)> {
        if rules.len() != 1 {
            let kind = route.object.kind.name();
            let what = format!("a {kind} has exactly one rule, this has {}", rules.len());
            self.problems.push(
                Problem::error(what)
                    .at(route.object.name.at)
                    .help("bytes carry nothing to tell rules apart by"),
            );
        }
        let rule = rules.pop().and_then(|rule| self.rule(snapshot, route.object, 0, rule));
        let parents = self.parents(route);
        Some((rule?, parents))
    }

    pub(super) fn attach_tcp(
        &mut self,
        snapshot: &Snapshot,
        attached: &mut Attached,
        route: &Route<'_>,
        rules: Vec<Written<'_>>,
    ) {
        let at = route.object.name.at;
        let Some((rule, parents)) = self.only_rule(snapshot, route, rules) else { return };
        for id in parents {
            if let Some((_, first)) = attached.tcp.insert(id, (rule.clone(), at)) {
                self.problems.push(
                    Problem::error("two TCPRoutes are attached to one Service")
                        .at(at)
                        .other(first, "the other one"),
                );
            }
        }
    }

    pub(super) fn attach_tls(
        &mut self,
        snapshot: &Snapshot,
        attached: &mut Attached,
        route: &Route<'_>,
        rules: Vec<Written<'_>>,
    ) {
        let at = route.object.name.at;
        if route.hostnames.is_empty() {
            self.problems
                .push(Problem::error("this route is for no name: `hostnames` is empty").at(at));
        }
        let Some((rule, parents)) = self.only_rule(snapshot, route, rules) else { return };
        for host in route.hostnames {
            if let Some(why) = host_problem(host, true) {
                let what = format!("`{}` is not a host name: {why}", host.escape_debug());
                self.problems.push(Problem::error(what).at(host.at));
                continue;
            }
            for parent in parents.iter().copied().map(Some).chain([None]) {
                let key = (parent, host.value.clone());
                if let Some((_, first)) = attached.tls.insert(key, (rule.clone(), host.at))
                    && self.warned.insert(host.at)
                {
                    let what = format!("two TLSRoutes are for `{}`", host.value);
                    self.problems
                        .push(Problem::error(what).at(host.at).other(first, "the other one"));
                }
            }
        }
    }
}

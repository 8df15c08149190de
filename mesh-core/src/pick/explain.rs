//! Explain: every endpoint of a set, with why a call can go to it or not.
//!
//! The same shares and the same rules as those of a pick, told instead of drawn. It looks at every
//! endpoint, so it is for people who ask and not for calls.

use super::group::{Candidates, Scope};
use super::{PickArgs, Picker, Policy, least_request};
use crate::endpoint::Member;
use crate::explain::{Candidate, LoadUnit};
use crate::health::Standing;

impl<C> Picker<C> {
    /// Every endpoint in the order of the set, with why such a call can go to it now or not.
    ///
    /// ```
    /// use mesh_core::pick::{Config, PickArgs, Picker};
    /// use mesh_core::{EndpointSet, EndpointSpec, Timestamp};
    ///
    /// let spec = |port| EndpointSpec::new(([10, 0, 0, 1], port).into());
    /// let specs = vec![spec(1).with_weight(3), spec(2).with_priority(1)];
    /// let (set, _) = EndpointSet::<()>::empty().update(specs, |_| ());
    /// let told = Picker::new(set, Config::default()).explain(&PickArgs::new(Timestamp::ZERO));
    /// assert_eq!(told[0].reason, "ready, weight 3");
    /// assert_eq!(told[1].reason, "priority 1, while priority 0 can be used");
    /// ```
    #[must_use]
    pub fn explain(&self, args: &PickArgs<'_>) -> Vec<Candidate> {
        let members = self.set.members();
        let left_out = self.why_left_out(args);
        let mut told: Vec<Candidate> =
            members.iter().map(|member| self.known_of(member, args).out(&left_out)).collect();
        let Ok(levels) = self.levels_for(args) else { return told };
        let shares = levels.shares(&self.set, self.config.panic_threshold, args.priority);
        let used = levels.all().iter().zip(&shares).find(|(_, share)| share.healthy > 0.0);
        let used = used.map(|(level, _)| level.priority());
        for (level, shares) in levels.all().iter().zip(&shares) {
            for (group, part) in level.groups().iter().zip(&shares.parts) {
                let own = group.members(members);
                for place in 0..own.len() {
                    let (Some(member), Some(index)) = (own.get(place), own.index(place)) else {
                        continue;
                    };
                    let standing = member.endpoint.standing_at(args.now);
                    let standing = standing.unwrap_or(Standing::Healthy);
                    let share = match standing {
                        Standing::Healthy => [shares.healthy, part[0]],
                        Standing::Degraded => [shares.degraded, part[1]],
                    };
                    let scope = Scope { levels, level, standing, allow_avoided: false };
                    let candidates = Candidates { picker: self, scope, members: own, args };
                    if let Some(told) = told.get_mut(index) {
                        *told = self.tell(&candidates, place, member, share, used);
                    }
                }
            }
        }
        told
    }

    /// `share`: of the level among all calls, and of the locality among those of the level;
    /// `used`: the first priority that takes calls.
    fn tell(
        &self,
        candidates: &Candidates<'_, '_, C>,
        place: usize,
        member: &Member<C>,
        [of_level, of_locality]: [f64; 2],
        used: Option<u32>,
    ) -> Candidate {
        let mut known = self.known_of(member, candidates.args);
        let degraded = candidates.scope.standing == Standing::Degraded;
        let percent = 100.0 * of_level * of_locality;
        match candidates.usable(place) {
            None if candidates.is_avoided(member) => known.out("the call has tried it"),
            None => known.out(&member.endpoint.state(candidates.args.now).to_string()),
            Some(found) if found.panic => {
                known.included = true;
                let state = member.endpoint.state(candidates.args.now);
                known.reason = format!("{state}; picked all the same, as too few others are in");
                known
            }
            Some(_) if percent > 0.0 => {
                known.included = true;
                if degraded {
                    known.reason.push_str(", degraded");
                }
                if percent < 99.95 {
                    known.reason.push_str(&format!(", of those that share {percent:.1} %"));
                }
                known
            }
            Some(_) if degraded => known.out("degraded, while healthy ones suffice"),
            Some(_) if of_level > 0.0 => {
                known.out("its locality has no share, while another can be used")
            }
            Some(_) => match (member.spec.priority, used) {
                (own, Some(used)) if own != used => {
                    known.out(&format!("priority {own}, while priority {used} can be used"))
                }
                _ => known.out("further from the caller than others that can be used"),
            },
        }
    }

    /// What is known of an endpoint, before it is in or out.
    fn known_of(&self, member: &Member<C>, args: &PickArgs<'_>) -> Candidate {
        let mut known = Candidate::configured(&member.spec);
        let load = member.endpoint.load();
        known.in_flight = Some(load.in_flight());
        (known.load, known.unit) = match self.config.policy {
            Policy::LeastRequest => {
                let active = least_request::load(member, self.config.active_request_bias);
                (Some(active), LoadUnit::InFlight)
            }
            _ => (self.config.load(load, args.now), LoadUnit::Seconds),
        };
        known
    }

    /// Why an endpoint is in no level that the call may go to.
    fn why_left_out(&self, args: &PickArgs<'_>) -> String {
        match (self.levels_for(args), args.subset, &self.config.subsetting) {
            (Err(why), _, _) => why.to_string(),
            (Ok(_), [], Some(config)) => {
                format!("not one of the {} that this caller uses", config.size.max(1))
            }
            (Ok(_), [], None) => "not of the default subset".to_owned(),
            (Ok(_), wanted, _) => {
                let wanted: Vec<String> =
                    wanted.iter().map(|labels| format!("`{labels}`")).collect();
                format!("not of the subset that {} leads to", wanted.join(" or "))
            }
        }
    }
}

impl Candidate {
    fn out(mut self, why: &str) -> Self {
        self.included = false;
        why.clone_into(&mut self.reason);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Labels, subset, subsetting};
    use super::*;
    use crate::{Declared, EndpointSet, EndpointSpec, Timestamp};
    use std::net::SocketAddr;

    const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

    fn spec(port: u16) -> EndpointSpec {
        EndpointSpec::new(SocketAddr::from(([10, 0, 0, 1], port)))
    }

    fn picker(specs: Vec<EndpointSpec>, config: Config) -> Picker {
        Picker::new(EndpointSet::empty().update(specs, |_| ()).0, config)
    }

    fn told(picker: &Picker, args: &PickArgs<'_>) -> Vec<(bool, String)> {
        picker.explain(args).into_iter().map(|one| (one.included, one.reason)).collect()
    }

    #[track_caller]
    fn assert_told(picker: &Picker, args: &PickArgs<'_>, expected: &[(bool, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(within, why)| (*within, (*why).to_owned())).collect();
        assert_eq!(told(picker, args), expected);
    }

    #[test]
    fn levels_and_states_say_why() {
        let specs = vec![
            spec(1).with_weight(3),
            spec(2).with_declared(Declared::Draining),
            spec(3).with_declared(Declared::Degraded),
            spec(4).with_priority(1),
        ];
        let picker = picker(specs, Config { panic_threshold: 0, ..Config::default() });
        let tried = [picker.set().members()[3].spec.id.clone()];
        assert_told(
            &picker,
            &PickArgs::new(NOW).with_avoid(&tried),
            &[
                (true, "ready, weight 3, of those that share 46.7 %"),
                (false, "draining: discovery says so"),
                (false, "degraded, while healthy ones suffice"),
                (false, "the call has tried it"),
            ],
        );
        picker.set().members()[0].endpoint.health().set_unreachable(NOW, NOW);
        assert_told(
            &picker,
            &PickArgs::new(NOW).with_priority(1),
            &[
                (false, "unreachable: no connection, trying now"),
                (false, "draining: discovery says so"),
                (false, "degraded, while healthy ones suffice"),
                (true, "ready"),
            ],
        );
    }

    #[test]
    fn what_a_call_cannot_choose_is_told_too() {
        let version = |port, version| {
            spec(port).with_metadata([("version".to_owned(), String::from(version))].into())
        };
        let specs = || vec![version(1, "1"), version(2, "2")];
        let selector = serde_json::json!({ "selectors": [{ "keys": ["version"] }] });
        let subsets: subset::Config = serde_json::from_value(selector).expect("a configuration");
        let by_version = picker(specs(), Config { subsets: Some(subsets), ..Config::default() });
        let wanted = [Labels::from_iter([("version", "2")])];
        assert_told(
            &by_version,
            &PickArgs::new(NOW).with_subset(&wanted),
            &[(false, "not of the subset that `version=2` leads to"), (true, "ready")],
        );
        let none = [Labels::from_iter([("version", "3")])];
        let why = (false, "there is no subset version=3");
        assert_told(&by_version, &PickArgs::new(NOW).with_subset(&none), &[why, why]);

        let one = subsetting::Config { size: 1, ..subsetting::Config::default() };
        let few = picker(specs(), Config { subsetting: Some(one), ..Config::default() });
        let told = told(&few, &PickArgs::new(NOW));
        assert!(told.contains(&(true, "ready".to_owned())), "{told:?}");
        assert!(
            told.contains(&(false, "not one of the 1 that this caller uses".to_owned())),
            "{told:?}"
        );
    }
}

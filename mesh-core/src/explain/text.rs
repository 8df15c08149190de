//! The text of an explanation, for a terminal. Of a policy it holds what is written somewhere, and in
//! its alternate form (`{:#}`) the defaults too.

use super::{
    AttemptExplained, Candidate, DestinationExplained, Explanation, LoadUnit, PolicyValue, SplitBy,
};
use std::fmt;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "request      {}", self.request.escape_debug())?;
        for passed in &self.passed_over {
            writeln!(f, "passed over  {}: not {}", passed.rule, passed.condition)?;
        }
        if let Some(route) = &self.route {
            writeln!(f, "route        {} ({}): {}", route.rule, route.origin, route.condition)?;
        }
        for what in &self.answered {
            writeln!(f, "filter       {}", what.escape_debug())?;
        }
        if let Some(why) = &self.unrouted {
            writeln!(f, "route        none: {why}")?;
        }
        if let Some(why) = &self.refused {
            writeln!(f, "refused      {}", why.escape_debug())?;
        }
        for note in &self.notes {
            writeln!(f, "note         {}", note.escape_debug())?;
        }
        if let Some(hash) = &self.hash {
            writeln!(f, "hash         {} of {}", hash.hash, hash.from.join(", "))?;
        }
        self.fmt_split(f)?;
        match &self.ended {
            Some(_) => self.fmt_call(f),
            None => self.destinations.iter().try_for_each(|destination| {
                writeln!(f)?;
                fmt::Display::fmt(destination, f)
            }),
        }
    }
}

impl Explanation {
    fn fmt_split(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(split) = &self.split else { return Ok(()) };
        let to = self.destinations.get(split.index).map_or("?", |chosen| &chosen.name);
        match &split.by {
            SplitBy::Draw { number, of } => {
                writeln!(f, "split        to {to}, by number {number} of 0 to {}", of - 1)?;
            }
            SplitBy::Hash => writeln!(f, "split        to {to}, by the hash")?,
        }
        for (index, destination) in self.destinations.iter().enumerate() {
            let mark = if index == split.index { '>' } else { ' ' };
            writeln!(f, "  {mark} {:5.1} %  {}", destination.percent, destination.name)?;
        }
        Ok(())
    }

    /// What became of a call that was made. Its policy is in the value, and would hide this.
    fn fmt_call(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for destination in &self.destinations {
            for filter in &destination.filters {
                writeln!(f, "filter       {}: {}", destination.name, filter.escape_debug())?;
            }
        }
        for fault in &self.faults {
            writeln!(f, "fault        {fault}")?;
        }
        self.attempts.iter().try_for_each(|attempt| write!(f, "\n{attempt}"))?;
        let Some(ended) = &self.ended else { return Ok(()) };
        if !self.attempts.is_empty() {
            writeln!(f)?;
        }
        let outcome = ended.outcome.escape_debug();
        writeln!(f, "ended        after {}: {outcome}", Millis(ended.took))
    }
}

impl fmt::Display for AttemptExplained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beside = if self.beside { ", beside the one before" } else { "" };
        let after = Millis(self.after);
        writeln!(f, "attempt {:<4} to {}, after {after}{beside}", self.number, self.destination)?;
        for candidate in &self.candidates {
            let picked = self.endpoint.as_deref() == Some(&*candidate.endpoint);
            let word = match (picked, candidate.included, candidate.looked_at) {
                (true, ..) => "picked",
                (_, false, _) => "out",
                (_, true, true) => "seen",
                (_, true, false) => "in",
            };
            write!(f, "  {word:<6}  {candidate}")?;
            match &self.reason {
                Some(reason) if picked => writeln!(f, " ({reason})")?,
                _ => writeln!(f)?,
            }
        }
        let outcome = self.outcome.as_deref().unwrap_or("under way still").escape_debug();
        match self.took {
            Some(took) => writeln!(f, "  ended   after {}: {outcome}", Millis(took))?,
            None => writeln!(f, "  ended   {outcome}")?,
        }
        let Some(followed) = &self.followed else { return Ok(()) };
        let word = if followed.again { "again" } else { "no more" };
        write!(f, "  then    {word}: {}", followed.why)?;
        match followed.wait {
            Some(wait) if wait > 0.0 => writeln!(f, ", after {}", Millis(wait)),
            _ => writeln!(f),
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<21} ", self.endpoint)?;
        match (self.load, self.unit) {
            (None, _) => {}
            (Some(load), LoadUnit::Seconds) => write!(f, " {:>9}", Millis(load).to_string())?,
            (Some(load), LoadUnit::InFlight) => write!(f, " {load:>9.2}")?,
        }
        if let Some(active) = self.in_flight {
            write!(f, " {active:>3} in flight  ")?;
        }
        f.write_str(&self.reason)
    }
}

impl fmt::Display for DestinationExplained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let security = if self.tls { "TLS" } else { "plain text" };
        writeln!(
            f,
            "destination  {} ({}), {:.1} % of requests, {security}",
            self.name, self.origin, self.percent
        )?;
        self.fmt_endpoints(f)?;
        for next in &self.failover {
            let security = if next.tls { "TLS" } else { "plain text" };
            writeln!(f, "failover     {} ({}), {security}", next.name, next.origin)?;
            next.fmt_endpoints(f)?;
        }
        writeln!(f, "policy")?;
        let (written, defaults): (Vec<_>, Vec<_>) =
            self.policy.iter().partition(|value| value.origin.line().is_some());
        if f.alternate() {
            return self.policy.iter().try_for_each(|value| writeln!(f, "  {value}"));
        }
        for value in written {
            writeln!(f, "  {value}")?;
        }
        match defaults.len() {
            0 => Ok(()),
            left => writeln!(f, "  {left} defaults, which `mesh explain --all` and JSON tell"),
        }
    }
}

impl DestinationExplained {
    fn fmt_endpoints(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for filter in &self.filters {
            writeln!(f, "filter       {}", filter.escape_debug())?;
        }
        writeln!(f, "endpoints    {}", self.endpoints)?;
        if self.candidates.is_empty() {
            writeln!(f, "  none known")?;
        }
        for candidate in &self.candidates {
            let word = if candidate.included { "in " } else { "out" };
            writeln!(f, "  {word}  {candidate}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PolicyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match &self.value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => "none".to_owned(),
            serde_json::Value::Array(items) => {
                let items = items.iter().map(|item| match item {
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                format!("[{}]", items.collect::<Vec<_>>().join(", "))
            }
            other => other.to_string(),
        };
        write!(f, "{:<40} {value:<16} {}", self.path, self.origin)
    }
}

/// Seconds, told in milliseconds.
struct Millis(f64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ms", self.0 * 1e3)
    }
}

//! What the terminal shows: a table that is drawn anew, or lines for a pipe.

mod plain;
mod table;

use crate::load::Tally;
use crate::processes::Instance;
use crate::services::dashboard::DestinationRow;
use plain::Plain;
use std::io::{self, IsTerminal};
use std::time::Duration;
use table::Table;

/// What there is to show at one moment.
pub(crate) struct Moment<'a> {
    pub(crate) left: Duration,
    pub(crate) phase: &'a str,
    pub(crate) recent: &'a Tally,
    pub(crate) span: Duration,
    pub(crate) rows: &'a [DestinationRow],
    pub(crate) instances: &'a [Instance],
}

impl Moment<'_> {
    /// Calls per second.
    fn rate(&self) -> f64 {
        self.recent.calls as f64 / self.span.as_secs_f64().max(0.001)
    }

    /// The name of an endpoint, and what it is.
    fn who(&self, destination: &str, address: &str) -> (String, &'static str) {
        self.instances.iter().find(|one| one.address.to_string() == address).map_or_else(
            || (destination.to_owned(), "tonic"),
            |one| (format!("{destination} {}", one.name), one.what),
        )
    }
}

/// One of the two.
pub(crate) enum View {
    Table(Table),
    Plain(Plain),
}

impl View {
    /// The table on a terminal, unless lines are asked for.
    pub(crate) fn new(plain: bool) -> io::Result<Self> {
        if plain || !io::stdout().is_terminal() {
            Ok(Self::Plain(Plain::default()))
        } else {
            Table::new().map(Self::Table)
        }
    }

    pub(crate) fn say(&mut self, sentence: &str) -> io::Result<()> {
        match self {
            Self::Table(table) => table.say(sentence),
            Self::Plain(plain) => plain.say(sentence),
        }
        Ok(())
    }

    pub(crate) fn draw(&mut self, moment: &Moment<'_>) -> io::Result<()> {
        match self {
            Self::Table(table) => table.draw(moment),
            Self::Plain(plain) => {
                plain.draw(moment);
                Ok(())
            }
        }
    }

    /// Whether the person pressed `q` or Ctrl-C.
    pub(crate) fn wants_to_quit(&self) -> io::Result<bool> {
        match self {
            Self::Table(table) => table.wants_to_quit(),
            Self::Plain(_) => Ok(false),
        }
    }

    /// Gives the terminal back, with what was said.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        match self {
            Self::Table(table) => table.end(),
            Self::Plain(_) => Ok(()),
        }
    }
}

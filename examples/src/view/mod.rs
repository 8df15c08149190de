//! What the terminal shows: a table that is drawn anew, or lines for a pipe.

mod lines;
mod plain;
mod table;

use crate::processes::Instance;
use crate::recent::Recent;
use crate::services::dashboard::{DestinationRow, EndpointRow};
use plain::Plain;
use std::io::{self, IsTerminal};
use std::time::Duration;
use table::Table;

/// What there is to show at one moment.
pub(crate) struct Moment<'a> {
    pub(crate) left: Duration,
    pub(crate) phase: &'a str,
    pub(crate) recent: &'a Recent,
    pub(crate) rows: &'a [DestinationRow],
    pub(crate) instances: &'a [Instance],
}

impl Moment<'_> {
    /// The whole seconds that are left, as a clock that runs down shows them.
    const fn seconds_left(&self) -> u64 {
        self.left.as_millis().div_ceil(1000) as u64
    }

    /// All endpoints by their name, with what they are.
    fn endpoints(&self) -> Vec<(String, &'static str, &EndpointRow)> {
        let mut all: Vec<_> = self
            .rows
            .iter()
            .flat_map(|row| row.endpoints.iter().map(move |endpoint| (&row.name, endpoint)))
            .map(|(destination, endpoint)| {
                let (name, what) = self.who(destination, &endpoint.address);
                (name, what, endpoint)
            })
            .collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }

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

    /// Tells what happens to the services.
    pub(crate) fn happens(&mut self, sentence: &str) {
        self.say(format!("> {sentence}"));
    }

    /// Tells what the mesh did about it.
    pub(crate) fn mesh(&mut self, sentence: &str) {
        self.say(format!("  mesh: {sentence}"));
    }

    fn say(&mut self, sentence: String) {
        match self {
            Self::Table(table) => table.say(sentence),
            Self::Plain(_) => println!("{sentence}"),
        }
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

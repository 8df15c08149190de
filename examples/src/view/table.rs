//! One table for 80 × 24, drawn anew four times a second.

use super::Moment;
use super::lines::{cut, lines};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table as Rows};
use std::io;
use std::time::Duration;

/// Name, kind, attempts per second, load; the state has the rest.
const COLUMNS: [u16; 4] = [10, 7, 6, 7];

/// See the [module docs](self).
#[derive(Debug)]
pub(crate) struct Table {
    terminal: Option<DefaultTerminal>,
    said: Vec<String>,
}

impl Table {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminal: Some(ratatui::try_init()?), said: Vec::new() })
    }

    pub(super) fn say(&mut self, sentence: String) {
        self.said.push(sentence);
    }

    pub(super) fn draw(&mut self, moment: &Moment<'_>) -> io::Result<()> {
        let said = &self.said;
        let Some(terminal) = &mut self.terminal else { return Ok(()) };
        terminal.draw(|frame| {
            let endpoints = moment.rows.iter().map(|row| row.endpoints.len()).sum::<usize>();
            let [top, middle, bottom] = Layout::vertical([
                Constraint::Length(3),
                Constraint::Length(endpoints.clamp(4, 8) as u16 + 3),
                Constraint::Min(5),
            ])
            .areas(frame.area());
            frame.render_widget(head(moment), top);
            frame.render_widget(endpoint_rows(moment, middle), middle);
            frame.render_widget(history(said, bottom), bottom);
        })?;
        Ok(())
    }

    pub(super) fn wants_to_quit(&self) -> io::Result<bool> {
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()? {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                if key.code == KeyCode::Char('q') || (control && key.code == KeyCode::Char('c')) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    pub(super) fn end(&mut self) -> io::Result<()> {
        if let Some(terminal) = self.terminal.take() {
            let width = terminal.size()?.width.into();
            ratatui::try_restore()?;
            self.said
                .iter()
                .flat_map(|said| lines(said, width))
                .for_each(|line| println!("{line}"));
        }
        Ok(())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if self.terminal.is_some() {
            ratatui::restore();
        }
    }
}

fn head(moment: &Moment<'_>) -> Paragraph<'static> {
    let recent = moment.recent.tally();
    let colour = if recent.success() >= 99.9 { Color::Green } else { Color::Red };
    Paragraph::new(Line::from(vec![
        Span::from(format!(" {:>4.0} calls/s    ", moment.recent.calls_per_second())),
        Span::styled(format!("{:>6.2} % good", recent.success()), Style::new().fg(colour).bold()),
        Span::from(format!(
            "    p50 {:>5.1} ms    p99 {:>5.1} ms",
            recent.ms(0.5),
            recent.ms(0.99)
        )),
    ]))
    .block(
        Block::bordered().title(" mesh demo: the dashboard's calls ".bold()).title_top(
            Line::from(format!(" {} · {} s left · q quits ", moment.phase, moment.seconds_left()))
                .right_aligned(),
        ),
    )
}

fn endpoint_rows(moment: &Moment<'_>, area: Rect) -> Rows<'static> {
    let [name, what, rate, load] = COLUMNS;
    // Two borders, and a space after each column.
    let state = area.width.saturating_sub(2 + COLUMNS.iter().map(|width| width + 1).sum::<u16>());
    let rows: Vec<Row<'static>> = moment
        .endpoints()
        .into_iter()
        .map(|(name, what, row)| {
            let colour = if row.kind == "ready" { Color::Green } else { Color::Yellow };
            Row::new([
                Cell::from(name),
                Cell::from(what),
                Cell::from(format!("{:>6.0}", moment.recent.attempts_per_second(&row.address))),
                Cell::from(row.load_ms.map_or_else(String::new, |load| format!("{load:>7.1}"))),
                Cell::from(Span::styled(cut(&row.state, state.into()), Style::new().fg(colour))),
            ])
        })
        .collect();
    Rows::new(rows, [name, what, rate, load, state].map(Constraint::Length))
        .header(Row::new(["endpoint", "runs", "rate/s", "load ms", "state"]).dim())
        .block(Block::bordered())
}

/// The latest sentences that fit, newest last.
fn history(said: &[String], area: Rect) -> Paragraph<'static> {
    let (width, room) = (area.width.saturating_sub(2), usize::from(area.height.saturating_sub(2)));
    let mut shown: Vec<Line<'static>> = Vec::new();
    for sentence in said.iter().rev() {
        let lines = lines(sentence, width.into());
        if shown.len() + lines.len() > room {
            break;
        }
        let happens = sentence.starts_with('>');
        shown.extend(
            lines
                .into_iter()
                .rev()
                .map(|line| if happens { Line::from(line).bold() } else { Line::from(line) }),
        );
    }
    shown.reverse();
    Paragraph::new(shown).block(Block::bordered().title(" what happened, and what the mesh did "))
}

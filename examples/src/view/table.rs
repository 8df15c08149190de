//! One table for 80 × 24, drawn anew four times a second.

use super::Moment;
use crate::services::dashboard::EndpointRow;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table as Rows, Wrap};
use std::io;
use std::time::Duration;

/// See the [module docs](self).
pub(crate) struct Table {
    terminal: Option<DefaultTerminal>,
    said: Vec<String>,
}

impl Table {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { terminal: Some(ratatui::try_init()?), said: Vec::new() })
    }

    pub(crate) fn say(&mut self, sentence: &str) {
        if !sentence.is_empty() {
            self.said.push(sentence.to_owned());
        }
    }

    pub(crate) fn draw(&mut self, moment: &Moment<'_>) -> io::Result<()> {
        let said = &self.said;
        let Some(terminal) = &mut self.terminal else { return Ok(()) };
        terminal.draw(|frame| {
            let endpoints = moment.rows.iter().map(|row| row.endpoints.len() as u16).sum::<u16>();
            let areas = Layout::vertical([
                Constraint::Length(3),
                Constraint::Length(endpoints.clamp(4, 8) + 3),
                Constraint::Min(5),
            ])
            .split(frame.area());
            frame.render_widget(head(moment), areas[0]);
            frame.render_widget(endpoint_rows(moment), areas[1]);
            frame.render_widget(history(said, areas[2].width, areas[2].height), areas[2]);
        })?;
        Ok(())
    }

    pub(crate) fn wants_to_quit(&self) -> io::Result<bool> {
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()?
                && (key.code == KeyCode::Char('q')
                    || (key.code == KeyCode::Char('c')
                        && key.modifiers.contains(KeyModifiers::CONTROL)))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.terminal = None;
        ratatui::try_restore()?;
        self.said.iter().for_each(|sentence| println!("* {sentence}"));
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
    let success = moment.recent.success();
    let colour = if success >= 99.9 { Color::Green } else { Color::Red };
    Paragraph::new(Line::from(vec![
        Span::from(format!("{:>5.0} calls/s   ", moment.rate())),
        Span::styled(format!("{success:>6.2} % good"), Style::new().fg(colour).bold()),
        Span::from(format!(
            "   p50 {:>5.1} ms   p99 {:>5.0} ms",
            moment.recent.ms(0.5),
            moment.recent.ms(0.99)
        )),
    ]))
    .block(
        Block::bordered().title(" mesh demo: dashboard ".bold()).title_top(
            Line::from(format!(" {} — {} s left — q quits ", moment.phase, moment.left.as_secs()))
                .right_aligned(),
        ),
    )
}

fn endpoint_rows(moment: &Moment<'_>) -> Rows<'static> {
    let rows = moment.rows.iter().flat_map(|row| {
        row.endpoints.iter().map(|endpoint| endpoint_row(moment, &row.name, endpoint))
    });
    Rows::new(
        rows.collect::<Vec<_>>(),
        [
            Constraint::Length(11),
            Constraint::Length(15),
            Constraint::Length(9),
            Constraint::Min(30),
        ],
    )
    .header(Row::new(["endpoint", "what", "load ms", "state"]).dim())
    .block(Block::bordered())
}

fn endpoint_row(moment: &Moment<'_>, destination: &str, endpoint: &EndpointRow) -> Row<'static> {
    let (who, what) = moment.who(destination, &endpoint.address);
    let colour = if endpoint.ready { Color::Green } else { Color::Yellow };
    Row::new([
        Cell::from(who),
        Cell::from(what),
        Cell::from(format!("{:>7.1}", endpoint.load_ms)),
        Cell::from(Span::styled(endpoint.state.clone(), Style::new().fg(colour))),
    ])
}

/// The latest sentences that fit, newest last.
fn history(said: &[String], width: u16, height: u16) -> Paragraph<'static> {
    let inner = usize::from(width.saturating_sub(2)).max(20);
    let mut room = usize::from(height.saturating_sub(2));
    let mut shown = Vec::new();
    for sentence in said.iter().rev() {
        // Words wrap, so a line may end early: one more than the division says.
        let lines = sentence.chars().count() / inner + 1;
        if lines > room {
            break;
        }
        room -= lines;
        shown.push(Line::from(sentence.clone()));
    }
    shown.reverse();
    Paragraph::new(shown)
        .wrap(Wrap { trim: true })
        .block(Block::bordered().title(" what happened "))
}

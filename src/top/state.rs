//! What is shown and how: by what was answered, and by keys.

use super::fetch::{Positions, Sort, Stats};
use crate::ask::Text;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Rates that are kept: as wide as terminals are.
const HISTORY: usize = 400;
/// What + and - go through.
const INTERVALS_MS: [u64; 8] = [250, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    Alarms,
    Stages,
    Shards,
    Sinks,
    Sources,
}

impl Pane {
    pub const ALL: [Pane; 5] =
        [Pane::Alarms, Pane::Stages, Pane::Shards, Pane::Sinks, Pane::Sources];

    fn after(self, steps: usize) -> Pane {
        Pane::ALL[(self as usize + steps) % Pane::ALL.len()]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Go,
    /// Those who ask the instance are to know.
    Tell,
    Quit,
}

#[derive(Debug)]
pub enum News {
    Stats(Result<Box<Stats>, Text>),
    Positions(Result<Positions, Text>),
}

#[derive(Debug)]
pub struct State {
    pub url: Text,
    pub stats: Option<Box<Stats>>,
    pub positions: Option<Result<Positions, Text>>,
    /// Since when there is no answer, and why.
    pub silent: Option<(Instant, Text)>,
    /// Lines a second, the last one last.
    pub history: VecDeque<u64>,
    pub interval: Duration,
    pub sort: Sort,
    pub paused: bool,
    pub help: bool,
    pub colour: bool,
    pub focus: Pane,
    /// The first row of each pane, and how many it shows; the drawing sets both right.
    pub first: [usize; Pane::ALL.len()],
    pub rows: [usize; Pane::ALL.len()],
}

impl State {
    #[must_use]
    pub fn new(url: &str, interval: Duration, colour: bool) -> State {
        State {
            url: Text::of(url),
            stats: None,
            positions: None,
            silent: None,
            history: VecDeque::new(),
            interval,
            sort: Sort::Lag,
            paused: false,
            help: false,
            colour,
            focus: Pane::Sources,
            first: [0; Pane::ALL.len()],
            rows: [0; Pane::ALL.len()],
        }
    }

    pub fn take(&mut self, news: News) {
        match news {
            News::Stats(Ok(stats)) => {
                let rate = stats.told.lines_per_second.unwrap_or(0.0);
                #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
                #[expect(clippy::cast_sign_loss, reason = "it saturates")]
                self.history.push_back(rate as u64);
                if self.history.len() > HISTORY {
                    self.history.pop_front();
                }
                self.stats = Some(stats);
                self.silent = None;
            }
            News::Stats(Err(why)) => {
                let since = self.silent.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                self.silent = Some((since, why));
            }
            // What was there stays, marked as the rest is, where nothing is answered at all.
            News::Positions(Err(_)) if self.silent.is_some() && self.positions.is_some() => {}
            News::Positions(positions) => self.positions = Some(positions),
        }
    }

    pub fn press(&mut self, key: KeyEvent) -> Then {
        let pane = self.focus as usize;
        let page = self.rows[pane].max(1);
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Then::Quit,
            KeyCode::Char(_) if control => {}
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Char('q') | KeyCode::Esc => return Then::Quit,
            KeyCode::Char('p') => {
                self.paused = !self.paused;
                return Then::Tell;
            }
            KeyCode::Char('+' | '=') => return self.pace(false),
            KeyCode::Char('-') => return self.pace(true),
            KeyCode::Char('s') => {
                self.sort = self.sort.other();
                self.first[Pane::Sources as usize] = 0;
                return Then::Tell;
            }
            KeyCode::Tab => self.focus = self.focus.after(1),
            KeyCode::BackTab => self.focus = self.focus.after(Pane::ALL.len() - 1),
            KeyCode::Char(digit @ '1'..='5') => {
                self.focus = Pane::ALL[digit as usize - '1' as usize];
            }
            KeyCode::Up | KeyCode::Char('k') => self.scroll(pane, 1, true),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(pane, 1, false),
            KeyCode::PageUp => self.scroll(pane, page, true),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll(pane, page, false),
            KeyCode::Home => self.first[pane] = 0,
            KeyCode::End => self.first[pane] = usize::MAX,
            _ => {}
        }
        Then::Go
    }

    fn scroll(&mut self, pane: usize, rows: usize, up: bool) {
        let first = self.first[pane];
        self.first[pane] = if up { first.saturating_sub(rows) } else { first.saturating_add(rows) };
    }

    /// + is more often.
    fn pace(&mut self, slower: bool) -> Then {
        let now = self.interval;
        let steps = INTERVALS_MS.map(Duration::from_millis);
        let next = match slower {
            true => steps.iter().find(|step| **step > now),
            false => steps.iter().rev().find(|step| **step < now),
        };
        self.interval = next.copied().unwrap_or(now);
        Then::Tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::new("http://a", Duration::from_secs(1), true)
    }

    fn press(state: &mut State, code: KeyCode) -> Then {
        state.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_do_what_the_help_says() {
        let mut state = state();
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(&mut state, code), Then::Quit);
        }
        let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
        assert_eq!(state.press(control('c')), Then::Quit);
        assert_eq!(state.press(control('q')), Then::Go);
        press(&mut state, KeyCode::Char('?'));
        assert!(state.help);
        assert_eq!(press(&mut state, KeyCode::Esc), Then::Go);
        assert!(!state.help);
        assert_eq!(press(&mut state, KeyCode::Char('p')), Then::Tell);
        assert!(state.paused);
        press(&mut state, KeyCode::Char('+'));
        assert_eq!(state.interval, Duration::from_millis(500));
        for _ in 0..20 {
            press(&mut state, KeyCode::Char('-'));
        }
        assert_eq!(state.interval, Duration::from_secs(60));
        press(&mut state, KeyCode::Char('s'));
        assert_eq!(state.sort, Sort::Path);
        press(&mut state, KeyCode::Tab);
        assert_eq!(state.focus, Pane::Alarms);
        press(&mut state, KeyCode::BackTab);
        assert_eq!(state.focus, Pane::Sources);
        press(&mut state, KeyCode::Char('3'));
        assert_eq!(state.focus, Pane::Shards);
        state.rows[Pane::Shards as usize] = 10;
        for (code, first) in [
            (KeyCode::Down, 1),
            (KeyCode::PageDown, 11),
            (KeyCode::Up, 10),
            (KeyCode::PageUp, 0),
            (KeyCode::Up, 0),
            (KeyCode::End, usize::MAX),
            (KeyCode::Down, usize::MAX),
            (KeyCode::Home, 0),
        ] {
            press(&mut state, code);
            assert_eq!(state.first[Pane::Shards as usize], first, "{code:?}");
        }
    }

    #[test]
    fn figures_stay_while_nothing_is_answered() {
        let mut state = state();
        let stats = Box::new(Stats { version: Text::of("1"), ..Stats::default() });
        state.take(News::Stats(Ok(stats.clone())));
        state.take(News::Positions(Ok(Positions::default())));
        state.take(News::Stats(Err(Text::of("refused"))));
        let since = state.silent.clone().unwrap().0;
        state.take(News::Stats(Err(Text::of("timeout"))));
        state.take(News::Positions(Err(Text::of("timeout"))));
        assert_eq!(state.silent.as_ref().unwrap(), &(since, Text::of("timeout")));
        assert!(state.stats.is_some() && state.positions.as_ref().unwrap().is_ok());
        state.take(News::Stats(Ok(stats)));
        assert!(state.silent.is_none());
    }
}

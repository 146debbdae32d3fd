//! `log-capturer top`: what a running instance does, in a terminal.
//!
//! [`fetch`] asks it, on threads of their own, so that keys are heard while it does not answer; [`view`] makes texts and
//! tables of what it tells, [`draw`] puts them on a terminal of any size, and [`state`] is what keys change.

pub mod draw;
pub mod fetch;
pub mod state;
pub mod view;

#[cfg(test)]
mod tests;

use crate::ask::{AccessArgs, AccessError, Failure, Text};
use clap::Args;
use fetch::{Client, Sort};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::{cursor, execute, terminal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use state::{News, State, Then};
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use view::View;

const KEYS: &str = "\
Keys: q quit, p pause, + and - how often, tab or 1 to 5 a table, arrows and PgUp/PgDn scroll it, s how sources \
are sorted, ? help.

Exit code: 0; 1 the instance does not answer (--once), or there is no terminal; 78 wrong arguments.";

/// What a running instance does: rates, latency by stage, shards, sinks, sources, its log, alarms.
#[derive(Debug, Args)]
#[command(after_help = KEYS)]
pub struct Top {
    /// Where it is: server.listen of its configuration.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8401")]
    pub url: String,
    /// How often it is asked, from 100ms to 1h. It measures once a second.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Print everything once as plain text.
    #[arg(long)]
    pub once: bool,
    /// Without colours, as where NO_COLOR is set.
    #[arg(long)]
    pub no_color: bool,
    #[command(flatten)]
    pub access: AccessArgs,
}

#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    #[error("--url {0}: expected the address of an instance, such as http://127.0.0.1:8401")]
    Url(Text),
    #[error(
        "no answer from {url}: {error}; start log-capturer, or give the address of its server.listen, such as \
         --url http://127.0.0.1:8401"
    )]
    Unreached { url: Text, error: Text },
    #[error(
        "{url} does not answer as log-capturer does: {what}; give the address of its server.listen (8401 by default), not \
         that of its metrics or of another service, and use the same version"
    )]
    Unlike { url: Text, what: Text },
    #[error("{0}")]
    Access(#[from] AccessError),
    #[error("standard input and output are no terminal; --once prints to anything")]
    NoTerminal,
    #[error("the terminal: {0}")]
    Terminal(std::io::Error),
    #[error("standard output: {0}")]
    Output(std::io::Error),
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Wrong {
        match failure {
            Failure::Unreached { url, error } => Wrong::Unreached { url, error },
            Failure::Unlike { url, what } => Wrong::Unlike { url, what },
        }
    }
}

impl Wrong {
    /// 78 (sysexits' EX_CONFIG) where it was given something wrong, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Wrong::Url(_) | Wrong::Access(_) => 78,
            _ => 1,
        }
    }
}

/// How long a key waits for what was answered to be drawn, and the other way round.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often it is looked whether the terminal is still there, and how long the end may take.
const GUARD_INTERVAL: Duration = Duration::from_millis(500);
/// Of the time, what may go into asking for sources: each of them is looked at by the instance.
const SOURCES_SHARE: u32 = 20;

fn interval(text: &str) -> Result<Duration, String> {
    let time = config::parse_duration(text)?;
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    if range.contains(&time) { Ok(time) } else { Err("from 100ms to 1h".into()) }
}

pub fn run(top: &Top) -> Result<(), Wrong> {
    let client = Client::new(&top.url, &top.access.open()?)?;
    if top.once {
        return once(&client);
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Wrong::NoTerminal);
    }
    // As no-color.org has it: where it is set and not empty.
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let state = State::new(&top.url, top.interval, !top.no_color && !no_color);
    watch(&client, state)
}

fn once(client: &Client) -> Result<(), Wrong> {
    let stats = client.stats()?;
    let positions = client.positions(Sort::Lag).map_err(|error| Text::of(&error.to_string()));
    let view = View::of(&stats, Some(&positions), Sort::Lag);
    let mut out = BufWriter::new(std::io::stdout().lock());
    match view.print(&mut out).and_then(|()| out.flush()) {
        // Whoever read it has enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        ran => ran.map_err(Wrong::Output),
    }
}

/// How those who ask are to go on.
#[derive(Debug, Clone, Copy)]
struct Ask {
    interval: Duration,
    sort: Sort,
    paused: bool,
}

impl Ask {
    fn of(state: &State) -> Ask {
        Ask { interval: state.interval, sort: state.sort, paused: state.paused }
    }
}

/// Asks again and again, until nobody wants to know. `share`: an answer that took long is asked for so many times
/// more seldom.
fn ask(
    mut ask: Ask,
    asks: &Receiver<Ask>,
    share: u32,
    fetch: impl Fn(Sort) -> News,
    to: &Sender<News>,
) {
    loop {
        let start = Instant::now();
        if to.send(fetch(ask.sort)).is_err() {
            return;
        }
        let sort = ask.sort;
        let took = start.elapsed();
        loop {
            let rest = ask.interval.max(took * share).saturating_sub(start.elapsed());
            let next = match ask.paused {
                true => asks.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => asks.recv_timeout(rest),
            };
            match next {
                Ok(next) => {
                    ask = next;
                    if ask.sort != sort && !ask.paused {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

fn watch(client: &Client, mut state: State) -> Result<(), Wrong> {
    let (to, news) = mpsc::channel();
    let first = Ask::of(&state);
    let tells: Vec<Sender<Ask>> = [true, false]
        .into_iter()
        .map(|stats| {
            let (tell, asks) = mpsc::channel();
            let (client, to) = (client.clone(), to.clone());
            let text = |error: Wrong| Text::of(&error.to_string());
            // They end with the process.
            std::thread::spawn(move || match stats {
                true => {
                    let fetch = |_| News::Stats(client.stats().map(Box::new).map_err(text));
                    ask(first, &asks, 1, fetch, &to);
                }
                false => {
                    let fetch = |sort| News::Positions(client.positions(sort).map_err(text));
                    ask(first, &asks, SOURCES_SHARE, fetch, &to);
                }
            });
            tell
        })
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).map_err(Wrong::Terminal)?;
    }
    let guarded = stop.clone();
    std::thread::spawn(move || guard(&guarded));
    let screen = Screen::open().map_err(Wrong::Terminal)?;
    let shown = show(&mut state, &news, &tells, &stop);
    drop(screen);
    shown.map_err(Wrong::Terminal)
}

/// Ends the process where it does not end by itself: crossterm reads a terminal that is gone again and again,
/// and does not come back to look at a signal.
fn guard(stop: &AtomicBool) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdin = std::io::stdin();
    let interval = Timespec::try_from(GUARD_INTERVAL).expect("a short time");
    while !stop.load(Ordering::Relaxed) {
        // That it is gone is told without being asked for.
        let mut terminal = [PollFd::new(&stdin, PollFlags::empty())];
        let told = poll(&mut terminal, Some(&interval)).unwrap_or(0);
        if told > 0 {
            stop.store(true, Ordering::Relaxed);
        }
    }
    std::thread::sleep(GUARD_INTERVAL);
    Screen::close();
    std::process::exit(0);
}

fn show(
    state: &mut State,
    news: &Receiver<News>,
    tells: &[Sender<Ask>],
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut terminal = Terminal::new(CrosstermBackend::new(std::io::stdout()))?;
    terminal.clear()?;
    let mut changed = true;
    let mut drawn = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for news in news.try_iter() {
            // What was under way when it was paused is late.
            if !state.paused || state.stats.is_none() {
                state.take(news);
                changed = true;
            }
        }
        // For how long nothing is answered is told by the second.
        changed |= state.silent.is_some() && drawn.elapsed() >= Duration::from_secs(1);
        if std::mem::take(&mut changed) {
            terminal.draw(|frame| draw::draw(frame, state))?;
            drawn = Instant::now();
        }
        match event::poll(LOOK_INTERVAL) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        changed = true;
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => match state.press(key) {
                Then::Go => {}
                Then::Quit => return Ok(()),
                Then::Tell => {
                    for tell in tells {
                        let _ = tell.send(Ask::of(state));
                    }
                }
            },
            _ => {}
        }
    }
    Ok(())
}

/// The terminal as it is while something is shown; as it was before when dropped, or in a panic.
struct Screen;

impl Screen {
    fn open() -> std::io::Result<Screen> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // The words are to be read, and there is no half of a dashboard.
            Screen::close();
            before(panic);
            std::process::abort();
        }));
        let screen = Screen;
        terminal::enable_raw_mode()?;
        execute!(std::io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    fn close() {
        let _ = execute!(std::io::stdout(), terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        Screen::close();
    }
}

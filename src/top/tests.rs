//! What is shown, on terminals of all sizes.

use super::draw::draw;
use super::fetch::{Positions, Sort, Stats};
use super::state::{News, Pane, State};
use super::view::View;
use super::{Ask, Screen, ask, interval};
use crate::ask::Text;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn quantiles(ms: f64) -> Value {
    json!({ "since_start": null, "last_minute": {
        "lines": 10, "p50_seconds": ms / 1e3, "p95_seconds": ms / 500.0, "p99_seconds": ms / 250.0,
        "max_seconds": ms / 100.0,
    } })
}

fn stats(shards: usize) -> Value {
    let shard = |at: usize| {
        json!({
            "shard": at, "cpu": at * 2, "lines_per_second": 5000.5 + at as f64, "busy_ratio": 0.125,
            "wal_bytes": 12 << 20, "wal_bytes_max": 1u64 << 30, "wal_full": false,
            "unacked_frames": 3, "files_watched": 12, "files_open": 4, "lag_bytes": 4096 * at,
            "lag_seconds": 0.25,
        })
    };
    json!({
        "version": "0.1.0", "uptime_seconds": 93_784, "ready": true, "status": "healthy",
        "lines_total": 123_456, "bytes_total": 23_456_789, "lines_per_second": 10_001.2,
        "bytes_per_second": 1_860_000.0,
        "latency": {
            "source_to_ack": { "loki": quantiles(12.0) },
            "http_answer": { "since_start": null, "last_minute": null },
            "commit": quantiles(0.4),
            "stages": {
                "read": quantiles(0.08), "pipeline": quantiles(0.012), "seal": quantiles(0.3),
                "append": quantiles(0.02), "sync": quantiles(0.5),
                "handoff": { "loki": quantiles(1.0) }, "send": { "loki": quantiles(2.5) },
                "ack": { "loki": { "since_start": null, "last_minute": null } },
            },
        },
        "shards": (0..shards).map(shard).collect::<Vec<_>>(),
        "sinks": [{
            "sink": "loki", "state": "passes", "reason": null, "in_flight": 1, "breakers_open": 0,
            "pushes": {
                "accepted": 4321, "retried": 0, "split": 0, "isolated": 0, "held": 0, "rejected": 0,
            },
            "lines_total": 123_400, "lines_per_second": 10_000.0, "lag_seconds": 0.02,
            "unacked_lines": 56, "clock_ahead_seconds": 0.0,
        }],
        "wal": { "bytes": 24 << 20, "bytes_max": 2u64 << 30, "ratio": 0.0117, "full": false },
        "dlq": { "entries": 0, "bytes": 4096, "bytes_max": 1 << 30, "by_reason": {} },
        "process": {
            "cpu_seconds": 12.5, "cpu_ratio": 0.021, "resident_bytes": 29_360_128, "open_fds": 41,
            "max_fds": 1024, "threads": 9,
        },
        "data_dir": { "free_bytes": 50u64 << 30, "size_bytes": 100u64 << 30 },
        "slo": {
            "objective": { "latency_seconds": 0.5, "ratio": 0.99, "lines_per_second": 10_000 },
            "windows": {}, "error_budget_remaining_ratio": 0.998, "lines_per_second": 10_001.2,
            "met": true,
        },
        "alarms": [],
    })
}

fn troubled() -> Value {
    let mut stats = stats(2);
    stats["status"] = "critical".into();
    stats["alarms"] = json!([
        { "check": "queue", "status": "critical", "message":
          "the write-ahead log takes 99.9 % of its quota: see whether the sink takes lines (GET /sinks)" },
        { "check": "sink_connectivity", "status": "degraded", "message": "lines wait for loki (503)" },
    ]);
    stats["wal"]["full"] = true.into();
    stats["wal"]["bytes"] = (2u64 << 30).into();
    stats["shards"][1]["wal_full"] = true.into();
    stats["shards"][1]["busy_ratio"] = 0.99.into();
    stats["sinks"][0]["state"] = "failing".into();
    stats["sinks"][0]["reason"] = "503 Service Unavailable: upstream connect error".into();
    stats["sinks"][0]["breakers_open"] = 1.into();
    stats["sinks"][0]["pushes"]["retried"] = 7.into();
    stats["latency"]["source_to_ack"]["loki"] = quantiles(300.0);
    stats["slo"]["met"] = false.into();
    stats["dlq"]["entries"] = 12.into();
    stats["dlq"]["by_reason"] = json!({ "too_old": 10, "refused": 2 });
    stats
}

const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\n\t\u{202e}gol\u{7f}\u{0}日本語";

fn hostile() -> Value {
    let mut stats = troubled();
    stats["version"] = HOSTILE.into();
    stats["status"] = HOSTILE.into();
    stats["alarms"][0] = json!({ "check": HOSTILE, "status": HOSTILE, "message": HOSTILE });
    stats["sinks"][0]["sink"] = HOSTILE.into();
    stats["sinks"][0]["state"] = HOSTILE.into();
    stats["sinks"][0]["reason"] = HOSTILE.repeat(200).into();
    stats["dlq"]["by_reason"] = json!({ HOSTILE: 3 });
    stats["latency"]["source_to_ack"] = json!({ HOSTILE: quantiles(1.0) });
    stats["latency"]["stages"][HOSTILE] = quantiles(1.0);
    stats["latency"]["stages"]["send"] = json!({ HOSTILE: quantiles(1.0), "b": quantiles(1.0) });
    stats["lines_per_second"] = json!(1e300);
    stats["uptime_seconds"] = json!(-1e300);
    stats["wal"]["bytes"] = json!(-5.5);
    stats
}

fn positions(files: usize) -> Value {
    let one = |at: usize| {
        json!({
            "path": format!("/var/log/services/checkout/instance-{at:03}/current.log"), "shard": at % 2,
            "labels": "{job=\"a\"}", "offset": 123_456_789, "size": if at == 2 { json!(null) } else { json!(1 << 30) },
            "lag_bytes": (files - at) * 1000, "lag_seconds": 1.5, "open": true,
        })
    };
    json!({
        "positions": (0..files).map(one).collect::<Vec<_>>(), "total": files, "lag_bytes": 5_000_000,
    })
}

fn state(stats: &Value, positions: &Value) -> State {
    let mut state = State::new("http://127.0.0.1:8401", Duration::from_secs(1), true);
    let read: Stats = serde_json::from_value(stats.clone()).unwrap();
    for rate in [0, 3000, 7000, 10_000] {
        state.history.push_back(rate);
    }
    state.take(News::Stats(Ok(Box::new(read))));
    state.take(News::Positions(Ok(serde_json::from_value(positions.clone()).unwrap())));
    state
}

fn drawn(state: &mut State, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let line: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn shown(state: &mut State, width: u16, height: u16) -> String {
    text(&drawn(state, width, height))
}

fn once(stats: &Value, positions: &Value) -> String {
    let stats: Stats = serde_json::from_value(stats.clone()).unwrap();
    let positions: Positions = serde_json::from_value(positions.clone()).unwrap();
    let mut out = Vec::new();
    View::of(&stats, Some(&Ok(positions)), Sort::Lag).print(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// With LOG_CAPTURER_GOLDEN=write, what is there becomes what is expected.
fn assert_golden(name: &str, found: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/top/golden").join(name);
    if std::env::var_os("LOG_CAPTURER_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&file, found).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    assert_eq!(found, expected, "{name} differs, found:\n{found}");
}

fn press(state: &mut State, code: KeyCode) {
    state.press(KeyEvent::new(code, KeyModifiers::NONE));
}

#[test]
fn it_looks_as_it_did() {
    assert_golden("once.txt", &once(&stats(2), &positions(4)));
    assert_golden("once-troubled.txt", &once(&troubled(), &positions(0)));
    let mut calm = state(&stats(2), &positions(4));
    assert_golden("160x40.txt", &shown(&mut calm, 160, 40));
    assert_golden("80x40.txt", &shown(&mut calm, 80, 40));
    assert_golden("40x12.txt", &shown(&mut calm, 40, 12));
    let mut troubled = state(&troubled(), &positions(40));
    assert_golden("100x45-troubled.txt", &shown(&mut troubled, 100, 45));
    assert_golden("40x12-troubled.txt", &shown(&mut troubled, 40, 12));
}

#[test]
fn every_size_and_every_answer_is_drawn() {
    let told = [
        stats(2),
        stats(64),
        troubled(),
        hostile(),
        json!({ "version": "1" }),
        json!({ "version": "1", "latency": {}, "sinks": [{}], "shards": [{}], "alarms": [{}], "slo": {} }),
    ];
    let files = [positions(0), positions(200), json!({ "positions": [{}] })];
    let mut sizes = vec![
        (1, 1),
        (2, 1),
        (1, 60),
        (200, 1),
        (40, 12),
        (80, 24),
        (119, 30),
        (120, 30),
        (200, 60),
    ];
    sizes.extend((1..45).step_by(6).map(|n| (n, n / 2 + 1)));
    for (stats, positions) in told.iter().flat_map(|stats| files.iter().map(move |f| (stats, f))) {
        for silent in [false, true] {
            let mut state = state(stats, positions);
            if silent {
                state.take(News::Stats(Err(Text::of(HOSTILE))));
                state.paused = true;
            }
            for (width, height) in sizes.iter().copied() {
                for pane in Pane::ALL {
                    state.focus = pane;
                    state.help = silent && pane == Pane::Sinks;
                    press(&mut state, KeyCode::End);
                    assert_no_command(&drawn(&mut state, width, height));
                    press(&mut state, KeyCode::PageUp);
                    assert_no_command(&drawn(&mut state, width, height));
                }
            }
        }
        let plain = once(stats, positions);
        assert!(!plain.chars().any(|c| c.is_control() && c != '\n'), "{plain}");
    }
    let mut nothing = State::new(HOSTILE, Duration::from_secs(1), true);
    for (width, height) in sizes.iter().copied() {
        assert_no_command(&drawn(&mut nothing, width, height));
    }
    nothing.take(News::Stats(Err(Text::of(HOSTILE))));
    for (width, height) in sizes {
        assert_no_command(&drawn(&mut nothing, width, height));
    }
}

fn assert_no_command(buffer: &Buffer) {
    for cell in buffer.content() {
        let symbol = cell.symbol();
        assert!(!symbol.chars().any(|c| c.is_control() || c == '\u{202e}'), "{symbol:?}");
    }
}

#[test]
fn what_matters_is_there_on_the_smallest_terminal() {
    let mut state = state(&troubled(), &positions(40));
    let small = shown(&mut state, 40, 12);
    for what in ["CRITICAL", "lines/s", "queue", "Sources by lag", "current.log", "q quit"] {
        assert!(small.contains(what), "{what}:\n{small}");
    }
    state.focus = Pane::Sinks;
    let sinks = shown(&mut state, 40, 12);
    assert!(sinks.contains("FAILING") && sinks.contains("▶ 4 Sinks"), "{sinks}");
}

#[test]
fn without_colour_words_say_all_of_it() {
    let mut state = state(&troubled(), &positions(4));
    let coloured = drawn(&mut state, 160, 50);
    let has_colour = |buffer: &Buffer| {
        buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(has_colour(&coloured));
    state.colour = false;
    let plain = drawn(&mut state, 160, 50);
    assert!(!has_colour(&plain));
    assert_eq!(text(&plain), text(&coloured));
    for word in ["CRITICAL", "2 ALARMS", "OVER 500 ms", "NOT MET", "FULL", "FAILING", "1 OPEN"] {
        assert!(text(&plain).contains(word), "{word}:\n{}", text(&plain));
    }
}

#[test]
fn old_figures_are_called_old() {
    let mut state = state(&stats(2), &positions(4));
    state.take(News::Stats(Err(Text::of("connection refused"))));
    state.silent.as_mut().unwrap().0 = Instant::now().checked_sub(Duration::from_secs(75)).unwrap();
    let old = shown(&mut state, 100, 40);
    for what in ["STALE", "NO ANSWER for 75 s", "connection refused", "10,001 lines/s"] {
        assert!(old.contains(what), "{what}:\n{old}");
    }
    let mut nothing = State::new("http://a", Duration::from_secs(1), true);
    assert!(shown(&mut nothing, 60, 5).contains("asking http://a"));
    nothing.take(News::Stats(Err(Text::of("connection refused"))));
    let none = shown(&mut nothing, 60, 5);
    assert!(none.contains("NO ANSWER") && none.contains("connection refused"), "{none}");
}

#[test]
fn a_long_table_is_scrolled_to_its_end_and_no_further() {
    let mut state = state(&stats(64), &positions(4));
    state.focus = Pane::Shards;
    let top = shown(&mut state, 100, 40);
    assert!(top.contains(" of 64"), "{top}");
    press(&mut state, KeyCode::End);
    let end = shown(&mut state, 100, 40);
    let rows = state.rows[Pane::Shards as usize];
    assert!(rows > 5, "{end}");
    assert!(end.contains(&format!("{}-64 of 64", 65 - rows)), "{end}");
    assert!(end.contains("\n   63  126"), "{end}");
    press(&mut state, KeyCode::Up);
    assert!(shown(&mut state, 100, 40).contains(&format!("{}-63 of 64", 64 - rows)));
    // A larger terminal shows what is there.
    assert!(!shown(&mut state, 100, 200).contains(" of 64"));
}

#[test]
fn help_is_over_the_rest_and_goes_again() {
    let mut state = state(&stats(2), &positions(4));
    let before = shown(&mut state, 100, 40);
    press(&mut state, KeyCode::Char('?'));
    let help = shown(&mut state, 100, 40);
    assert!(help.contains("─ Keys ─") && help.contains("PgUp PgDn"), "{help}");
    press(&mut state, KeyCode::Char('?'));
    assert_eq!(shown(&mut state, 100, 40), before);
}

#[test]
fn an_interval_has_a_range() {
    assert_eq!(interval("250ms"), Ok(Duration::from_millis(250)));
    for text in ["0", "5", "99ms", "2h", "soon"] {
        assert!(interval(text).is_err(), "{text}");
    }
}

#[test]
fn who_asks_hears_of_changes_and_ends() {
    let now = Ask { interval: Duration::from_secs(3600), sort: Sort::Lag, paused: false };
    let ((tell, asks), (to, news)) = (mpsc::channel(), mpsc::channel());
    let asking = std::thread::spawn(move || {
        let fetch = |sort: Sort| News::Positions(Err(Text::of(sort.name())));
        ask(now, &asks, 1, fetch, &to);
    });
    let next = || match news.recv_timeout(Duration::from_secs(60)).unwrap() {
        News::Positions(Err(name)) => name.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(next(), "lag");
    tell.send(Ask { sort: Sort::Path, ..now }).unwrap();
    assert_eq!(next(), "path");
    tell.send(Ask { paused: true, ..now }).unwrap();
    // It goes on with what is wanted by then.
    tell.send(now).unwrap();
    assert_eq!(next(), "lag");
    drop(tell);
    asking.join().unwrap();
}

#[test]
fn a_panic_leaves_the_terminal_as_it_was() {
    const INNER: &str = "LOG_CAPTURER_TOP_PANICS";
    if std::env::var_os(INNER).is_some() {
        let _screen = Screen::open().unwrap();
        panic!("words to be read");
    }
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    let test = std::env::current_exe().unwrap();
    let name = "top::tests::a_panic_leaves_the_terminal_as_it_was";
    let inner = format!("{INNER}=1 {} --exact {name} --nocapture; stty -a", test.display());
    let mut script = std::process::Command::new("script");
    let script = script.args(["-qec", &inner]).arg(&seen).stdin(std::process::Stdio::null());
    let Ok(_) = script.output() else {
        println!("skipped: script (of util-linux) is not installed");
        return;
    };
    let seen = String::from_utf8_lossy(&std::fs::read(&seen).unwrap()).into_owned();
    let at = |what: &str| seen.find(what).unwrap_or_else(|| panic!("{what:?} is not in {seen:?}"));
    assert!(at("\u{1b}[?1049h") < at("\u{1b}[?1049l"), "{seen:?}");
    assert!(at("\u{1b}[?1049l") < at("words to be read"), "{seen:?}");
    assert!(at("\u{1b}[?25h") < at("words to be read"), "{seen:?}");
    // What stty says.
    assert!(at("words to be read") < at(" icanon"), "{seen:?}");
    assert!(!seen.contains("-icanon"), "{seen:?}");
}

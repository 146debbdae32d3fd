//! `log-capturer top`: on a terminal, which is tmux's, and once as text.

use crate::bed::{BINARY, Bed, PATIENCE, eventually, stop};
use crate::tools::{Output, run};
use bench::load::Rotation;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A terminal with a shell in it.
struct Terminal {
    dir: TempDir,
}

impl Terminal {
    /// None where there is no tmux.
    fn open(width: u16, height: u16) -> Option<Terminal> {
        if Command::new("tmux").arg("-V").output().is_err() {
            println!("skipped: tmux is not installed");
            return None;
        }
        let terminal = Terminal { dir: tempfile::tempdir().unwrap() };
        let (width, height) = (width.to_string(), height.to_string());
        terminal.tmux(&["new-session", "-d", "-x", &width, "-y", &height, "sh"]);
        terminal.tmux(&["set-option", "-g", "window-size", "manual"]);
        Some(terminal)
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(self.dir.path().join("socket"))
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .env("PS1", "shell> ")
            .env_remove("ENV")
            .env_remove("TMUX")
            .env_remove("NO_COLOR")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A line for the shell.
    fn enter(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn resize(&self, width: u16, height: u16) {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// With its colours.
    fn colours(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    fn wait(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if holds(&screen) {
                return screen;
            }
            assert!(start.elapsed() < PATIENCE, "never happened: {what}\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The terminal is a shell's again: its screen, cursor, line discipline.
    fn assert_restored(&self) {
        let is = |what: &str| self.tmux(&["display-message", "-p", what]).trim().to_owned();
        assert_eq!(is("#{alternate_on} #{cursor_flag}"), "0 1");
        self.enter("stty -a | tr ' ;' '\\n\\n' | grep -cxE 'icanon|echo|isig|opost'");
        self.wait("its mode is that of a shell", |screen| screen.lines().any(|line| line == "4"));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let socket = self.dir.path().join("socket");
        let _ = Command::new("tmux").arg("-S").arg(socket).arg("kill-server").output();
    }
}

fn is_colour(screen: &str) -> bool {
    screen.split("\u{1b}[").skip(1).any(|rest| {
        let codes = rest.split('m').next().unwrap_or_default();
        codes.split(';').any(|code| matches!(code.parse(), Ok(30..=38 | 40..=48)))
    })
}

#[test]
fn a_terminal_shows_it_obeys_keys_and_is_restored() {
    let Some(terminal) = Terminal::open(150, 45) else { return };
    let bed = Bed::new();
    let product = bed.start();
    let writer = bed.writer(2_000, u64::MAX, Rotation::Never);
    let url = format!("--url http://{}", product.api);
    let pid_file = terminal.dir.path().join("pid");
    let top = |args: &str| {
        let pid_file = pid_file.display();
        terminal.enter(&format!(
            "clear; sh -c 'echo $$ >{pid_file}; exec {BINARY} top {args}'; echo code=$?"
        ));
    };
    let ended = |code: &str| {
        terminal.wait("it ends", |screen| screen.lines().any(|line| line == code));
        terminal.assert_restored();
    };

    top(&url);
    let shown = |screen: &str| {
        let rate = screen.split(" lines/s").next().and_then(|head| head.lines().last());
        let rate = rate.and_then(|rate| rate.replace(',', "").parse::<u64>().ok()).unwrap_or(0);
        let all = ["q quit", "passes", "source to loki", "pipeline", "app-0.log", "dead letters"];
        rate > 500 && all.iter().all(|what| screen.contains(what))
    };
    terminal.wait("it shows rates, stages, sinks and sources", shown);
    assert!(is_colour(&terminal.colours()));

    terminal.resize(40, 12);
    let small = terminal.wait("it fits", |screen| {
        let lines: Vec<&str> = screen.trim_end().lines().collect();
        lines.len() == 12 && lines[11].starts_with("q quit") && screen.contains("lines/s")
    });
    assert!(small.lines().all(|line| line.chars().count() <= 40), "{small}");
    terminal.resize(1, 1);
    terminal.resize(150, 45);
    terminal.wait("it is whole again", shown);

    terminal.press("?");
    terminal.wait("help is shown", |screen| screen.contains("─ Keys ─"));
    terminal.press("Escape");
    terminal.wait("help is gone", |screen| !screen.contains("─ Keys ─"));
    terminal.press("s");
    terminal.wait("sources are sorted", |screen| screen.contains("Sources by path (2 of 2"));
    terminal.press("+");
    terminal.wait("it asks more often", |screen| screen.contains("every 500ms"));
    terminal.press("Tab");
    terminal.wait("alarms are chosen", |screen| screen.contains("▶ 1 Alarms"));
    terminal.press("p");
    terminal.wait("it pauses", |screen| screen.contains("PAUSED"));
    terminal.press("p");
    terminal.wait("it goes on", |screen| !screen.contains("PAUSED"));

    product.signal(Signal::STOP);
    let old = terminal.wait("it says that there is no answer", |screen| {
        screen.contains("STALE") && screen.contains("NO ANSWER for")
    });
    assert!(old.contains("passes"), "what was known is gone:\n{old}");
    product.signal(Signal::CONT);
    terminal.wait("it goes on", |screen| !screen.contains("NO ANSWER"));
    terminal.press("q");
    ended("code=0");

    // Without colours, and ended by a signal.
    top(&format!("{url} --no-color"));
    terminal.wait("it shows it", shown);
    assert!(!is_colour(&terminal.colours()), "{:?}", terminal.colours());
    terminal.press("C-c");
    ended("code=0");
    top("--url http://127.0.0.1:1");
    terminal.wait("it tries", |screen| screen.contains("NO ANSWER") && screen.contains("q quits"));
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    ended("code=0");

    writer.stop().unwrap();
    stop(product);
}

#[test]
fn where_its_terminal_goes_it_goes() {
    // Whether it is told or not.
    for command in ["exec", "trap '' HUP; exec setsid -w -c"] {
        let Some(terminal) = Terminal::open(100, 30) else { return };
        terminal.enter(&format!("{command} {BINARY} top --url http://127.0.0.1:1"));
        terminal
            .wait("it runs", |screen| screen.contains("no answer") || screen.contains("NO ANSWER"));
        let pane = terminal.tmux(&["display-message", "-p", "#{pane_tty}"]);
        let of_pane = |pid: &str| {
            let tty = fs::read_link(format!("/proc/{pid}/fd/0")).unwrap_or_default();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "log-capturer" && tty.to_string_lossy().starts_with(pane.trim())
        };
        let pids: Vec<String> = fs::read_dir("/proc")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && of_pane(pid))
            .collect();
        assert!(!pids.is_empty(), "it has this terminal");
        drop(terminal);
        let start = Instant::now();
        while pids.iter().any(|pid| of_pane(pid)) {
            assert!(start.elapsed() < PATIENCE, "it goes on without a terminal: {command}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn once_prints_all_of_it_as_text() {
    let bed = Bed::new();
    let product = bed.start();
    let written = bed.writer(5_000, 2_000, Rotation::Never).wait().unwrap();
    bed.assert_exactly_once(&written);
    let url = format!("http://{}", product.api);
    let once = || run(&["top", "--once", "--url", &url]);
    let told = || {
        let Output { code, out, errors } = once();
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{out}");
        ["SINCE", "passes", "source to loki  p99"].iter().all(|what| out.contains(what))
    };
    eventually("it tells of what was sent", &product, told);
    let out = once().out;
    let log = bed.setup.logs();
    let path = log.to_str().unwrap();
    for what in ["lines/s", "Alarms: ", "Shards (", "Sinks (1)", "Sources by lag (2 of 2", path] {
        assert!(out.contains(what), "{what}:\n{out}");
    }
    assert!(!out.chars().any(|c| c.is_control() && c != '\n'), "{out:?}");
    stop(product);
}

#[test]
fn what_is_no_instance_is_named_with_the_fix() {
    let failed = |args: &[&str], expected: i32| {
        let Output { code, out, errors } = run(&[&["top"], args].concat());
        assert_eq!((code, out.as_str()), (Some(expected), ""), "{args:?}: {errors}");
        errors
    };
    let none = failed(&["--once", "--url", "http://127.0.0.1:1"], 1);
    assert!(none.contains("no answer from http://127.0.0.1:1"), "{none}");
    assert!(none.contains("start log-capturer, or give the address"), "{none}");
    let bed = Bed::new();
    let other = failed(&["--once", "--url", &bed.stub.url()], 1);
    assert!(other.contains("does not answer as log-capturer does"), "{other}");
    assert!(other.contains("server.listen (8401 by default)"), "{other}");
    let wrong = failed(&["--once", "--url", "127.0.0.1:8401"], 78);
    assert!(wrong.contains("such as http://127.0.0.1:8401"), "{wrong}");
    let wrong = failed(&["--interval", "5"], 78);
    assert!(wrong.contains("add a unit"), "{wrong}");
    let piped = failed(&[], 1);
    assert!(piped.contains("--once"), "{piped}");
}

//! Steps at which a test has the process killed, or the step fail. Without the feature `failpoints`,
//! which only tests turn on, nothing of this is there.
//!
//! `LOG_CAPTURER_FAILPOINTS` holds rules, separated by commas: `STEP[:PART]@FROM[..TO]=WHAT`. The
//! FROM-th time that STEP is reached with a path that contains PART (and further times, up to TO)
//! WHAT happens: `kill`, an error by its number, such as `28` (ENOSPC), or so much time passes, such as
//! `150ms`.
//!
//! `NAME=TEXT` has the program say that of itself: `version=0.2.0`, `format=1` (the newest that it reads).

use std::path::Path;

/// Says that a step is reached; `path` is what it is done to.
///
/// # Errors
/// What a rule says.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn at(_: &'static str, _: &Path) -> std::io::Result<()> {
    Ok(())
}

/// What the program is to say of itself in place of what it is.
#[cfg(not(feature = "failpoints"))]
#[inline]
#[must_use]
pub fn told(_: &str) -> Option<&'static str> {
    None
}

#[cfg(feature = "failpoints")]
pub use rules::{at, told};

/// As [`at`], of a step that cannot fail.
#[inline]
pub fn passed(step: &'static str) {
    let _ = at(step, Path::new(""));
}

#[cfg(feature = "failpoints")]
mod rules {
    use super::Path;
    use std::io;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    #[derive(Debug)]
    struct Rule {
        step: String,
        part: String,
        from: u64,
        to: u64,
        what: What,
        reached: AtomicU64,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum What {
        Kill,
        Error(i32),
        Wait(Duration),
    }

    static TEXT: LazyLock<String> =
        LazyLock::new(|| std::env::var("LOG_CAPTURER_FAILPOINTS").unwrap_or_default());

    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
        let rules = TEXT.split(',').filter(|rule| rule.contains('@'));
        rules.map(|rule| parse(rule).unwrap_or_else(|| panic!("no rule: {rule}"))).collect()
    });

    #[must_use]
    pub fn told(name: &str) -> Option<&'static str> {
        let of = |rule: &'static str| rule.strip_prefix(name)?.strip_prefix('=');
        TEXT.split(',').find_map(of)
    }

    fn parse(rule: &str) -> Option<Rule> {
        let (reached, what) = rule.split_once('=')?;
        let (step, times) = reached.split_once('@')?;
        let (step, part) = step.split_once(':').unwrap_or((step, ""));
        let (from, to) = times.split_once("..").unwrap_or((times, times));
        let what = match what {
            "kill" => What::Kill,
            what => match what.strip_suffix("ms") {
                Some(ms) => What::Wait(Duration::from_millis(ms.parse().ok()?)),
                None => What::Error(what.parse().ok()?),
            },
        };
        Some(Rule {
            step: step.into(),
            part: part.into(),
            from: from.parse().ok()?,
            to: to.parse().ok()?,
            what,
            reached: AtomicU64::new(0),
        })
    }

    pub fn at(step: &'static str, path: &Path) -> io::Result<()> {
        for rule in RULES.iter().filter(|rule| rule.step == step) {
            if !path.to_string_lossy().contains(&rule.part) {
                continue;
            }
            let time = rule.reached.fetch_add(1, Ordering::Relaxed) + 1;
            if (rule.from..=rule.to).contains(&time) {
                match rule.what {
                    What::Kill => {
                        let this = rustix::process::getpid();
                        rustix::process::kill_process(this, rustix::process::Signal::KILL)?;
                        std::thread::park();
                    }
                    What::Error(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    What::Wait(time) => std::thread::sleep(time),
                }
            }
        }
        Ok(())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn rules_say_where_when_and_what() {
            let rule = parse("write.done:checkpoint@3..9=28").unwrap();
            assert_eq!((rule.step.as_str(), rule.part.as_str()), ("write.done", "checkpoint"));
            assert_eq!((rule.from, rule.to, rule.what), (3, 9, What::Error(28)));
            let rule = parse("read@1=kill").unwrap();
            assert_eq!((rule.part.as_str(), rule.from, rule.to), ("", 1, 1));
            assert_eq!(rule.what, What::Kill);
            let rule = parse("write@1..9=150ms").unwrap();
            assert_eq!(rule.what, What::Wait(Duration::from_millis(150)));
            assert!(parse("read@x=kill").is_none() && parse("read=kill").is_none());
        }
    }
}

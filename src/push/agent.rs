//! The HTTP client as its files have it: where one of them changes, it is made anew.

use super::auth::{LOOK_INTERVAL, State};
use crate::lock;
use perf::errors::ErrorKey;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

type Make = dyn Fn() -> Result<ureq::Agent, String> + Send + Sync;

/// Certificates are renewed while we run, and authorities change. What files cannot be used leave the
/// last ones in force: they may be half written, the key without its certificate.
pub struct Agents {
    make: Box<Make>,
    files: Vec<PathBuf>,
    held: Mutex<Held>,
}

struct Held {
    agent: ureq::Agent,
    files: Vec<Option<State>>,
    looked: Instant,
    /// It was said that the files cannot be used.
    failing: bool,
}

impl Agents {
    pub fn new(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<ureq::Agent, String> + Send + Sync + 'static,
    ) -> Result<Agents, String> {
        // Before they are read: what changes meanwhile is seen the next time.
        let states = files.iter().map(|file| State::of(file)).collect();
        let agent = make()?;
        let held = Held { agent, files: states, looked: Instant::now(), failing: false };
        Ok(Agents { make: Box::new(make), files, held: Mutex::new(held) })
    }

    /// Connections of the one before live as long as what is under way on them.
    pub fn now(&self) -> ureq::Agent {
        let mut held = lock(&self.held);
        if !self.files.is_empty() && held.looked.elapsed() >= LOOK_INTERVAL {
            self.look(&mut held);
        }
        held.agent.clone()
    }

    fn look(&self, held: &mut Held) {
        held.looked = Instant::now();
        let states: Vec<_> = self.files.iter().map(|file| State::of(file)).collect();
        if states == held.files {
            return;
        }
        held.files = states;
        match (self.make)() {
            Ok(agent) => {
                tracing::info!("the files of TLS were read again");
                (held.agent, held.failing) = (agent, false);
            }
            Err(error) if !std::mem::replace(&mut held.failing, true) => {
                tracing::warn!(
                    error_key = ErrorKey::TlsUnreadable.name(),
                    error,
                    "what the files of TLS held last is used"
                );
            }
            Err(_) => {}
        }
    }
}

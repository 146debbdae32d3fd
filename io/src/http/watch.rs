//! Who waits for a client, for what and since when.
//!
//! No request sets a timer: once a second all who wait are looked over, and who waited too long is
//! woken to end.

use super::Options;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client's part in beginning TLS.
    Handshake,
    /// The next request.
    Idle,
    Head,
    Body,
    /// The program's own time.
    Work,
    /// Until the client has taken an answer.
    Answer,
    /// Until the client has heard that this end closes.
    Close,
    /// Anything at all, on a connection with many requests at once.
    Shared,
}

#[derive(Debug)]
pub(super) struct Wait {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// Read in this phase.
    bytes: Cell<u64>,
    overdue: Cell<bool>,
    /// It was seen waiting in this phase before.
    long: Cell<bool>,
    /// Requests that are being answered.
    working: Cell<usize>,
    /// Too many wait already: this one may not wait for long.
    hurried: bool,
    waker: RefCell<Option<Waker>>,
}

/// For those that are hurried, everything takes at most this long.
const HURRIED_TIME_MAX: Duration = Duration::from_secs(2);
/// A client that goes on sending is heard for this long after its last answer, so that it gets to
/// read it: a socket that is closed with unread data resets the connection.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(2);
/// A slow start is not held against a client.
const BODY_RATE_FREE_TIME: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Wait {
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(Instant::now());
        self.bytes.set(0);
        self.overdue.set(false);
        self.long.set(false);
    }

    /// A request is being answered until this is dropped.
    pub fn work(&self) -> Working<'_> {
        self.working.set(self.working.get() + 1);
        Working(self)
    }

    /// Bytes came or went.
    pub fn moved(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    pub fn is_overdue(&self) -> bool {
        self.overdue.get()
    }

    pub fn is_long(&self) -> bool {
        self.long.get()
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whoever polls is woken when the wait is overdue, or long.
    pub fn listen(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }

    fn takes_too_long(&self, options: &Options, now: Instant) -> bool {
        let time = now.saturating_duration_since(self.since.get());
        let max = match self.phase.get() {
            Phase::Work => return false,
            Phase::Shared if self.working.get() > 0 => return false,
            Phase::Idle | Phase::Shared => options.idle_time_max,
            Phase::Head | Phase::Handshake => options.head_time_max,
            Phase::Answer => options.answer_time_max,
            Phase::Close => CLOSE_TIME_MAX,
            Phase::Body => {
                let expected = options.body_rate_min as f64 * time.as_secs_f64();
                if time > BODY_RATE_FREE_TIME && (self.bytes.get() as f64) < expected {
                    return true;
                }
                options.body_time_max
            }
        };
        time > if self.hurried { max.min(HURRIED_TIME_MAX) } else { max }
    }
}

/// The program's own time, on a connection with many requests at once.
pub(super) struct Working<'a>(&'a Wait);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.working.set(self.0.working.get() - 1);
        self.0.moved(1);
    }
}

/// All who wait.
#[derive(Debug)]
pub(super) struct Watch {
    options: Options,
    waits: RefCell<BTreeMap<u64, Rc<Wait>>>,
    next: Cell<u64>,
}

/// A wait that is looked after until it is dropped.
#[derive(Debug)]
pub(super) struct Watched {
    wait: Rc<Wait>,
    number: u64,
    watch: Rc<Watch>,
}

impl Deref for Watched {
    type Target = Wait;

    fn deref(&self) -> &Wait {
        &self.wait
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.waits.borrow_mut().remove(&self.number);
    }
}

impl Watched {
    /// Another wait beside this one.
    pub fn beside(&self, phase: Phase) -> Watched {
        Watch::add(&self.watch, phase, self.hurried)
    }
}

impl Watch {
    pub fn new(options: Options) -> Watch {
        Watch { options, waits: RefCell::default(), next: Cell::new(0) }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waits.borrow().len()
    }

    pub fn add(self: &Rc<Self>, phase: Phase, hurried: bool) -> Watched {
        let number = self.next.get();
        self.next.set(number + 1);
        let wait = Rc::new(Wait {
            phase: Cell::new(phase),
            since: Cell::new(Instant::now()),
            bytes: Cell::new(0),
            overdue: Cell::new(false),
            long: Cell::new(false),
            working: Cell::new(0),
            hurried,
            waker: RefCell::default(),
        });
        self.waits.borrow_mut().insert(number, wait.clone());
        Watched { wait, number, watch: self.clone() }
    }

    pub async fn look_regularly(self: Rc<Self>) {
        loop {
            glommio::timer::sleep(LOOK_INTERVAL).await;
            let now = Instant::now();
            for wait in self.waits.borrow().values() {
                if wait.takes_too_long(&self.options, now) {
                    wait.overdue.set(true);
                    wait.wake();
                } else if wait.phase.get() == Phase::Shared && wait.bytes.get() > 0 {
                    wait.enter(Phase::Shared);
                } else if wait.phase.get() == Phase::Idle && !wait.is_long() {
                    // A second look: its next answer does not come at once.
                    if now.saturating_duration_since(wait.since.get()) > LOOK_INTERVAL {
                        wait.long.set(true);
                        wait.wake();
                    }
                }
            }
        }
    }
}

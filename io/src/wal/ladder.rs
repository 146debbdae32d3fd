//! The positions of a log, one ladder: `trimmed <= acked <= sent <= durable <= appended`.

use crate::format::Seq;

macro_rules! positions {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub Seq);
    )*};
}

positions! {
    /// The last frame of the segments that were removed.
    Trimmed
    /// The last frame that every sink is past, without a hole below it.
    Acked
    /// The highest frame handed to egress.
    Sent
    /// The last frame that a completed sync covers.
    Durable
    /// The last frame taken in.
    Appended
}

/// Each position only moves up, and never past the one above it:
/// `trimmed <= acked <= sent <= durable <= appended`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ladder {
    pub trimmed: Trimmed,
    pub acked: Acked,
    pub sent: Sent,
    pub durable: Durable,
    pub appended: Appended,
}

impl Ladder {
    /// After recovery: everything up to `durable` stands on the disk, `acked` need not be sent.
    #[must_use]
    pub fn recovered(trimmed: Seq, acked: Seq, durable: Seq) -> Ladder {
        let ladder = Ladder {
            trimmed: Trimmed(trimmed),
            acked: Acked(acked),
            sent: Sent(acked),
            durable: Durable(durable),
            appended: Appended(durable),
        };
        ladder.check();
        ladder
    }

    pub fn append(&mut self) -> Seq {
        self.appended.0 = self.appended.0.next();
        self.appended.0
    }

    pub fn make_durable(&mut self, to: Seq) {
        assert!(to >= self.durable.0, "durable moves up only");
        self.durable.0 = to;
        self.check();
    }

    pub fn send(&mut self, to: Seq) {
        assert!(to >= self.sent.0, "sent moves up only");
        self.sent.0 = to;
        self.check();
    }

    pub fn ack(&mut self, to: Seq) {
        assert!(to >= self.acked.0, "acked moves up only");
        self.acked.0 = to;
        self.check();
    }

    pub fn trim(&mut self, to: Seq) {
        assert!(to >= self.trimmed.0, "trimmed moves up only");
        self.trimmed.0 = to;
        self.check();
    }

    fn check(&self) {
        assert!(self.trimmed.0 <= self.acked.0, "trimmed is past acked: {self:?}");
        assert!(self.acked.0 <= self.sent.0, "acked is past sent: {self:?}");
        assert!(self.sent.0 <= self.durable.0, "sent is past durable: {self:?}");
        assert!(self.durable.0 <= self.appended.0, "durable is past appended: {self:?}");
    }
}

//! How much may be on its way to another thread at once.

/// Bytes that were given out and are not back yet; of one thread, so a plain count.
#[derive(Debug)]
pub struct Credit {
    bytes_max: u64,
    out: u64,
}

impl Credit {
    #[must_use]
    pub fn new(bytes_max: u64) -> Credit {
        assert!(bytes_max > 0);
        Credit { bytes_max, out: 0 }
    }

    /// Whether `bytes` may go out now. One item larger than the whole credit may go out alone.
    #[must_use]
    pub fn allows(&self, bytes: u64) -> bool {
        self.out == 0 || self.out + bytes <= self.bytes_max
    }

    pub fn take(&mut self, bytes: u64) {
        assert!(self.allows(bytes), "credit of {} exceeded", self.bytes_max);
        self.out += bytes;
    }

    pub fn give_back(&mut self, bytes: u64) {
        self.out = self.out.checked_sub(bytes).expect("no more comes back than went out");
    }

    #[must_use]
    pub fn out(&self) -> u64 {
        self.out
    }

    /// What may still go out.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.bytes_max.saturating_sub(self.out)
    }
}

//! Where the lines of a run go: the stub, or a real Loki that is asked afterwards.

use crate::load::{Corpus, LineSum, Written};
use crate::loki;
use crate::measure::now_ns;
use crate::product::{self, Product};
use crate::stub::{self, Stub, Verified};
use std::time::{Duration, Instant};

/// What the product counts as accepted by the sink.
const SENT: &str = "log_capturer_push_entries_total";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Product(#[from] product::Error),
    #[error(transparent)]
    Stub(#[from] stub::Error),
    #[error(transparent)]
    Loki(#[from] loki::Error),
}

pub enum Receiver {
    Stub(Stub),
    Loki { url: String, start_ns: i64 },
}

impl Receiver {
    /// A real Loki is asked at once, so that one that is not there is said before lines are written.
    pub fn start(loki: Option<&str>, options: stub::Options) -> Result<Receiver, Error> {
        let Some(url) = loki else { return Ok(Receiver::Stub(Stub::start(options)?)) };
        let receiver = Receiver::Loki { url: url.to_owned(), start_ns: now_ns() };
        receiver.query()?;
        Ok(receiver)
    }

    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Receiver::Stub(stub) => stub.url(),
            Receiver::Loki { url, .. } => url.clone(),
        }
    }

    #[must_use]
    pub fn stub(&self) -> Option<&Stub> {
        match self {
            Receiver::Stub(stub) => Some(stub),
            Receiver::Loki { .. } => None,
        }
    }

    /// The label by which a run's lines are found among others.
    #[must_use]
    pub fn file_keys(&self) -> Vec<String> {
        match self {
            Receiver::Stub(_) => Vec::new(),
            Receiver::Loki { start_ns, .. } => {
                vec![format!("labels: {{ job: bench, run: \"{start_ns}\" }}")]
            }
        }
    }

    /// Entries taken so far.
    pub fn taken(&self, product: &Product) -> Result<u64, Error> {
        Ok(match self {
            Receiver::Stub(stub) => stub.entries_taken(),
            Receiver::Loki { .. } => product::whole(product.metric(SENT)?),
        })
    }

    /// Waits until so many entries were taken; what is missing after `limit` shows in the verdict.
    pub fn await_taken(
        &self,
        product: &Product,
        entries: u64,
        limit: Duration,
    ) -> Result<(), Error> {
        match self {
            Receiver::Stub(stub) => {
                let _ = stub.wait_until(limit, |stats| stats.entries >= entries);
            }
            Receiver::Loki { .. } => {
                let start = Instant::now();
                while self.taken(product)? < entries && start.elapsed() < limit {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        Ok(())
    }

    pub fn verify(&self, written: &Written) -> Result<Verified, Error> {
        Ok(match self {
            Receiver::Stub(stub) => stub.verify(written),
            Receiver::Loki { .. } => loki::verify(&self.query()?, written),
        })
    }

    /// Whether exactly the corpus' lines arrived: its sum and the received one.
    pub fn sums(&self, corpus: &Corpus) -> Result<(LineSum, LineSum), crate::commands::Error> {
        let received = match self {
            Receiver::Stub(stub) => stub.stats().sum,
            Receiver::Loki { .. } => {
                let mut sum = LineSum::default();
                self.query()?.iter().for_each(|entry| sum.add(entry.line.as_bytes()));
                sum
            }
        };
        Ok((corpus.sum()?, received))
    }

    fn query(&self) -> Result<Vec<loki::Entry>, Error> {
        let Receiver::Loki { url, start_ns } = self else { return Ok(Vec::new()) };
        Ok(loki::query(url, &format!("{{run=\"{start_ns}\"}}"), *start_ns)?)
    }
}

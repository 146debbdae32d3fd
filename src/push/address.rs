//! Where the sink is, or the proxy before it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long an address is used before its name is looked up again.
const ADDRESS_TIME_MAX: Duration = Duration::from_secs(10);

/// The address that connections go to. ureq asks for it with every request, and the lookup starts a
/// thread, so that it can be given up in time: here that happens now and then, and after a failure.
#[derive(Debug, Default, Clone)]
pub struct Addresses {
    /// Whose address it is, where that is not who is asked for: a proxy's.
    instead: Option<Uri>,
    found: Arc<Mutex<Option<Found>>>,
}

/// When, and what.
type Found = (Instant, Vec<SocketAddr>);

impl Addresses {
    pub fn new(instead: Option<Uri>) -> Addresses {
        Addresses { instead, found: Arc::default() }
    }

    pub fn forget(&self) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Resolver for Addresses {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let resolver = DefaultResolver::default();
        if let Some((at, known)) = known
            && at.elapsed() < ADDRESS_TIME_MAX
        {
            let mut addresses = resolver.empty();
            known.into_iter().for_each(|address| addresses.push(address));
            return Ok(addresses);
        }
        let uri = self.instead.as_ref().unwrap_or(uri);
        let found = resolver.resolve(uri, config, timeout)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), found.to_vec()));
        Ok(found)
    }
}

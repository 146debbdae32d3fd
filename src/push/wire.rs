//! Connections as ureq makes them, and four things that it leaves out: another name for TLS than the
//! url's host, http through a proxy without a tunnel, whether a request that broke did so on a
//! connection that was kept from an earlier one, and the answer of a server that did not read all of
//! a request.

use std::cell::Cell;
use std::io::ErrorKind;
use std::sync::Arc;
use ureq::http::Uri;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector,
    TcpConnector, Transport,
};

/// Connections to the sink at `url`.
///
/// `server_name` is what its certificate is for, where that is not the url's host. Only TLS gets to
/// see it: the Host header, the address and the proxy's tunnel stay those of the url. With `forward`
/// connections go to a proxy, and requests ask it for the whole url.
pub fn connector(
    url: &Uri,
    server_name: Option<&str>,
    forward: bool,
) -> Result<impl Connector + use<>, String> {
    let name = server_name.map(|name| {
        let brackets = name.contains(':');
        let host = if brackets { format!("[{name}]") } else { name.to_owned() };
        format!("https://{host}/").parse().map_err(|_| format!("{name:?} is no host name"))
    });
    let authority = url.authority().ok_or("the url has no host")?;
    let origin = forward.then(|| Arc::from(format!("http://{authority}")));
    Ok(
        ().chain(ConnectProxyConnector::default())
            .chain(TcpConnector::default())
            .chain(NamedTls { rustls: RustlsConnector::default(), name: name.transpose()? })
            .chain(Watch { url: url.clone(), origin }),
    )
}

#[derive(Debug)]
struct NamedTls {
    rustls: RustlsConnector,
    /// An url with the name as its host.
    name: Option<Uri>,
}

impl<In: Transport> Connector<In> for NamedTls {
    type Out = <RustlsConnector as Connector<In>>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(name) = self.name.as_ref().filter(|_| details.needs_tls()) else {
            return self.rustls.connect(details, chained);
        };
        let named = ConnectionDetails {
            uri: name,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.rustls.connect(&named, chained)
    }
}

/// What became of the request that a thread sends.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    connected: bool,
    sent: bool,
    answered: bool,
}

thread_local! {
    // ureq does not tell what an error happened to; but a request stays on its thread.
    static SEEN: Cell<Seen> = const { Cell::new(Seen { connected: false, sent: false, answered: false }) };
}

/// A request begins on this thread.
pub fn begin() {
    SEEN.set(Seen::default());
}

/// Whether this thread's request, which broke, went out on a connection that was kept from an earlier
/// one, and nothing came back: the sink may have closed it just then, as it may whenever it is idle.
pub fn broke_on_a_kept_connection() -> bool {
    let Seen { connected, sent, answered } = SEEN.get();
    sent && !connected && !answered
}

fn see(change: impl FnOnce(&mut Seen)) {
    let mut seen = SEEN.get();
    change(&mut seen);
    SEEN.set(seen);
}

#[derive(Debug)]
struct Watch {
    url: Uri,
    origin: Option<Arc<str>>,
}

impl<In: Transport> Connector<In> for Watch {
    type Out = Watched<In>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        // A tunnel is within a connection to the proxy, which comes by here as well: what comes over
        // that may be TLS's own, and no answer.
        let is_sink = details.uri.scheme() == self.url.scheme()
            && details.uri.authority() == self.url.authority();
        see(|seen| seen.connected |= is_sink);
        let origin = self.origin.clone();
        Ok(chained.map(|inner| Watched { inner, is_sink, origin, at_head: true, broke: None }))
    }
}

#[derive(Debug)]
struct Watched<T> {
    inner: T,
    is_sink: bool,
    /// Put before the path of each request, as a proxy wants it.
    origin: Option<Arc<str>>,
    /// The next bytes to be sent begin a request.
    at_head: bool,
    /// Why the rest of the request could not be sent.
    broke: Option<ureq::Error>,
}

impl<T: Transport> Watched<T> {
    fn transmit(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let at_head = std::mem::replace(&mut self.at_head, false);
        let Some(origin) = self.origin.as_ref().filter(|_| at_head) else {
            return self.inner.transmit_output(amount, timeout);
        };
        let head = with_origin(&self.inner.buffers().output()[..amount], origin);
        let room = self.inner.buffers().output().len();
        for piece in head.chunks(room) {
            self.inner.buffers().output()[..piece.len()].copy_from_slice(piece);
            self.inner.transmit_output(piece.len(), timeout)?;
        }
        Ok(())
    }
}

impl<T: Transport> Transport for Watched<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if self.is_sink {
            see(|seen| seen.sent = true);
        }
        if self.broke.is_some() {
            return Ok(());
        }
        match self.transmit(amount, timeout) {
            // Who refuses a push for its size may do so before it has come, and close. The answer is
            // looked for before that counts as an error.
            Err(ureq::Error::Io(error))
                if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
            {
                self.broke = Some(ureq::Error::Io(error));
                Ok(())
            }
            sent => sent,
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.at_head = true;
        let came = self.inner.await_input(timeout);
        if self.is_sink && matches!(came, Ok(true)) {
            see(|seen| seen.answered = true);
        }
        match self.broke.take() {
            Some(error) if !matches!(came, Ok(true)) => Err(error),
            broke => {
                self.broke = broke;
                came
            }
        }
    }

    fn is_open(&mut self) -> bool {
        self.broke.is_none() && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// `POST /path …` as `POST http://host/path …`.
fn with_origin(head: &[u8], origin: &str) -> Vec<u8> {
    let path = head.iter().position(|byte| *byte == b' ').map_or(0, |at| at + 1);
    [&head[..path], origin.as_bytes(), &head[path..]].concat()
}

//! Who may come in: listeners that other hosts reach, and what is asked of them there.

use super::finding::Finding;
use config::{Config, ListenTls};
use std::net::SocketAddr;

const NAME: &str = "listeners";

#[must_use]
pub fn look(config: &Config) -> Vec<Finding> {
    let (server, metrics) = (&config.server, &config.metrics);
    vec![
        judge("server", server.listen, server.tls.as_ref(), server.asks()),
        judge("metrics", metrics.listen, metrics.tls.as_ref(), metrics.asks(server)),
    ]
}

fn judge(section: &str, listen: SocketAddr, tls: Option<&ListenTls>, asks: bool) -> Finding {
    let key = format!("{section}.listen");
    let found = if listen.ip().to_canonical().is_loopback() {
        Finding::ok(NAME, format!("{listen} is for this host"))
    } else if !asks {
        Finding::warning(
            NAME,
            format!("whoever reaches {listen} may come in: nobody is asked who they are"),
            format!(
                "where others than those who may reach it, give tokens (log-capturer token new) or {section}.tls.client_ca_file, \
                 and remove allow_unauthenticated"
            ),
        )
    } else if tls.is_none() {
        Finding::warning(
            NAME,
            format!("tokens come to {listen} as they are: whoever sees the traffic has them"),
            format!("set {section}.tls, or have it behind something that ends TLS on this host"),
        )
    } else {
        Finding::ok(NAME, format!("{listen} asks who comes, over TLS"))
    };
    found.of(key)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn what_others_reach_is_asked_for_over_tls() {
        let tls = ListenTls { cert_file: "/c".into(), key_file: "/k".into(), client_ca_file: None };
        for (listen, tls, asks, level, says) in [
            ("127.0.0.1:1", None, false, Level::Ok, "this host"),
            ("[::ffff:127.0.0.1]:1", None, false, Level::Ok, "this host"),
            ("0.0.0.0:1", Some(&tls), false, Level::Warning, "nobody is asked"),
            ("10.0.0.1:1", None, true, Level::Warning, "sees the traffic"),
            ("[::]:1", Some(&tls), true, Level::Ok, "over TLS"),
        ] {
            let found = judge("server", listen.parse().unwrap(), tls, asks);
            assert_eq!(found.level, level, "{found:?}");
            assert!(found.found.contains(says), "{found:?}");
        }
    }
}

//! Which proxy is in between, if any.

use ureq::http::Uri;

/// What the operator chose.
#[derive(Clone, Default)]
pub enum Choice {
    #[default]
    None,
    /// HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, as curl takes them. Only where it was asked for:
    /// what a service manager or a shell happens to set is not to lead logs elsewhere.
    Environment,
    /// An url, which may hold a password.
    At(String),
}

/// The way through a proxy.
pub enum Way {
    Direct,
    /// For https: ureq asks the proxy for a tunnel.
    Tunnel(ureq::Proxy),
    /// For http: the proxy itself is asked for the url. ureq would ask for a tunnel here too, and most
    /// proxies give one to few ports only.
    Forward {
        proxy: Uri,
        /// Of a Proxy-Authorization header.
        authorization: Option<String>,
    },
}

impl Way {
    /// `key` is the key of the configuration, for errors; these do not repeat a proxy's url, which
    /// may hold a password.
    pub fn choose(
        choice: &Choice,
        url: &Uri,
        key: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Way, String> {
        let (from, text) = match choice {
            Choice::None => return Ok(Way::Direct),
            Choice::At(text) => (key.to_owned(), text.clone()),
            Choice::Environment => match of_environment(url, variable) {
                Some((name, text)) => (format!("{key}: the environment variable {name}"), text),
                None => return Ok(Way::Direct),
            },
        };
        Way::through(&text, url).ok_or_else(|| {
            format!(
                "{from}: expected a proxy such as http://10.0.0.1:3128, found something else; only \
                 http:// proxies are known here"
            )
        })
    }

    fn through(text: &str, url: &Uri) -> Option<Way> {
        let proxy = ureq::Proxy::new(text).ok()?;
        if proxy.protocol() != ureq::ProxyProtocol::Http {
            return None;
        }
        if url.scheme_str() == Some("https") {
            return Some(Way::Tunnel(proxy));
        }
        let authorization = proxy
            .username()
            .map(|user| super::auth::basic(user, proxy.password().unwrap_or_default()));
        let address = format!("http://{}:{}/", proxy.host(), proxy.port());
        Some(Way::Forward { proxy: address.parse().ok()?, authorization })
    }
}

/// The variable that holds the proxy for this url, and its value.
fn of_environment(
    url: &Uri,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Option<(&'static str, String)> {
    let given = |names: &[&'static str]| {
        names.iter().find_map(|name| {
            variable(name).filter(|value| !value.is_empty()).map(|value| (*name, value))
        })
    };
    let except = given(&["no_proxy", "NO_PROXY"]).map(|(_, value)| value).unwrap_or_default();
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    if is_excepted(&host, &except) {
        return None;
    }
    let names: &[&str] = if url.scheme_str() == Some("https") {
        &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    } else {
        &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
    };
    given(names)
}

/// `example.com` and `.example.com` stand for that host and all below it, `*` for every host.
fn is_excepted(host: &str, except: &str) -> bool {
    except.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let name = entry.trim_start_matches("*.").trim_start_matches('.').trim_matches(['[', ']']);
        entry == "*"
            || host == name
            || host.strip_suffix(name).is_some_and(|below| below.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(choice: &Choice, url: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Way::choose(choice, &url.parse().unwrap(), "sinks.loki.proxy", &variable).map(|way| {
            match way {
                Way::Direct => "direct".into(),
                Way::Tunnel(proxy) => format!("tunnel {}:{}", proxy.host(), proxy.port()),
                Way::Forward { proxy, authorization } => {
                    format!("forward {proxy} {}", authorization.unwrap_or_default())
                }
            }
        })
    }

    #[test]
    fn the_environment_counts_where_it_is_asked_for() {
        let variables =
            [("HTTPS_PROXY", "http://a:1"), ("http_proxy", "b:2"), ("NO_PROXY", "in.org, .x")];
        let of = |url| way(&Choice::Environment, url, &variables);
        assert_eq!(of("https://h/p").as_deref(), Ok("tunnel a:1"));
        assert_eq!(of("http://h/p").as_deref(), Ok("forward http://b:2/ "));
        for url in ["https://in.org", "https://a.IN.org:3100", "http://a.x", "http://x"] {
            assert_eq!(of(url).as_deref(), Ok("direct"), "{url}");
        }
        for url in ["https://win.org", "https://in.org.uk"] {
            assert_eq!(of(url).as_deref(), Ok("tunnel a:1"), "{url}");
        }
        assert_eq!(way(&Choice::None, "https://h", &variables).as_deref(), Ok("direct"));
        let of = |variables| way(&Choice::Environment, "http://[::1]:3100", variables);
        assert_eq!(of(&[("ALL_PROXY", "http://c:3")]).as_deref(), Ok("forward http://c:3/ "));
        assert_eq!(of(&[("HTTPS_PROXY", "http://c:3")]).as_deref(), Ok("direct"));
        assert_eq!(of(&[("ALL_PROXY", "")]).as_deref(), Ok("direct"));
        let everything = [("ALL_PROXY", "http://c:3"), ("no_proxy", "*")];
        assert_eq!(of(&everything).as_deref(), Ok("direct"));
        assert_eq!(of(&[everything[0], ("no_proxy", "::1")]).as_deref(), Ok("direct"));
    }

    #[test]
    fn a_password_goes_to_the_proxy_and_into_no_error() {
        let at = |text: &str| Choice::At(text.into());
        let found = way(&at("http://me:p%40ss@a:1"), "http://h", &[]);
        assert_eq!(found.as_deref(), Ok("forward http://a:1/ Basic bWU6cEBzcw=="));
        assert_eq!(way(&at("http://me:x@a:1"), "https://h", &[]).as_deref(), Ok("tunnel a:1"));
        let variables = [("ALL_PROXY", "socks5://me:s3cret@a:1")];
        let error = way(&Choice::Environment, "http://h", &variables).unwrap_err();
        assert!(
            error.starts_with("sinks.loki.proxy: the environment variable ALL_PROXY: expected")
        );
        assert!(!error.contains("s3cret"), "{error}");
    }
}

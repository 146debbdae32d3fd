//! How a sink is reached: TLS, auth, proxy and headers; and no secret is shown.

use config::{Auth, Config, Loki, Proxy, SinkKind, parse};

fn env(name: &str) -> Option<String> {
    match name {
        "PASSWORD" => Some("s3cret$".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

/// A configuration with these keys of the sink.
fn text(url: &str, keys: &[&str]) -> String {
    let keys: String = keys.iter().map(|key| format!("    {key}\n")).collect();
    format!(
        "version: 1\ndata_dir: /data\nsinks:\n  loki:\n    url: \"{url}\"\n{keys}sources: {{ files: [{{ include: [/a] }}] }}\n"
    )
}

fn good(text: &str) -> Config {
    parse(text, "config.yaml", &env).unwrap_or_else(|errors| panic!("{errors}"))
}

fn loki(config: &Config) -> &Loki {
    let SinkKind::Loki(loki) = &config.sinks[0].kind;
    loki
}

/// The errors, without the file's name and their count.
fn errors_of(url: &str, keys: &[&str]) -> Vec<String> {
    let errors = parse(&text(url, keys), "c", &env).expect_err("it is wrong").to_string();
    assert!(!errors.contains("s3cret"), "{errors}");
    let mut lines: Vec<String> =
        errors.lines().map(|line| line.trim_start_matches("c:").to_owned()).collect();
    lines.pop();
    lines
}

fn errors(keys: &[&str]) -> Vec<String> {
    errors_of("https://h", keys)
}

#[test]
fn values_are_taken_as_they_are_meant() {
    let tls = "tls: { ca_file: /ca, cert_file: /cert, key_file: /key, server_name: loki.internal }";
    let basic = "auth: { basic: { username: me, password: \"${PASSWORD}\" } }";
    let proxy = "proxy: \"http://me:${PASSWORD}@10.0.0.1:3128\"";
    let headers = "headers: { X-Api-Key: \"${PASSWORD}\" }";
    let config = good(&text("https://h", &[tls, basic, proxy, headers]));
    let sink = loki(&config);
    assert_eq!(sink.tls.ca_file.as_deref(), Some("/ca".as_ref()));
    assert_eq!(sink.tls.cert_file.as_deref(), Some("/cert".as_ref()));
    assert_eq!(sink.tls.key_file.as_deref(), Some("/key".as_ref()));
    assert_eq!(sink.tls.server_name.as_deref(), Some("loki.internal"));
    let Some(Auth::Basic(basic)) = &sink.auth else { panic!("{:?}", sink.auth) };
    assert_eq!(basic.username, "me");
    assert_eq!(basic.password.as_ref().unwrap().reveal(), "s3cret$");
    let Proxy::At(proxy) = &sink.proxy else { panic!("{:?}", sink.proxy) };
    assert_eq!(proxy.reveal(), "http://me:s3cret$@10.0.0.1:3128");
    assert_eq!(sink.headers["x-api-key"].reveal(), "s3cret$");

    let printed = config.to_yaml();
    assert!(!printed.contains("s3cret"), "{printed}");
    assert_eq!(good(&printed), config, "with the same variables, it is the same: {printed}");
    assert!(!format!("{config:?}").contains("s3cret"));

    for auth in [
        "auth: { basic: { username: me, password_file: /p } }",
        "auth: { bearer: { token: \"${PASSWORD}\" } }",
        "auth: { bearer: { token_file: /t } }",
        "auth: {}",
        "proxy: environment",
        "proxy: http://[::1]:3128/",
    ] {
        let config = good(&text("http://h", &[auth]));
        assert_eq!(good(&config.to_yaml()), config, "{}", config.to_yaml());
    }
    let Some(Auth::Bearer(_)) =
        &loki(&good(&text("http://h", &["auth: { bearer: { token: x } }"]))).auth
    else {
        panic!("a bearer");
    };
}

#[test]
fn a_secret_is_printed_as_its_variable_or_not_at_all_and_that_is_not_taken_for_one() {
    for (key, at) in [
        ("auth: { basic: { username: me, password: s3cret } }", "auth.basic.password"),
        ("auth: { basic: { username: me, password: \"x${PASSWORD}\" } }", "auth.basic.password"),
        ("auth: { bearer: { token: s3cret } }", "auth.bearer.token"),
        ("auth: { bearer: { token: \"${NONE:-s3cret}\" } }", "auth.bearer.token"),
        ("proxy: \"http://me:s3cret@10.0.0.1:3128\"", "proxy"),
        ("proxy: \"http://s3cret@10.0.0.1:3128\"", "proxy"),
        ("headers: { x-key: s3cret }", "headers.x-key"),
    ] {
        let config = good(&text("http://h", &[key]));
        let printed = config.to_yaml();
        assert!(!printed.contains("s3cret") && printed.contains("<redacted>"), "{printed}");
        let error = parse(&printed, "c", &env).expect_err("a redaction").to_string();
        assert!(error.contains(&format!("sinks.loki.{at}: ")), "{error}");
        assert!(error.contains("found <redacted>; that is what is printed in place"), "{error}");
    }
    let proxy = good(&text("http://h", &["proxy: \"http://me:s3cret@10.0.0.1:3128\""]));
    assert!(proxy.to_yaml().contains("http://<redacted>@10.0.0.1:3128"), "{}", proxy.to_yaml());
}

#[test]
fn what_is_wrong_with_tls_is_said() {
    assert_eq!(
        errors(&["tls:", "  ca_file: ca.pem", "  cert_file: /c", "  server_name: \"h:443\""]),
        [
            "7: sinks.loki.tls.ca_file: expected an absolute path, found \"ca.pem\"; begin it with \
             /, such as /etc/log-capturer/file",
            "7: sinks.loki.tls.key_file: expected a path along with cert_file, found nothing; a \
             client certificate needs both",
            "9: sinks.loki.tls.server_name: expected the name in the sink's certificate, found \
             \"h:443\"; a host name or an IP address, without a port",
        ]
    );
    assert_eq!(
        errors(&["tls: { key_file: /k, ca: /c }"]),
        [
            "6: sinks.loki.tls.cert_file: expected a path along with key_file, found nothing; a \
             client certificate needs both",
            "6: sinks.loki.tls.ca: this key is unknown; there is ca_file, cert_file, key_file, \
             server_name",
        ]
    );
    assert_eq!(
        errors_of("http://h", &["tls: { ca_file: /c }"]),
        ["6: sinks.loki.tls: expected a url that begins with https:// along with it, found \
          http://; change the url, or remove tls"]
    );
    for name in ["a..b", "-", "ä", "a/b", ""] {
        let found = errors(&[&format!("tls: {{ server_name: \"{name}\" }}")]);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
    }
}

#[test]
fn what_is_wrong_with_auth_is_said_and_no_secret_with_it() {
    assert_eq!(
        errors(&["auth: { basic: { username: a, password: s3cret }, bearer: { token: s3cret } }"]),
        ["6: sinks.loki.auth: expected basic or bearer, found both; remove the one that the sink \
          does not ask for"]
    );
    assert_eq!(
        errors(&["auth: { basic: { username: \"a:b\" } }"]),
        [
            "6: sinks.loki.auth.basic.username: expected a user's name without a colon, found \
             \"a:b\"",
            "6: sinks.loki.auth.basic.password: expected password or password_file, found nothing; \
             such as password_file: /etc/log-capturer/password",
        ]
    );
    assert_eq!(
        errors(&["auth: { bearer: { token: s3cret, token_file: token } }"]),
        [
            "6: sinks.loki.auth.bearer.token_file: expected an absolute path, found \"token\"; \
             begin it with /, such as /etc/log-capturer/file",
            "6: sinks.loki.auth.bearer.token: expected token or token_file, found both; remove one \
             of them",
        ]
    );
    assert_eq!(
        errors(&["auth: { basic: { password: \"${EMPTY}\" } }"]),
        [
            "6: sinks.loki.auth.basic.username: expected a user's name, found nothing; this key is \
             required",
            "6: sinks.loki.auth.basic.password: expected a password, found an empty one",
        ]
    );
    assert_eq!(
        errors(&["auth: { bearer: { token: \"s3cret \" } }"]),
        [
            "6: sinks.loki.auth.bearer.token: expected a token of visible ASCII signs, found another \
          sign in it; the value is a secret and not shown; mind spaces and line ends"
        ]
    );
    assert_eq!(
        errors(&["auth: { basic: { username: me, password: \"s3cret$5\" } }"]),
        ["6: sinks.loki.auth.basic.password: expected variables such as ${PASSWORD} in it, found \
          another $; write $$ for a dollar sign; the value may be a secret and is not shown"]
    );
    assert_eq!(
        errors(&["auth: { basic: { username: me, password: \"${NONE}\" } }"]),
        [
            "6: sinks.loki.auth.basic.password: the environment variable NONE is not set; set it, or \
          give a default: ${NONE:-default}"
        ]
    );
    assert_eq!(
        errors(&["auth: { token: s3cret }"]),
        ["6: sinks.loki.auth.token: this key is unknown; there is basic, bearer"]
    );
    for (keys, at) in [
        ("auth: s3cret", "auth"),
        ("auth: { bearer: s3cret }", "auth.bearer"),
        ("auth: { basic: \"me:s3cret\" }", "auth.basic"),
    ] {
        let expected = format!("6: sinks.loki.{at}: expected a map, found a text");
        assert_eq!(errors(&[keys])[0], expected);
    }
}

#[test]
fn a_password_in_the_url_is_refused_with_the_keys_for_it_and_not_repeated() {
    for url in
        ["https://me:s3cret@h", "http://me:s3cret@h:1/x", "http://me:s3cret#x@h", "me:s3cret@h"]
    {
        assert_eq!(
            errors_of(url, &[]),
            [
                "5: sinks.loki.url: expected no user and password; put them in sinks.loki.auth.basic: \
              username, and password or password_file"
            ],
            "{url}"
        );
    }
    assert_eq!(
        errors_of("http://me:s3cret$x@h", &[]),
        [
            "5: sinks.loki.url: expected a variable such as ${HOSTNAME}, found another $; write $$ for \
          a dollar sign"
        ]
    );
    good(&text("http://h/a@b", &[]));
}

#[test]
fn what_is_wrong_with_the_proxy_is_said_and_no_secret_with_it() {
    for proxy in [
        "https://10.0.0.1:3128",
        "socks5://10.0.0.1:1080",
        "http://me:s3cret@10.0.0.1",
        "10.0.0.1:3128",
        "http://me:s3/cret@10.0.0.1:3128",
        "http://10.0.0.1:3128/path",
        "yes",
    ] {
        assert_eq!(
            errors(&[&format!("proxy: \"{proxy}\"")]),
            [
                "6: sinks.loki.proxy: expected none, environment, or http://HOST:PORT, found something \
              else; such as http://10.0.0.1:3128 or http://user:${PROXY_PASSWORD}@10.0.0.1:3128; \
              signs other than letters and digits of a password are written as %40"
            ],
            "{proxy}"
        );
    }
}

#[test]
fn what_is_wrong_with_headers_is_said_and_no_value_with_it() {
    let found = errors(&[
        "headers:",
        "  Authorization: s3cret",
        "  X-Scope-OrgID: a",
        "  content-type: a",
        "  \"x y\": s3cret",
        "  x-a: \"s3cret\\n\"",
        "  X-B: b",
        "  x-b: s3cret",
        "  x-c: [s3cret-not]",
    ]);
    assert_eq!(
        found,
        [
            "7: sinks.loki.headers.Authorization: expected another header, found Authorization; the \
             key auth sets it",
            "8: sinks.loki.headers.X-Scope-OrgID: expected another header, found X-Scope-OrgID; the \
             key tenant sets it",
            "9: sinks.loki.headers.content-type: expected another header, found content-type; every \
             push has it already: remove it",
            "10: sinks.loki.headers.x y: expected the name of a header, found \"x y\"; letters, \
             digits and - only",
            "11: sinks.loki.headers.x-a: expected a value of visible ASCII signs, found another \
             sign in it; the value is not shown; mind line ends, and spaces around it",
            "13: sinks.loki.headers.x-b: expected each header once, found x-b again; capitals make \
             no difference",
            "14: sinks.loki.headers.x-c: expected a text, found a list",
        ]
    );
    let many: Vec<String> = (0..33).map(|n| format!("  x-{n}: a")).collect();
    let mut keys = vec!["headers:"];
    keys.extend(many.iter().map(String::as_str));
    assert!(errors(&keys)[0].contains("expected at most 32 headers, found 33"));
}

#[test]
fn what_the_full_example_names_in_comments_holds() {
    let full = include_str!("../examples/full.yaml").replace("\"http://127", "\"https://127");
    for auth in ["# basic:", "# bearer:"] {
        let mut text = full.replace("tls: {}", "tls:   ").replace("auth: {}", "auth:   ");
        let of_server = ["# client_ca_file:", "# - { name: shipper", "# - { name: grafana"];
        text = text.replace("tokens: []", "tokens:   ");
        text = text.replace("9f86...", &"9".repeat(64)).replace("60303...", &"6".repeat(64));
        let of_sink = ["# ca_file:", "# server_name:", auth];
        for key in ["# cert_file:", "# key_file:"].into_iter().chain(of_sink).chain(of_server) {
            // A sink's and the server's.
            let count = if ["# cert_file:", "# key_file:"].contains(&key) { 2 } else { 1 };
            assert_eq!(text.matches(key).count(), count, "{key}");
            text = text.replace(key, key.trim_start_matches("# "));
        }
        let config = good(&text.replace("${HOSTNAME}", "here"));
        let tls = &loki(&config).tls;
        assert!(tls.ca_file.is_some() && tls.key_file.is_some() && tls.server_name.is_some());
        assert!(loki(&config).auth.is_some());
        assert!(config.server.tls.as_ref().unwrap().client_ca_file.is_some());
        assert_eq!(config.server.auth.tokens.len(), 2);
    }
}

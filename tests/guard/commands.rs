//! How the commands reach an instance that asks who one is, and the one that makes tokens.

use super::client::Keys;
use super::{Ground, start, tokens};
use crate::bed::{BINARY, Bed, stop};
use crate::gateway::front::{Authority, write};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};

fn tool(args: &[&str], token: Option<&str>) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.args(args).env_remove("LOG_CAPTURER_TOKEN");
    command.envs(token.map(|token| ("LOG_CAPTURER_TOKEN", token)));
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn commands_are_known_by_tokens_and_certificates() {
    let (ground, clients) = (Ground::new(), Authority::new());
    let mut bed = Bed::new();
    let dir = bed.setup.dir.clone();
    // The commands look for it where its file says.
    (bed.setup.server_listen, bed.setup.metrics_listen) = (free(), free());
    bed.setup.server_keys =
        vec![ground.tls(&dir, Some(&clients)), format!("auth: {{ tokens: [{}] }}", tokens())];
    bed.setup.metrics_keys = vec![ground.tls(&dir, Some(&clients))];
    let own = clients.issue("admin");
    let product = start(&bed, &Keys::with(ground.authority.pem(), Some(&own)));
    let file = |name: &str, text: &str| write(&dir, name, text).display().to_string();
    let (ca, cert, key) = (
        file("ca.pem", ground.authority.pem()),
        file("client.pem", &own.cert),
        file("client.key", &own.key),
    );
    let (operate, wrong) =
        (file("operate", "planted-token-operate\n"), file("wrong", "planted-token-wrong\n"));
    let tls = ["--ca-file", &ca, "--cert-file", &cert, "--key-file", &key];
    let config = dir.join("config.yaml").display().to_string();
    let api = format!("https://{}", product.api);
    let run = |args: &[&str], more: &[&str], token: Option<&str>| {
        tool(&[args, &tls[..], more].concat(), token)
    };
    let reload = ["config", "reload", "--config", &config];
    let purge = ["dlq", "purge", "--all", "--config", &config];
    for command in [&reload[..], &purge] {
        let (code, said) = run(command, &[], None);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("role operate") && said.contains("--token-file"), "{said}");
        let (code, said) = run(command, &["--token-file", &wrong], None);
        assert!(code == Some(1) && said.contains("known here"), "{said}");
        assert!(!said.contains("planted"), "{said}");
        let (code, said) = run(command, &["--token-file", &operate], None);
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = run(command, &[], Some("planted-token-operate"));
        assert_eq!(code, Some(0), "{said}");
        // Without the authority, or the certificate.
        let (code, said) = tool(&[command, &["--token-file", &operate]].concat(), None);
        assert_eq!(code, Some(1), "{said}");
        let (code, said) = tool(&[command, &["--ca-file", &ca]].concat(), Some("x"));
        assert_eq!(code, Some(1), "{said}");
    }
    let (code, said) = run(&["top", "--once", "--url", &api], &[], None);
    assert_eq!(code, Some(0), "{said}");
    let out = dir.join("baseline.json").display().to_string();
    let save = ["baseline", "save", "--targets", &api, "--for", "1s", "--out", &out];
    let (code, said) = run(&save, &[], None);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&["verify", "--targets", &api, "--for", "1s"], &[], None);
    assert!(matches!(code, Some(0 | 2 | 3)) && !said.contains("no answer"), "{said}");
    // The instance's name is another one than its address.
    let named = ["--server-name", "other.internal"];
    let (code, said) = run(&["top", "--once", "--url", &api], &named, None);
    assert!(code == Some(1) && said.contains("certificate"), "{said}");
    for (more, says) in [
        (&["--ca-file", "/nowhere"][..], "--ca-file: /nowhere cannot be read"),
        (&["--token-file", "/nowhere"], "--token-file /nowhere"),
        (&["--cert-file", "/nowhere"], "--key-file"),
    ] {
        let (code, said) = tool(&[&["top", "--once", "--url", &api], more].concat(), None);
        assert!(code == Some(78) && said.contains(says), "{code:?} {said}");
    }
    stop(product);
}

#[test]
fn a_token_is_made_and_known() {
    let (code, said) =
        tool(&["token", "new", "--name", "mine", "--role", "ingest,read", "--json"], None);
    assert_eq!(code, Some(0), "{said}");
    let made: Value = serde_json::from_str(&said).unwrap();
    let (token, sha256) = (made["token"].as_str().unwrap(), made["sha256"].as_str().unwrap());
    assert!(token.starts_with("lct_") && token.len() > 40 && sha256.len() == 64, "{said}");
    // As it is printed, it is put into the file.
    let (code, text) = tool(&["token", "new", "--name", "other", "--role", "operate"], None);
    assert_eq!(code, Some(0), "{text}");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("- ")).expect("a line");
    let other = text.lines().find(|line| line.trim().starts_with("lct_")).expect("a token").trim();
    let mine = format!("{{ name: mine, sha256: \"{sha256}\", roles: [ingest, read] }}");
    let mut bed = Bed::new();
    bed.setup.server_keys = vec![format!("auth: {{ tokens: [{line}, {mine}] }}")];
    let product = start(&bed, &Keys::none());
    let status = |path, token: &str| {
        let header = format!("authorization: Bearer {token}");
        Keys::none().ask(product.api, "GET", path, &[&header], "").unwrap().status
    };
    assert_eq!((status("/stats", token), status("/security/audit", token)), (200, 403));
    assert_eq!((status("/security/audit", other), status("/stats", sha256)), (200, 401));
    stop(product);
    for wrong in [
        &["token", "new", "--name", "a b", "--role", "read"][..],
        &["token", "new", "--name", "a", "--role", "all"],
        &["token", "new", "--name", "a"],
    ] {
        assert_eq!(tool(wrong, None).0, Some(78), "{wrong:?}");
    }
    assert!(fs::read_to_string(bed.setup.dir.join("config.yaml")).unwrap().contains(sha256));
}

#[test]
fn preflight_looks_at_who_may_come_in() {
    let ground = Ground::new();
    let mut bed = Bed::new();
    let look = |bed: &Bed| {
        let config =
            write(&bed.setup.dir, "preflight.yaml", &bed.setup.yaml()).display().to_string();
        let (_, said) = tool(&["preflight", "--json", "--no-push", "--config", &config], None);
        serde_json::from_str::<Value>(&said).unwrap_or_else(|_| panic!("{said}"))
    };
    let assert = |document: &Value, name: &str, of: &str, level: &str, found: &str| {
        let all = document["findings"].as_array().unwrap();
        let finding = all.iter().find(|finding| finding["name"] == name && finding["of"] == of);
        let finding = finding.unwrap_or_else(|| panic!("no {name} of {of}: {document:#}"));
        assert_eq!(finding["level"], level, "{finding:#}");
        assert!(finding["found"].as_str().unwrap().contains(found), "{finding:#}");
    };
    assert(&look(&bed), "listeners", "server.listen", "ok", "for this host");
    bed.setup.server_listen = "0.0.0.0:0".into();
    let document = look(&bed);
    assert_eq!(document["verdict"], "no-go");
    let config = document["findings"].as_array().unwrap().iter().find(|of| of["name"] == "config");
    let found = config.unwrap()["found"].as_str().unwrap();
    assert!(found.starts_with("server.auth: expected who may come in"), "{found}");
    bed.setup.server_keys = vec!["auth: { allow_unauthenticated: true }".into()];
    assert(&look(&bed), "listeners", "server.listen", "warning", "nobody is asked");
    bed.setup.server_keys = vec![format!("auth: {{ tokens: [{}] }}", tokens())];
    assert(&look(&bed), "listeners", "server.listen", "warning", "whoever sees the traffic");
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
        + std::time::Duration::from_secs(3 * 86_400 + 3_600);
    bed.setup.server_keys.push(ground.tls(&bed.setup.dir, None));
    super::put(&bed.setup.dir, &ground.authority.issue_until("127.0.0.1", Some(soon)));
    let document = look(&bed);
    assert(&document, "listeners", "server.listen", "ok", "over TLS");
    assert(&document, "listener_tls_files", "server", "ok", "belong together");
    assert(&document, "certificates", "server.tls.cert_file", "warning", "in 3 days");
    write(&bed.setup.dir, "server.key", &ground.authority.issue("x").key);
    assert(&look(&bed), "listener_tls_files", "server", "no-go", "is no key for the certificate");
}

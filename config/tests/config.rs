//! A configuration is taken as it is meant, or refused with everything that is wrong with it.

use config::{Config, Egress, Format, Level, LongLines, Shards, SinkKind, StartAt, parse};
use std::time::Duration;

fn env(name: &str) -> Option<String> {
    (name == "HOSTNAME").then(|| "web-1".to_owned())
}

fn good(text: &str) -> Config {
    parse(text, "config.yaml", &env).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(text: &str) -> String {
    parse(text, "config.yaml", &env).expect_err("it is wrong").to_string()
}

const MINIMAL: &str = include_str!("../examples/minimal.yaml");
const FULL: &str = include_str!("../examples/full.yaml");

#[test]
fn the_examples_hold_and_the_full_one_shows_the_defaults() {
    let minimal = good(MINIMAL);
    let mut full = good(FULL);
    let files = &mut full.sources.files[0];
    assert_eq!(files.labels["job"], "varlogs");
    files.include.clone_from(&minimal.sources.files[0].include);
    files.exclude.clear();
    files.labels.clear();
    let SinkKind::Loki(loki) = &mut full.sinks[0].kind;
    assert_eq!(std::mem::take(&mut loki.labels)["host"], "web-1");
    assert_eq!(full, minimal);
}

#[test]
fn what_is_printed_reads_as_the_same() {
    for text in [MINIMAL, FULL] {
        let config = good(text);
        assert_eq!(good(&config.to_yaml()), config, "{}", config.to_yaml());
    }
}

#[test]
fn values_are_taken_as_they_are_meant() {
    let config = good(
        r#"
version: 1
data_dir: /data
cores: { shards: [0, 2], egress: 3 }
drain_timeout: 30s
sources:
  files:
    - include: [/a/*.log, "/b/**"]
      labels: { version: 1.10, zone: 007, text: "yes" }
      start_at: end
      long_lines: truncate
sinks:
  main:
    type: loki
    url: https://loki.example:3100/prefix/
    tenant: team-a
    linger: 0
wal: { bytes_max: 1GiB, commit_interval: 500us }
metrics: { listen: "[::1]:9" }
"#,
    );
    assert_eq!(config.cores.shards, Shards::Cpus(vec![0, 2]));
    assert_eq!(config.cores.egress, Egress::Cpu(3));
    let files = &config.sources.files[0];
    let labels: Vec<&str> = files.labels.values().map(String::as_str).collect();
    assert_eq!(labels, ["yes", "1.10", "007"], "no text becomes a number");
    assert_eq!((files.start_at, files.long_lines), (StartAt::End, LongLines::Truncate));
    let SinkKind::Loki(loki) = &config.sinks[0].kind;
    assert_eq!(loki.url, "https://loki.example:3100/prefix/loki/api/v1/push");
    assert_eq!((loki.linger, loki.tenant.as_str()), (Duration::ZERO, "team-a"));
    assert_eq!(config.wal.bytes_max, 1 << 30);
    assert_eq!(config.wal.commit_interval, Duration::from_micros(500));
    assert_eq!(good(&config.to_yaml()), config);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = r#"version: 2
data_dir: var/lib
cores: { shards: 0, egress: last }
sources:
  files:
    - include: ["*.log", "/a/[b"]
      exclude: logs
      labels: { 0day: x, filename: y, empty: "" }
      start_at: middle
      lable: { a: b }
sinks:
  loki:
    url: "127.0.0.1:3100"
    tenant: "a/b"
    linger: 50
    push_bytes_max: 1GiB
    labels: { host: "${NOWHERE}" }
wal: { byte_max: 1GiB }
server: { listen: 8401 }
frobnicate: 1
"#;
    let expected = r#"config.yaml:1: version: expected 1, found "2"; this program reads version 1
config.yaml:2: data_dir: expected an absolute path, found "var/lib"; such as /var/lib/log-capturer
config.yaml:3: cores.shards: expected auto, a count from 1 to 1024, or a list of CPU ids, found 0
config.yaml:3: cores.egress: expected auto, or the id of a CPU, found "last"
config.yaml:6: sources.files[0].include[0]: expected an absolute path, found "*.log"; begin it with /
config.yaml:6: sources.files[0].include[1]: expected a pattern, found "/a/[b"; unclosed character class; missing ']'; { } and [ ] stay within one name
config.yaml:7: sources.files[0].exclude: expected a list of texts, found "logs"; put it in [ ]
config.yaml:8: sources.files[0].labels.0day: expected a label name, found "0day"; letters, digits and _ only, no digit first, not __ first
config.yaml:8: sources.files[0].labels.empty: expected a value, found an empty one; Loki ignores such labels: remove it
config.yaml:8: sources.files[0].labels.filename: expected another name, found filename; every file's path is its filename label already
config.yaml:9: sources.files[0].start_at: expected beginning or end, found "middle"
config.yaml:10: sources.files[0].lable: this key is unknown; did you mean labels?
config.yaml:13: sinks.loki.url: expected where Loki is, such as http://127.0.0.1:3100, found "127.0.0.1:3100"
config.yaml:14: sinks.loki.tenant: expected at most 150 letters, digits and !-_.*'(), as Loki does, found "a/b"
config.yaml:15: sinks.loki.linger: expected a duration from 0s to 10s, found "50"; add a unit: one of us, ms, s, m, h
config.yaml:16: sinks.loki.push_bytes_max: expected a size from 64KiB to 16MiB, found "1GiB"
config.yaml:17: sinks.loki.labels.host: the environment variable NOWHERE is not set; set it, or give a default: ${NOWHERE:-default}
config.yaml:18: wal.byte_max: this key is unknown; did you mean bytes_max?
config.yaml:19: server.listen: expected an IP address and a port, found "8401"; such as 127.0.0.1:8401, 0.0.0.0:8401 or [::]:8401
config.yaml:20: frobnicate: this key is unknown; there is version, data_dir, drain_timeout, cores, sources, sinks, wal, server, metrics, slo, canary, log, reload
20 errors in config.yaml"#;
    assert_eq!(errors(text), expected);
}

#[test]
fn what_is_missing_is_named() {
    let expected = r#"config.yaml:1: version: expected the version of this format, 1, found nothing; this key is required
config.yaml:1: data_dir: expected an absolute path, found nothing; this key is required
config.yaml:1: sinks: expected 1 to 8 sinks, found 0; such as loki: { url: "http://127.0.0.1:3100" }
3 errors in config.yaml"#;
    assert_eq!(errors(""), expected);
    assert_eq!(errors("# only a comment\n").lines().count(), 4);
    let without_files = "version: 1\ndata_dir: /d\nsinks: { loki: { url: \"http://h\" } }\nsources: { files: [] }\n";
    assert!(errors(without_files).contains("sources.files: expected at least one entry"));
}

#[test]
fn what_is_no_yaml_is_refused_with_its_line() {
    let found = errors("version: 1\nsinks: { loki: [ }\n");
    assert!(found.starts_with("config.yaml:2: this is not YAML: "), "{found}");
    let found = errors("version: 1\nversion: 1\n");
    assert!(found.starts_with("config.yaml:2: this is not YAML: duplicated key"), "{found}");
    let found = errors("version: 1\n---\nversion: 1\n");
    assert!(found.contains("expected one YAML document"), "{found}");
    let found = errors("version: !!int 1\n");
    assert!(found.contains("found a tag"), "{found}");
    let found = errors("- a\n- b\n");
    assert!(found.contains("expected a map, found a list"), "{found}");
}

#[test]
fn a_password_in_the_url_is_refused_and_not_repeated() {
    let text = MINIMAL.replace("http://127", "http://me:secret@127");
    let found = errors(&text);
    assert!(found.contains("expected no user and password"), "{found}");
    assert!(!found.contains("secret"), "{found}");
}

#[test]
fn too_many_labels_are_refused() {
    let many: Vec<String> = (0..15).map(|n| format!("l{n}: x")).collect();
    let text = FULL.replace("job: varlogs", &many.join(", "));
    assert!(errors(&text).contains("expected at most 15 labels"), "{}", errors(&text));
}

#[test]
fn both_listeners_need_an_address_of_their_own() {
    let text = format!("{MINIMAL}metrics: {{ listen: \"127.0.0.1:8401\" }}\n");
    assert!(errors(&text).contains("expected another address than server.listen"));
}

#[test]
fn a_file_that_cannot_be_read_is_said() {
    let found = config::load("/nowhere/config.yaml".as_ref()).unwrap_err().to_string();
    assert!(found.contains("/nowhere/config.yaml: the file cannot be read"), "{found}");
}

#[test]
fn a_run_without_a_file_follows_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("odd[1]${HOME}.log");
    std::fs::write(&odd, "").unwrap();
    let paths = [odd.to_str().unwrap(), dir.path().to_str().unwrap(), "/x/*.log", "rel.log"];
    let paths = paths.map(str::to_owned);
    let config = config::quick("http://127.0.0.1:3100", &paths, "/data".as_ref()).unwrap();
    let include = &config.sources.files[0].include;
    assert!(include[0].contains("odd[[]1[]]") && include[0].contains("HOME"), "{include:?}");
    assert!(include[1].ends_with("/**/*.log"));
    assert_eq!(include[2], "/x/*.log");
    assert!(include[3].starts_with('/'));
    let error = config::quick("nonsense", &paths, "/data".as_ref()).unwrap_err().to_string();
    assert!(error.starts_with("the command line: sinks.loki.url: expected"), "{error}");
}

#[test]
fn the_dead_letter_queue_has_its_keys() {
    let sink = |keys: &str| {
        format!(
            "version: 1\ndata_dir: /d\nsinks: {{ loki: {{ url: \"http://l\", dlq: {keys} }} }}\n"
        )
    };
    let dlq = |keys: &str| {
        let SinkKind::Loki(loki) = good(&sink(keys)).sinks.remove(0).kind;
        loki.dlq
    };
    let set = dlq("{ bytes_max: 64MiB, when_full: drop_oldest, reprocess: { interval: 2h } }");
    assert_eq!((set.bytes_max, set.when_full), (64 << 20, config::WhenFull::DropOldest));
    assert_eq!(set.reprocess.backoff_max, Duration::from_secs(7200), "no less than the interval");
    assert_eq!(dlq("{ reprocess: { attempts_max: 0 } }").reprocess.attempts_max, 0);
    for (keys, expected) in [
        ("{ bytes_max: 1MiB }", "dlq.bytes_max: expected a size from 16MiB to 1024GiB"),
        ("{ when_full: drop }", "dlq.when_full: expected wait or drop_oldest, found \"drop\""),
        ("{ reprocess: { intervall: 1m } }", "did you mean interval?"),
        ("{ reprocess: { backoff_max: 1m } }", "a duration from 5m to 720h, found \"1m\""),
    ] {
        let errors = errors(&sink(keys));
        assert!(errors.contains(expected), "{errors}");
    }
}

const SINKS: &str = "version: 1\ndata_dir: /d\nsinks:\n";

#[test]
fn several_sinks_get_the_same_lines() {
    let two = "  near: { type: loki, url: \"http://a:1\", labels: { a: b } }\n  \
               far: { type: loki, url: \"http://b:1\", labels: { a: b }, tenant: t }\n";
    let config = good(&format!("{SINKS}{two}"));
    let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    assert_eq!(names, ["near", "far"]);
    let other = errors(&format!("{SINKS}{}", two.replacen("a: b }", "a: c }", 1)));
    assert!(other.contains("sinks.far.labels: expected the labels of sinks.near, found others"));
    assert!(other.contains("or run an instance for each"), "{other}");
    let many: String =
        (0..9).map(|n| format!("  s{n}: {{ type: loki, url: \"http://a:1\" }}\n")).collect();
    assert!(errors(&format!("{SINKS}{many}")).contains("expected 1 to 8 sinks, found 9"));
}

#[test]
fn what_is_too_old_to_send_is_so_before_loki_says_it() {
    let sink = |keys: &str| format!("{SINKS}  loki: {{ url: \"http://a:1\"{keys} }}\n");
    let age = |keys: &str| {
        let SinkKind::Loki(loki) = &good(&sink(keys)).sinks[0].kind;
        loki.age_max.as_secs() / 3600
    };
    assert_eq!(age(""), 167);
    assert_eq!(age(", limits: { age_max: 30h }"), 29);
    assert_eq!(age(", age_max: 5h"), 5);
    let wrong = errors(&sink(", age_max: 200h"));
    assert!(wrong.contains("sinks.loki.age_max: expected a duration from 1m to 168h"), "{wrong}");
}

#[test]
fn the_own_log_has_its_keys() {
    let config = good(&format!("{MINIMAL}log: {{ level: warn, format: json }}\n"));
    assert_eq!((config.log.level, config.log.format), (Level::Warn, Format::Json));
    assert_eq!(good(&config.to_yaml()), config);
    let wrong = errors(&format!("{MINIMAL}log: {{ level: off, format: xml, file: /x }}\n"));
    for said in [
        "log.level: expected error or warn or info or debug or trace, found \"off\"",
        "log.format: expected auto or logfmt or json or text, found \"xml\"",
        "log.file: this key is unknown; there is level, format",
    ] {
        assert!(wrong.contains(said), "{said} is missing in {wrong}");
    }
}

/// With these keys of `server` and `metrics`.
fn guarded(server: &str, metrics: &str) -> String {
    format!("{MINIMAL}\nserver: {{ {server} }}\nmetrics: {{ {metrics} }}\n")
}

const HASH: &str = "9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08";

#[test]
fn who_listens_for_other_hosts_asks_them_or_says_that_it_does_not() {
    let token = format!("auth: {{ tokens: [{{ name: a, sha256: {HASH}, roles: [read] }}] }}");
    let tls = "tls: { cert_file: /c, key_file: /k, client_ca_file: /ca }";
    for (server, metrics, wrong) in [
        ("listen: '0.0.0.0:1'", "", &["server.auth"][..]),
        ("listen: '[::]:1'", "listen: '10.0.0.1:2'", &["server.auth", "metrics.auth"]),
        ("listen: '[::ffff:127.0.0.1]:1'", "listen: '127.9.9.9:2'", &[]),
        ("listen: '0.0.0.0:1', auth: { allow_unauthenticated: true }", "", &[]),
        ("", "listen: '0.0.0.0:1', auth: { allow_unauthenticated: true }", &[]),
        (&format!("listen: '0.0.0.0:1', {token}"), "listen: '0.0.0.0:2'", &[]),
        (&format!("listen: '0.0.0.0:1', {tls}"), "", &[]),
        // Certificates are asked for by each by itself.
        (&format!("listen: '0.0.0.0:1', {tls}"), "listen: '0.0.0.0:2'", &["metrics.auth"]),
        ("", &format!("listen: '0.0.0.0:2', {tls}"), &[]),
        ("listen: '0.0.0.0:1', tls: { cert_file: /c, key_file: /k }", "", &["server.auth"]),
        (
            &format!("{tls}, auth: {{ allow_unauthenticated: true }}"),
            "",
            &["server.auth.allow_unauthenticated"],
        ),
    ] {
        let found = parse(&guarded(server, metrics), "config.yaml", &env);
        let found = found.map(|_| Vec::new()).unwrap_or_else(|errors| errors.problems().to_vec());
        let keys: Vec<&str> = found.iter().map(|problem| &*problem.key).collect();
        assert_eq!(keys, wrong, "{server} {metrics}");
        for problem in found.iter().filter(|problem| problem.key.ends_with(".auth")) {
            let hint = problem.hint.as_ref().unwrap();
            for fix in ["log-capturer token new", "client_ca_file", "allow_unauthenticated: true"] {
                assert!(hint.contains(fix), "{hint}");
            }
        }
    }
}

#[test]
fn tokens_are_known_by_hashes_that_nothing_shows() {
    let config = good(&guarded(
        &format!(
            "auth: {{ client_roles: [], tokens: [{{ name: a, sha256: {HASH}, roles: [operate, ingest] }}, \
             {{ name: b, sha256: '${{HASH_B}}', roles: [read], requests_per_second: 9 }}] }}"
        )
        .replace("${HASH_B}", &"b".repeat(64)),
        "",
    ));
    let auth = &config.server.auth;
    assert_eq!(auth.tokens[0].roles, [config::Role::Ingest, config::Role::Operate]);
    assert_eq!(auth.tokens[0].sha256.reveal(), HASH.to_lowercase());
    assert_eq!((auth.tokens[1].requests_per_second, auth.client_roles.len()), (9, 0));
    assert!(!config.to_yaml().to_lowercase().contains("9f86"), "{}", config.to_yaml());
    let text = errors(&guarded(
        &format!(
            "auth: {{ tokens: [{{ name: 'a secret', sha256: secret, roles: [all] }}, {{ name: a }}, \
             {{ name: b, sha256: {HASH}, roles: [read] }}, {{ name: c, sha256: {HASH}, roles: [read] }}] }}, \
             tls: {{ client_ca_file: x }}"
        ),
        "tls: { cert_file: /c }",
    ));
    for part in [
        "server.auth.tokens[0].name: expected 1 to 64 letters",
        "server.auth.tokens[0].sha256: expected the SHA-256 of a token, 64 hexadecimal digits, found something else",
        "log-capturer token new",
        "server.auth.tokens[0].roles[0]: expected ingest or read or operate",
        "server.auth.tokens[1].sha256: expected the SHA-256 of a token, 64 hexadecimal digits, found nothing",
        "server.auth.tokens[1].roles: expected what it is for",
        "expected each name and each sha256 once, found those of \"c\" again",
        "server.tls.cert_file: expected a path, found nothing",
        "server.tls.client_ca_file: expected an absolute path",
        "metrics.tls.key_file: expected a path, found nothing",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert!(!text.contains("secret\"") && !text.contains(HASH), "{text}");
    // The token in the place of its name: twice, so that names are compared.
    let token = format!("{{ name: lct_pasted, sha256: {HASH}, roles: [read] }}");
    let text = errors(&guarded(&format!("auth: {{ tokens: [{token}, {token}] }}"), ""));
    assert!(
        text.contains("tokens[0].name: expected a name, found something that begins"),
        "{text}"
    );
    assert!(!text.contains("pasted"), "{text}");
}

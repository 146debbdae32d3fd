//! Secrets: whether they stand in the configuration as texts, and who may read them.

use super::finding::{Finding, Level};
use config::{Auth, Basic, Bearer, Config, Proxy, Secret, SinkKind};
use serde_json::json;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const NAME: &str = "secrets";

#[must_use]
pub fn look(config: &Config, file: &Path) -> Vec<Finding> {
    let texts = texts(config);
    // The file was just read.
    let mode = fs::metadata(file).map_or(0, |meta| meta.mode());
    let mut found = vec![judge(&texts, &file.display().to_string(), mode)];
    for (key, path) in files(config) {
        if let Ok(meta) = fs::metadata(&path) {
            found.extend(judge_file(&key, &path, meta.mode()));
        }
    }
    found
}

/// The keys of those that whoever reads the file has.
fn texts(config: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    for sink in &config.sinks {
        let SinkKind::Loki(loki) = &sink.kind;
        let key = |key: &str| format!("sinks.{}.{key}", sink.name);
        let mut take = |name: &str, secret: &Secret| {
            if secret.stands_in_file() {
                keys.push(key(name));
            }
        };
        match &loki.auth {
            Some(Auth::Basic(Basic { password: Some(secret), .. })) => {
                take("auth.basic.password", secret);
            }
            Some(Auth::Bearer(Bearer { token: Some(secret), .. })) => {
                take("auth.bearer.token", secret);
            }
            _ => {}
        }
        if let Proxy::At(secret) = &loki.proxy {
            take("proxy", secret);
        }
        for (name, secret) in &loki.headers {
            take(&format!("headers.{name}"), secret);
        }
    }
    keys
}

/// The files that hold a secret.
fn files(config: &Config) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    for sink in &config.sinks {
        let SinkKind::Loki(loki) = &sink.kind;
        let mut take = |name: &str, file: &Option<PathBuf>| {
            let key = format!("sinks.{}.{name}", sink.name);
            files.extend(file.iter().map(|file| (key.clone(), file.clone())));
        };
        match &loki.auth {
            Some(Auth::Basic(basic)) => take("auth.basic.password_file", &basic.password_file),
            Some(Auth::Bearer(bearer)) => take("auth.bearer.token_file", &bearer.token_file),
            None => {}
        }
        take("tls.key_file", &loki.tls.key_file);
    }
    for (section, tls) in [("server", &config.server.tls), ("metrics", &config.metrics.tls)] {
        let key = format!("{section}.tls.key_file");
        files.extend(tls.iter().map(|tls| (key.clone(), tls.key_file.clone())));
    }
    files
}

fn judge(texts: &[String], file: &str, mode: u32) -> Finding {
    let figures = json!({ "keys": texts, "mode": format!("{:o}", mode & 0o7777) });
    if texts.is_empty() {
        let found = "none stands in the configuration as a text";
        return Finding::ok(NAME, found).figures(figures);
    }
    let keys = texts.join(", ");
    let is_open = mode & 0o004 != 0;
    let (level, who) = match is_open {
        true => (Level::NoGo, format!("every user may read {file} (mode {:o})", mode & 0o7777)),
        false => (Level::Warning, format!("whoever gets to see {file} has it")),
    };
    let chmod = if is_open { format!("chmod 600 {file}, and ") } else { String::new() };
    let found = format!("given as a text: {keys}; {who}");
    let fix = format!(
        "{chmod}put the secret in a variable, such as \"${{LOKI_PASSWORD}}\", or in a file \
         (password_file, token_file)"
    );
    Finding::at(level, NAME, found, fix).figures(figures)
}

fn judge_file(key: &str, file: &Path, mode: u32) -> Option<Finding> {
    let found = format!("every user may read {} (mode {:o})", file.display(), mode & 0o7777);
    let fix = format!("chmod 600 {}, and have it belong to log-capturer's user", file.display());
    (mode & 0o004 != 0).then(|| Finding::warning(NAME, found, fix).of(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_warning_and_one_that_everyone_may_read_a_no_go() {
        let keys = ["sinks.loki.auth.basic.password".to_owned()];
        assert_eq!(judge(&[], "f", 0o644).level, Level::Ok);
        let kept = judge(&keys, "f", 0o100_640);
        assert_eq!(kept.level, Level::Warning);
        assert!(kept.fix.unwrap().starts_with("put the secret in a variable"));
        let open = judge(&keys, "f", 0o100_644);
        assert_eq!((open.level, &open.figures["mode"]), (Level::NoGo, &"644".into()));
        assert!(open.found.contains("sinks.loki.auth.basic.password; every user may read f"));
        assert!(open.fix.unwrap().starts_with("chmod 600 f, and"));
        assert!(judge_file("k", Path::new("f"), 0o640).is_none());
        assert_eq!(judge_file("k", Path::new("f"), 0o604).unwrap().level, Level::Warning);
    }

    #[test]
    fn variables_and_files_are_no_texts() {
        let sinks = r#"{ loki: { url: "https://h", headers: { X-A: "${A}", X-B: "Bearer ${A}", X-C: "${NONE:-c}" },
            proxy: "http://u:p@h:1", auth: { bearer: { token: abc } } },
            two: { type: loki, url: "https://h", proxy: "http://h:1", auth: { basic: { username: u, password_file: /f } } } }"#;
        let text = format!("version: 1\ndata_dir: /d\nsinks: {sinks}\n");
        let config = config::parse(&text, "f", &|name| (name == "A").then(|| "a".into())).unwrap();
        assert_eq!(
            texts(&config),
            ["sinks.loki.auth.bearer.token", "sinks.loki.proxy", "sinks.loki.headers.x-c"]
        );
        let files: Vec<String> = files(&config).into_iter().map(|(key, _)| key).collect();
        assert_eq!(files, ["sinks.two.auth.basic.password_file"]);
    }
}

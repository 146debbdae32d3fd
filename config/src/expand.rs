//! `${VAR}` and `${VAR:-default}` in values, `${file:/a/path}` and `${credential:name}` likewise; `$$` is a
//! dollar. A variable's value never becomes YAML.

use std::fs::File;
use std::io::{Read, Result as Outcome};
use std::path::Path;

/// Where systemd puts the credentials of a unit.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// More is no password.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Puts the variables in; the error says what is wrong, and the hint what to do.
pub fn expand(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, (String, String)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        if let Some(more) = behind.strip_prefix('$') {
            out.push('$');
            rest = more;
            continue;
        }
        let Some((inside, more)) = behind.strip_prefix('{').and_then(|b| b.split_once('}')) else {
            return Err((
                // The text is not repeated: it may hold a password.
                "expected a variable such as ${HOSTNAME}, found another $".into(),
                "write $$ for a dollar sign".into(),
            ));
        };
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        // As in a shell, the default also stands for an empty value.
        match (value(name, variable), default) {
            (Ok(value), None) => out.push_str(&value),
            (Ok(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (Err(wrong), default) if default.is_none() || !wrong.is_absence() => {
                return Err(wrong.told());
            }
            (_, default) => out.push_str(default.unwrap_or_default()),
        }
        rest = more;
    }
    out.push_str(rest);
    Ok(out)
}

enum Wrong<'a> {
    Name(&'a str),
    Unset(&'a str),
    NoCredentials(&'a str),
    File(String, std::io::Error),
}

impl Wrong<'_> {
    /// There is none: what a default is for.
    fn is_absence(&self) -> bool {
        match self {
            Wrong::Unset(_) | Wrong::NoCredentials(_) => true,
            Wrong::File(_, error) => error.kind() == std::io::ErrorKind::NotFound,
            Wrong::Name(_) => false,
        }
    }

    /// What is wrong, and what to do.
    fn told(self) -> (String, String) {
        match self {
            Wrong::Name(name) => (
                format!("expected the name of a variable, found {name:?}"),
                "letters, digits and _ only; or file:/a/path, or credential:name".into(),
            ),
            Wrong::Unset(name) => (
                format!("the environment variable {name} is not set"),
                format!("set it, or give a default: ${{{name}:-default}}"),
            ),
            Wrong::NoCredentials(name) => (
                format!("there is no credential {name}: {CREDENTIALS} is not set"),
                format!("it is set by systemd, where the unit has LoadCredential={name}:/a/path"),
            ),
            Wrong::File(path, error) => (
                format!("the file {path} cannot be read: {error}"),
                "check the path and its permissions".into(),
            ),
        }
    }
}

/// What stands for `${name}`.
fn value<'a>(
    name: &'a str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Wrong<'a>> {
    if let Some(path) = name.strip_prefix("file:").filter(|path| path.starts_with('/')) {
        return read(Path::new(path)).map_err(|error| Wrong::File(path.into(), error));
    }
    if let Some(credential) = name.strip_prefix("credential:").filter(|name| is_file_name(name)) {
        let dir = variable(CREDENTIALS).ok_or(Wrong::NoCredentials(credential))?;
        let path = Path::new(&dir).join(credential);
        return read(&path).map_err(|error| Wrong::File(path.display().to_string(), error));
    }
    if !is_name(name) {
        return Err(Wrong::Name(name));
    }
    variable(name).ok_or(Wrong::Unset(name))
}

/// Without the newline that editors leave at its end.
fn read(path: &Path) -> Outcome<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(text)
}

/// Whether a text is a variable (or a file, or a credential) and nothing else, without a default.
pub fn is_one_variable(text: &str) -> bool {
    let inside = text.strip_prefix("${").and_then(|text| text.strip_suffix('}'));
    inside.is_some_and(|inside| {
        let reference = inside.starts_with("file:/") || inside.starts_with("credential:");
        is_name(inside) || reference && !inside.contains(":-") && !inside.contains(['}', '$'])
    })
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_credentials_are_put_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "sesame $ open\n").unwrap();
        let there = dir.path().display().to_string();
        let variable = |name: &str| (name == CREDENTIALS).then(|| there.clone());
        for (text, expected) in [
            (format!("${{file:{}}}", path.display()), "sesame $ open"),
            ("a ${credential:token} b".into(), "a sesame $ open b"),
            ("${credential:none:-x}".into(), "x"),
            ("${file:/no/such/file:-x}".into(), "x"),
        ] {
            assert_eq!(expand(&text, &variable).as_deref(), Ok(expected), "{text}");
        }
        for (text, says) in [
            ("${file:/no/such/file}", "the file /no/such/file cannot be read"),
            ("${file:relative}", "expected the name of a variable"),
            ("${credential:../token}", "expected the name of a variable"),
            ("${credential:none}", "cannot be read"),
        ] {
            let (found, _) = expand(text, &variable).unwrap_err();
            assert!(found.contains(says), "{found}");
        }
        let (found, fix) = expand("${credential:token}", &|_| None).unwrap_err();
        assert!(
            found.contains("CREDENTIALS_DIRECTORY is not set") && fix.contains("LoadCredential")
        );
        assert!(is_one_variable("${file:/a/b}") && is_one_variable("${credential:a}"));
        assert!(!is_one_variable("${file:/a:-b}") && !is_one_variable("${file:/a}${X}"));
    }

    #[test]
    fn variables_are_put_in() {
        let variable = |name: &str| match name {
            "HOST" => Some("web-1".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${HOST}: [".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("plain", "plain"),
            ("${HOST}", "web-1"),
            ("a-${HOST}-${HOST}", "a-web-1-web-1"),
            ("${NONE:-x y}", "x y"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY}", ""),
            ("${HOST:-x}", "web-1"),
            ("${NONE:-}", ""),
            ("$$${HOST}$$", "$web-1$"),
            ("${TRICKY}", "${HOST}: ["),
        ] {
            assert_eq!(expand(text, &variable).as_deref(), Ok(expected), "{text}");
        }
        for text in ["${NONE}", "$HOST", "${HOST", "${}", "${1A}", "cost: 5$"] {
            assert!(expand(text, &variable).is_err(), "{text}");
        }
    }
}

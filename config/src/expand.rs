//! `${VAR}` and `${VAR:-default}` in values; `$$` is a dollar. A variable's value never becomes YAML.

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
        if !is_name(name) {
            return Err((
                format!("expected the name of a variable, found {name:?}"),
                "letters, digits and _ only".into(),
            ));
        }
        // As in a shell, the default also stands for an empty value.
        match (variable(name).filter(|value| default.is_none() || !value.is_empty()), default) {
            (Some(value), _) => out.push_str(&value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err((
                    format!("the environment variable {name} is not set"),
                    format!("set it, or give a default: ${{{name}:-default}}"),
                ));
            }
        }
        rest = more;
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether a text is a variable and nothing else, without a default.
pub fn is_one_variable(text: &str) -> bool {
    text.strip_prefix("${").and_then(|text| text.strip_suffix('}')).is_some_and(is_name)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

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

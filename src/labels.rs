//! A stream's labels as Loki reads them: `{filename="/var/log/app.log", job="varlogs"}`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Loki's default for max_label_value_length.
const VALUE_BYTES_MAX: usize = 2048;

/// Renders labels sorted by name, values quoted and escaped, so that no value can break out.
#[must_use]
pub fn render(labels: &BTreeMap<String, String>) -> String {
    let mut out = String::from("{");
    for (at, (name, value)) in labels.iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        // The config crate checked the names.
        let _ = write!(out, "{comma}{name}=\"");
        escape(value, &mut out);
        out.push('"');
    }
    out.push('}');
    out
}

/// The labels of a file: what the configuration gives all files of its kind, and its name.
#[must_use]
pub fn of_file(fixed: &BTreeMap<String, String>, path: &Path) -> String {
    let mut labels = fixed.clone();
    let mut name = path.to_string_lossy().into_owned();
    name.truncate(name.floor_char_boundary(VALUE_BYTES_MAX));
    labels.insert("filename".into(), name);
    render(&labels)
}

/// As Go's strconv.Unquote wants it.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_quoted() {
        let fixed = BTreeMap::from([("job".to_owned(), "varlogs".to_owned())]);
        let labels = of_file(&fixed, Path::new("/var/log/a.log"));
        assert_eq!(labels, r#"{filename="/var/log/a.log", job="varlogs"}"#);
    }

    #[test]
    fn no_value_breaks_out() {
        let name = "a\",b=\"x\\\n\t\u{1}ü";
        let labels = of_file(&BTreeMap::new(), Path::new(name));
        assert_eq!(labels, "{filename=\"a\\\",b=\\\"x\\\\\\n\\t\\u0001ü\"}");
    }

    #[test]
    fn a_long_path_is_cut_to_what_loki_takes() {
        let labels = of_file(&BTreeMap::new(), Path::new(&"ü".repeat(2000)));
        assert_eq!(labels.len(), "{filename=\"\"}".len() + VALUE_BYTES_MAX);
    }
}

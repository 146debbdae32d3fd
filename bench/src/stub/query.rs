//! Queries of what was kept, of the kind that a client asks whether its line is there:
//! `{labels of one stream, all of them} |= "text"`, or with the text in backquotes.

use super::Kept;
use super::labels;
use serde_json::{Map, Value, json};

/// Loki's default.
const LIMIT: usize = 100;

/// Loki's answer to the part of `query_range` behind the `?`, or why there is none.
pub fn range(parameters: &str, tenant: &str, kept: &[Kept]) -> Result<String, String> {
    let get = |wanted: &str| {
        let mut pairs = form_urlencoded::parse(parameters.as_bytes());
        pairs.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let number = |name: &str, default: i64| match get(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| format!("{name}: expected nanoseconds")),
    };
    let query = get("query").ok_or("expected a query")?;
    let (selector, text) = read(&query).ok_or_else(|| {
        format!(
            "expected a stream's labels and |= with a text, found {query:?}: the stub knows no more"
        )
    })?;
    let labels = labels::parse(selector.as_bytes()).map_err(|error| error.to_string())?;
    let (start, end) = (number("start", 0)?, number("end", i64::MAX)?);
    let limit = usize::try_from(number("limit", 0)?).ok().filter(|n| *n > 0).unwrap_or(LIMIT);
    let found = kept.iter().filter(|of| {
        of.tenant == tenant
            && of.labels == labels.canonical
            && (start..end).contains(&of.timestamp_ns)
            && memchr::memmem::find(&of.line, text.as_bytes()).is_some()
    });
    let values: Vec<Value> = found
        .take(limit)
        .map(|of| json!([of.timestamp_ns.to_string(), String::from_utf8_lossy(&of.line)]))
        .collect();
    let stream: Map<String, Value> =
        labels.pairs.into_iter().map(|(name, value)| (name, value.into())).collect();
    let result =
        if values.is_empty() { json!([]) } else { json!([{ "stream": stream, "values": values }]) };
    Ok(json!({ "status": "success", "data": { "resultType": "streams", "result": result } })
        .to_string())
}

/// The selector and the text; none: every line.
fn read(query: &str) -> Option<(&str, &str)> {
    let Some((selector, filter)) = query.split_once("|=") else { return Some((query, "")) };
    let filter = filter.trim();
    let text = ['"', '`'].into_iter().find_map(|quote| {
        filter.strip_prefix(quote)?.strip_suffix(quote).filter(|text| !text.contains(quote))
    })?;
    Some((selector.trim(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_by_its_stream_tenant_time_and_text() {
        let kept = |tenant: &str, timestamp_ns, line: &str| Kept {
            tenant: tenant.into(),
            labels: r#"{a="b"}"#.into(),
            timestamp_ns,
            line: line.into(),
            metadata: Vec::new(),
        };
        let all = [kept("", 5, "one mark"), kept("t", 6, "two mark"), kept("", 7, "three")];
        let lines = |query: &str, more: &str, tenant: &str| -> Vec<String> {
            let query = form_urlencoded::byte_serialize(query.as_bytes()).collect::<String>();
            let answer = range(&format!("query={query}{more}"), tenant, &all).unwrap();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            let values = answer["data"]["result"][0]["values"].as_array().cloned();
            values.iter().flatten().map(|value| value[1].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(lines(r#"{a="b"}"#, "", ""), ["one mark", "three"]);
        assert_eq!(lines(r#"{a="b"}"#, "&start=6&limit=1", ""), ["three"]);
        assert_eq!(lines(r#"{a="b"}"#, "&end=6", ""), ["one mark"]);
        assert_eq!(lines("{a=\"b\"} |= `mark`", "", "t"), ["two mark"]);
        assert_eq!(lines(r#"{a="b"} |= "none""#, "", ""), [""; 0]);
        assert_eq!(lines(r#"{a="c"}"#, "", ""), [""; 0]);
        for wrong in ["", "query={a=}", "query={}+|=+mark", "query={}&start=soon"] {
            assert!(range(wrong, "", &all).is_err(), "{wrong}");
        }
    }
}

//! Texts of labels.

use super::loki;
use log_capturer::labels::{is_name, parse, render, render_pairs};
use std::collections::BTreeMap;

/// What is rendered of labels that were read is read as they were, here and by Loki.
pub fn labels(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut pairs = match parse(text) {
        Ok(pairs) => pairs,
        Err(error) => return assert!(error.at <= text.len(), "{error}"),
    };
    assert!(pairs.iter().all(|(name, _)| is_name(name)), "{pairs:?}");
    let full = |pairs: &[(&str, std::borrow::Cow<'_, str>)]| -> Vec<_> {
        let owned = pairs.iter().map(|(name, value)| ((*name).to_owned(), value.to_string()));
        owned.filter(|(_, value)| !value.is_empty()).collect()
    };
    // Such a text is written anew before it is sent.
    if !text.contains('\u{fffd}') {
        assert_eq!(loki::labels(text), Ok(full(&pairs)), "{text}");
    }
    let rendered = render_pairs(&pairs);
    assert_eq!(parse(&rendered).as_ref(), Ok(&pairs), "{rendered}");
    assert_eq!(loki::labels(&rendered), Ok(full(&pairs)), "{rendered}");
    let map: BTreeMap<_, _> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
    let rendered = render(&map);
    pairs.sort();
    pairs.dedup_by(|a, b| a.0 == b.0);
    let found = parse(&rendered).expect("it was rendered");
    assert_eq!(found.len(), pairs.len());
    assert!(found.is_sorted());
}

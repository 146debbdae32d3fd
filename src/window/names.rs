//! Who is who: an instance is called by the address of its API here, by that of its metrics in a Prometheus, and perhaps
//! by a host alone elsewhere.

/// For each of ours, which of theirs it is. First those that have a name in common. Then those that are the only one of
/// their host on both sides, where the host is all that theirs is called by, or where one of the ports of ours is not
/// known: another port is another instance. None of theirs is two of ours.
#[must_use]
pub fn counterparts(ours: &[&[String]], theirs: &[&str]) -> Vec<Option<usize>> {
    let mut found: Vec<Option<usize>> = vec![None; ours.len()];
    let keys: Vec<Vec<String>> =
        ours.iter().map(|names| names.iter().map(|name| key(name)).collect()).collect();
    let their_keys: Vec<String> = theirs.iter().map(|name| key(name)).collect();
    for (at, names) in keys.iter().enumerate() {
        let same =
            |their: usize| names.contains(&their_keys[their]) && !found.contains(&Some(their));
        found[at] = (0..theirs.len()).find(|their| same(*their));
    }
    let hosts: Vec<Vec<&str>> =
        keys.iter().map(|names| names.iter().map(|name| host(name)).collect()).collect();
    let their_hosts: Vec<&str> = their_keys.iter().map(|name| host(name)).collect();
    for at in 0..ours.len() {
        let has = |names: &Vec<&str>| hosts[at].iter().any(|host| names.contains(host));
        let same: Vec<usize> =
            (0..theirs.len()).filter(|their| hosts[at].contains(&their_hosts[*their])).collect();
        let may_be = |their: usize| ours[at].len() == 1 || their_keys[their] == their_hosts[their];
        if let (None, [their], 1) =
            (found[at], &same[..], hosts.iter().filter(|of| has(of)).count())
            && !found.contains(&Some(*their))
            && may_be(*their)
        {
            found[at] = Some(*their);
        }
    }
    found
}

/// Without what is written differently of the same: the scheme, a slash at the end, `/metrics`, capitals of a host.
fn key(name: &str) -> String {
    let rest = name.split_once("://").map_or(name, |(_, rest)| rest).trim_end_matches('/');
    let rest = rest.strip_suffix("/metrics").unwrap_or(rest);
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = authority.to_lowercase();
    let local =
        authority.strip_prefix("localhost").filter(|port| port.is_empty() || port.starts_with(':'));
    local.map_or(authority.clone(), |port| format!("127.0.0.1{port}")) + path
}

/// Without its port and path. Of what stands in brackets, all of it.
fn host(key: &str) -> &str {
    let authority = &key[..key.find('/').unwrap_or(key.len())];
    match authority.rsplit_once(':') {
        // An IPv6 address without a port.
        Some((host, _))
            if authority.ends_with(']') || host.contains(':') && !host.ends_with(']') =>
        {
            authority
        }
        Some((host, _)) => host,
        None => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ours: &[&[&str]], theirs: &[&str]) -> Vec<Option<usize>> {
        let ours: Vec<Vec<String>> = ours
            .iter()
            .map(|names| names.iter().map(|name| (*name).to_owned()).collect())
            .collect();
        let ours: Vec<&[String]> = ours.iter().map(Vec::as_slice).collect();
        counterparts(&ours, theirs)
    }

    #[test]
    fn instances_are_known_by_any_of_their_addresses_and_then_by_their_host() {
        let a: &[&str] = &["http://10.0.0.1:8401", "http://10.0.0.1:8001"];
        let b: &[&str] = &["http://WEB2:8401", "http://web2:8001"];
        assert_eq!(found(&[a, b], &["web2:8001", "10.0.0.1:8001"]), [Some(1), Some(0)]);
        assert_eq!(
            found(&[a, b], &["http://web2:8401/", "http://10.0.0.1:8401"]),
            [Some(1), Some(0)]
        );
        assert_eq!(found(&[a, b], &["web2", "10.0.0.1:9"]), [None, Some(0)]);
        assert_eq!(found(&[&a[..1], b], &["web2", "10.0.0.1:8001"]), [Some(1), Some(0)]);
        assert_eq!(found(&[a, b], &["web3:8001", "other"]), [None, None]);
        // Two of a host are known by their ports alone.
        let c: &[&str] = &["http://10.0.0.1:8402", "http://10.0.0.1:8002"];
        assert_eq!(found(&[a, c], &["10.0.0.1:8002", "10.0.0.1:9"]), [None, Some(0)]);
        assert_eq!(found(&[a], &["10.0.0.1:8002", "10.0.0.1:9"]), [None]);
        assert_eq!(found(&[a, a], &["10.0.0.1:8001"]), [Some(0), None]);
    }

    #[test]
    fn what_is_written_differently_is_the_same() {
        for (one, other) in [
            ("http://localhost:8001/metrics", "127.0.0.1:8001"),
            ("https://[::1]:8001", "[::1]:8001/"),
            ("http://gate/a/", "gate/a"),
        ] {
            assert_eq!(found(&[&[one]], &[other]), [Some(0)], "{one} {other}");
        }
        assert_eq!(
            found(&[&["http://gate/a"], &["http://gate/b"]], &["gate/b", "gate/c"]),
            [None, Some(0)]
        );
        for (key, expected) in [
            ("a:1", "a"),
            ("a", "a"),
            ("[::1]:8001", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("a:1/b:2", "a"),
            ("", ""),
        ] {
            assert_eq!(host(key), expected, "{key}");
        }
    }
}

//! The names of attributes: what Loki makes of them, and which become labels.

/// Attributes of a resource that are labels of its stream: Loki's default for
/// distributor.otlp.default_resource_attributes_as_index_labels.
const LABELS: [&str; 18] = [
    "service.name",
    "service.namespace",
    "service.instance.id",
    "deployment.environment",
    "deployment.environment.name",
    "cloud.region",
    "cloud.availability_zone",
    "k8s.cluster.name",
    "k8s.namespace.name",
    "k8s.pod.name",
    "k8s.container.name",
    "container.name",
    "k8s.replicaset.name",
    "k8s.deployment.name",
    "k8s.statefulset.name",
    "k8s.daemonset.name",
    "k8s.cronjob.name",
    "k8s.job.name",
];
/// Labels that name the service where nothing else does, the first that there is: Loki's default
/// for discover_service_name.
pub const SERVICE_LABELS: [&str; 13] = [
    "service",
    "app",
    "application",
    "app_name",
    "name",
    "app_kubernetes_io_name",
    "container",
    "container_name",
    "k8s_container_name",
    "component",
    "workload",
    "job",
    "k8s_job_name",
];
pub const SERVICE_ATTRIBUTE: &str = "service.name";
pub const SERVICE_LABEL: &str = "service_name";
pub const SERVICE_UNKNOWN: &str = "unknown_service";
/// Names that begin and end so keep it.
const RESERVED: &[u8] = b"__";
/// Put before a name that begins with a digit.
const DIGIT_PREFIX: &str = "key_";

/// Whether an attribute of a resource is a label of its stream.
pub fn is_label(name: &[u8]) -> bool {
    LABELS.iter().any(|label| label.as_bytes() == name)
}

/// A name as Loki has it: letters and digits, with one underscore for whatever is between them.
/// None where neither a letter nor a digit is in it, for which Loki has no name.
pub fn normalise(name: &[u8]) -> Option<String> {
    let inner = name.strip_prefix(RESERVED).and_then(|rest| rest.strip_suffix(RESERVED));
    let part = inner.unwrap_or(name);
    let mut out = String::with_capacity(name.len() + DIGIT_PREFIX.len());
    if inner.is_some() {
        out.push_str("__");
    } else if part.first().is_some_and(u8::is_ascii_digit) {
        out.push_str(DIGIT_PREFIX);
    }
    let mut gap = false;
    let mut named = false;
    for byte in part {
        // A character beyond ASCII is several bytes, and one gap all the same.
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(*byte));
            (gap, named) = (false, true);
        } else if !gap {
            out.push('_');
            gap = true;
        }
    }
    if inner.is_some() {
        out.push_str("__");
    }
    named.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels;

    #[test]
    fn names_are_as_loki_has_them() {
        for (name, expected) in [
            ("http.method", "http_method"),
            ("a", "a"),
            ("A9", "A9"),
            ("a..b--c", "a_b_c"),
            ("a__b_", "a_b_"),
            ("_a", "_a"),
            ("__a", "_a"),
            ("9lives", "key_9lives"),
            (".9lives", "_9lives"),
            ("__a__", "__a__"),
            ("__a.b__", "__a_b__"),
            ("__9__", "__9__"),
            ("___a___", "___a___"),
            ("größe", "gr_e"),
            ("日本x", "_x"),
        ] {
            let found = normalise(name.as_bytes()).unwrap();
            assert_eq!(found, expected, "{name}");
            assert!(labels::is_name(&found), "{name}");
        }
        for name in ["", "_", "__", "___", "____", "_____", "...", "日本", "__.__"] {
            assert_eq!(normalise(name.as_bytes()), None, "{name}");
        }
        assert_eq!(normalise(b"a\xff\xfeb").unwrap(), "a_b", "no UTF-8");
    }

    #[test]
    fn labels_are_those_of_the_whole_name() {
        assert!(is_label(b"service.name") && is_label(b"k8s.job.name"));
        assert!(!is_label(b"service_name") && !is_label(b"service.name.x") && !is_label(b""));
    }
}

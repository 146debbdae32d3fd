//! A configuration as far as it can be read, with what is wrong with it: for whoever looks at everything
//! else as well.

use crate::error::{Errors, Problem};
use crate::tree::Node;
use crate::{Config, check};
use std::path::Path;

#[derive(Debug)]
pub struct Draft {
    /// Where a problem is, it holds a default, or nothing: ask by [`Draft::sound`].
    config: Config,
    errors: Option<Errors>,
}

impl Draft {
    /// With the variables of this process. The error is that of a file that cannot be read, or is no YAML.
    pub fn load(file: &Path) -> Result<Draft, Errors> {
        let name = file.display().to_string();
        let text = crate::read(file)?;
        Draft::parse(&text, &name, &crate::variable)
    }

    pub(crate) fn parse(
        text: &str,
        file: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Draft, Errors> {
        let tree = Node::parse(text).map_err(|problem| Errors::new(file, vec![problem]))?;
        Ok(Draft::of(tree, file, variable))
    }

    pub(crate) fn of(tree: Node, file: &str, variable: &dyn Fn(&str) -> Option<String>) -> Draft {
        let (config, problems) = check::config(tree, variable);
        let errors = (!problems.is_empty()).then(|| Errors::new(file, problems));
        Draft { config, errors }
    }

    pub fn checked(self) -> Result<Config, Errors> {
        match self.errors {
            None => Ok(self.config),
            Some(errors) => Err(errors),
        }
    }

    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        self.errors.as_ref().map_or(&[], Errors::problems)
    }

    /// What was read, where none of these keys, above and below them, has a problem.
    #[must_use]
    pub fn sound(&self, keys: &[&str]) -> Option<&Config> {
        let touched = |key: &&str| self.problems().iter().any(|of| is_within(&of.key, key));
        (!keys.iter().any(touched)).then_some(&self.config)
    }
}

/// One of them is the other, or above it.
fn is_within(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
    short.is_empty()
        || long
            .strip_prefix(short)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_problem_can_be_used() {
        let text = "version: 1\ndata_dir: /d\nwal: { byte_max: 1GiB }\nsinks: { loki: { url: \"http://h\" } }\n\
                    sources: { files: [{ include: [\"/l/*\"], labels: { a: \"${NONE}\" } }] }\nwat: 1\n";
        let draft = Draft::parse(text, "f", &|_| None).unwrap();
        let keys: Vec<&str> = draft.problems().iter().map(|problem| &*problem.key).collect();
        assert_eq!(keys, ["wal.byte_max", "sources.files[0].labels.a", "wat"]);
        assert_eq!(draft.sound(&["data_dir", "sinks"]).unwrap().data_dir, Path::new("/d"));
        for touched in ["wal", "wal.byte_max", "sources", "sources.files", "wat"] {
            assert!(draft.sound(&["data_dir", touched]).is_none(), "{touched}");
        }
        assert!(draft.sound(&["wal.bytes_max", "sources.reconcile_interval"]).is_some());
        assert_eq!(draft.checked().unwrap_err().problems().len(), 3);
        assert!(Draft::parse(": [", "f", &|_| None).is_err());
    }
}

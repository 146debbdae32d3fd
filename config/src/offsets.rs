//! Where another agent was in its files: `path: offset`, as promtail's positions.yaml has it, or JSON.

use crate::error::{Errors, Problem};
use crate::tree::{Node, Value};

/// How far a file was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offset {
    pub line: usize,
    pub path: String,
    pub offset: u64,
}

/// Promtail puts them all under this key.
const POSITIONS: &str = "positions";
const HINT: &str = "write /var/log/app.log: 1234, in bytes; or take what positions export prints";

/// Reads all of a text, or says everything that is wrong; `file` is its name for that.
pub fn offsets(text: &str, file: &str) -> Result<Vec<Offset>, Errors> {
    let tree = Node::parse(text).map_err(|problem| Errors::new(file, vec![problem]))?;
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    match entries(tree) {
        Ok(entries) => {
            for (path, line, node) in entries {
                match offset(&node.value) {
                    Some(offset) => found.push(Offset { line, path, offset }),
                    None => {
                        let text = format!("expected an offset, found {}", node.describe());
                        problems.push(Problem::new(line, path, text).hint(HINT));
                    }
                }
            }
        }
        Err(problem) => problems.push(problem),
    }
    if problems.is_empty() { Ok(found) } else { Err(Errors::new(file, problems)) }
}

fn entries(tree: Node) -> Result<Vec<(String, usize, Node)>, Problem> {
    let wrong = |node: &Node| {
        let text = format!("expected paths with offsets, found {}", node.describe());
        Problem::new(node.line, "", text).hint(HINT)
    };
    let Value::Map(entries) = tree.value else { return Err(wrong(&tree)) };
    match entries.iter().find(|(key, ..)| key == POSITIONS) {
        Some((_, _, Node { value: Value::Map(under), .. })) => Ok(under.clone()),
        Some((_, line, Node { value: Value::Null, .. })) => {
            Err(Problem::new(*line, POSITIONS, "there are none").hint(HINT))
        }
        Some((.., node)) => Err(wrong(node)),
        None => Ok(entries),
    }
}

fn offset(value: &Value) -> Option<u64> {
    let Value::Scalar(text) = value else { return None };
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, u64)>, String> {
        let pairs = |found: Vec<Offset>| found.into_iter().map(|of| (of.path, of.offset)).collect();
        offsets(text, "f").map(pairs).map_err(|errors| errors.to_string())
    }

    #[test]
    fn promtails_file_and_plain_pairs_are_read() {
        let expected = Ok(vec![("/a b.log".to_owned(), 12), ("/c.log".to_owned(), 0)]);
        for text in [
            "positions:\n  /a b.log: \"12\"\n  /c.log: \"0\"\n",
            "/a b.log: 12\n/c.log: 0\n",
            "{\"/a b.log\": 12, \"/c.log\": \"0\"}",
            "{\"positions\": {\"/a b.log\": 12, \"/c.log\": 0}}",
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_with_its_line() {
        let error = read("/a: 1\n/b: -1\n/c: x\n/d: [1]\n").unwrap_err();
        for part in ["f:2: /b: expected an offset", "f:3: /c", "f:4: /d", "in bytes"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        for text in ["[1]", "positions: [1]", "positions:\n", "7", "{"] {
            assert!(read(text).unwrap_err().starts_with("f:"), "{text}");
        }
    }
}

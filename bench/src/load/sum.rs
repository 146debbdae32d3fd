//! A sum over lines that does not depend on their order: equal sums, equal lines.
//!
//! Each line is hashed (64 bits) and the hashes are added. A line that is missing, changed, cut or
//! sent twice changes the sum; that two such faults cancel has odds of one in 2^64.

use rapidhash::v3::rapidhash_v3;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineSum {
    pub lines: u64,
    /// Without newlines.
    pub bytes: u64,
    hashes: u64,
}

impl LineSum {
    #[inline]
    pub fn add(&mut self, line: &[u8]) {
        self.lines += 1;
        self.bytes += line.len() as u64;
        self.hashes = self.hashes.wrapping_add(rapidhash_v3(line));
    }

    pub fn merge(&mut self, other: LineSum) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        self.hashes = self.hashes.wrapping_add(other.hashes);
    }

    /// Every line that ends in `text`.
    pub fn add_text(&mut self, text: &[u8]) {
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', text) {
            self.add(&text[begin..end]);
            begin = end + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(text: &[u8]) -> LineSum {
        let mut sum = LineSum::default();
        sum.add_text(text);
        sum
    }

    #[test]
    fn order_does_not_count_and_everything_else_does() {
        assert_eq!(sum(b"a\nb\nc\n"), sum(b"c\na\nb\n"));
        for other in [b"a\nb\nb\n", b"a\nb\nC\n", b"a\nbc\n\n", b"ab\nc\n\n"] {
            assert_ne!(sum(b"a\nb\nc\n"), sum(other));
        }
    }
}

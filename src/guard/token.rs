//! Tokens: how one is made, and what is kept of it.
//!
//! A token is 256 random bits. Nobody guesses one, however fast hashing is: so SHA-256 is enough, where a password
//! that a person thought of would need a slow hash, which each request would pay for.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use clap::{Subcommand, ValueEnum};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt::Write as _;
use std::io::Write;

pub const HASH_BYTES: usize = SHA256_OUTPUT_LEN;
const TOKEN_BYTES: usize = 32;
/// By which scanners for secrets know one that got into a place where it does not belong.
const PREFIX: &str = "lct_";

const CODES: &str = "Exit code: 0; 1 it failed; 78 wrong arguments.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token, and print it with its line for server.auth.tokens. It is not kept: this is the only time that it is
    /// shown.
    #[command(after_help = CODES)]
    New {
        /// What it is called in the configuration and in the audit log: 1 to 64 letters, digits, _, - and .
        #[arg(long, value_name = "NAME", value_parser = name)]
        name: String,
        /// What it is for; several with commas between them.
        #[arg(long = "role", value_name = "ROLE", value_delimiter = ',', required = true)]
        roles: Vec<RoleArg>,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum RoleArg {
    /// Send lines.
    Ingest,
    /// Ask how it goes, and for /metrics.
    Read,
    /// Change something, and ask.
    Operate,
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("no random numbers from the system")]
    Random,
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl CommandError {
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        1
    }
}

/// As the configuration has it.
fn name(text: &str) -> Result<String, String> {
    let is_sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&text.len()) && text.chars().all(is_sign) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 64 letters, digits, _, - and .".into())
    }
}

#[must_use]
pub fn hash(token: &[u8]) -> [u8; HASH_BYTES] {
    digest(&SHA256, token).as_ref().try_into().expect("so many bytes")
}

/// The bytes of a hash in hexadecimal digits; none where it is none.
#[must_use]
pub fn hash_of_hex(text: &str) -> Option<[u8; HASH_BYTES]> {
    let mut hash = [0; HASH_BYTES];
    if text.len() != 2 * HASH_BYTES || !text.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

pub(super) fn hex(hash: &[u8]) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn make() -> Result<String, CommandError> {
    let mut bytes = [0; TOKEN_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| CommandError::Random)?;
    Ok(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

/// Runs a command; its answer goes to standard output.
pub fn run(command: &Command) -> Result<(), CommandError> {
    let Command::New { name, roles, json } = command;
    let token = make()?;
    let sha256 = hex(&hash(token.as_bytes()));
    let mut roles: Vec<String> = roles
        .iter()
        .filter_map(|role| role.to_possible_value())
        .map(|role| role.get_name().to_owned())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    let out = &mut std::io::stdout().lock();
    if *json {
        let shown =
            serde_json::json!({ "name": name, "token": token, "sha256": sha256, "roles": roles });
        return Ok(writeln!(out, "{shown:#}")?);
    }
    let roles = roles.join(", ");
    writeln!(
        out,
        "token, for whoever uses it (Authorization: Bearer TOKEN); it is shown only now:\n\n  {token}\n"
    )?;
    writeln!(
        out,
        "line for server.auth.tokens:\n\n  - {{ name: {name}, sha256: \"{sha256}\", roles: [{roles}] }}"
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_different_and_hashes_are_read_as_they_are_written() {
        let (one, other) = (make().unwrap(), make().unwrap());
        assert!(one != other && one.len() == other.len() && one.len() > 40, "{one} {other}");
        let hash = hash(one.as_bytes());
        assert_eq!(hash_of_hex(&hex(&hash)), Some(hash));
        assert_eq!(hex(&super::hash(b"abc"))[..16], *"ba7816bf8f01cfea");
        for wrong in ["", "ab", &"g".repeat(64), &"ä".repeat(32)] {
            assert_eq!(hash_of_hex(wrong), None);
        }
    }
}

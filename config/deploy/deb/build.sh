#!/usr/bin/env bash
# Builds target/debian/log-capturer_VERSION_ARCH.deb from the release binary. cargo-deb comes into target/tools, and
# takes what is given, such as --dbgsym for a package of the symbols that a backtrace needs.
set -euo pipefail
cd "$(dirname "$0")/../../.."
cargo_deb=3.8.0
export PATH="$PWD/target/tools/bin:$PATH"

[ "$(cargo deb --version 2>/dev/null)" = "$cargo_deb" ] ||
    cargo install cargo-deb --version "$cargo_deb" --locked --quiet --root target/tools
cargo build --release --locked
cargo run --quiet --locked --example manual -- target/manual
rm -rf target/debian
cargo deb --no-build --locked --strip "$@"

#!/usr/bin/env bash
# Builds the Debian package of this tree: the binary, its manual pages and completions as itself tells them, the units.
# Needs cargo-deb (`cargo install cargo-deb`). Prints the path of the package.
set -euo pipefail
cd "$(dirname "$0")/../../.."

profile=${OLLAMAMAX_DEB_PROFILE:-release}
target=${CARGO_TARGET_DIR:-target}
command -v cargo-deb >/dev/null || { echo "cargo-deb is missing: run \`cargo install cargo-deb\`" >&2; exit 1; }
[ "$profile" != release ] || cargo build --release --locked --bin ollamamax
binary=$target/$profile/ollamamax
[ -x "$binary" ] || { echo "$binary is not there: build it first" >&2; exit 1; }

# Where [package.metadata.deb] of Cargo.toml looks for what is made, and not kept in the repository.
made=target/deb
rm -rf "$made"
mkdir -p "$made/man"
cp "$binary" "$made/ollamamax"
"$binary" man "$made/man"
gzip -9n "$made"/man/*.1
for shell in bash zsh fish; do
    "$binary" completions "$shell" >"$made/ollamamax.$shell"
done
cargo deb --no-build --locked

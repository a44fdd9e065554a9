#!/usr/bin/env bash
# Plants one bug after the other and expects the suite to find each. Arguments: names of bugs; all when there are none.
# Each line of the list: the bug, the scenario that shows it, the checker that is expected to.
set -euo pipefail
cd "$(dirname "$0")/.."

list="
stale-read            leader-isolated    linearizable
unchecked-revision    herd               linearizable
proposed-twice        herd               linearizable
unproposed-write      herd               durable
unwritten-log         nodes-killed       heals
one-generation        herd               exclusive
drained-for-ever      drains             heals
edited-trail          herd               trail
forgetful-trail       herd               trail
revocation-ignored    herd               tokens
everybody-leads       herd               leaders
repeated-token        workers-killed     streams
lost-token            workers-killed     streams
changed-seed          workers-killed     streams
early-end             workers-killed     streams
rest-too-short        gateways-killed    streams
leaked-memory         herd               resources
leaked-descriptors    herd               resources
"
target="${CARGO_TARGET_DIR:-target}"
cargo build --quiet --features mutants --bin ollamamax
# Beside the ordinary one, which the next build replaces.
cp "$target/debug/ollamamax" "$target/debug/ollamamax-mutants"
cargo build --quiet -p ollamamax-chaos
missed=0
while read -r bug scenario checker; do
    [ -n "$bug" ] || continue
    if [ $# -gt 0 ] && [[ " $* " != *" $bug "* ]]; then continue; fi
    said=$(OLLAMAMAX_BINARY="$target/debug/ollamamax-mutants" OLLAMAMAX_MUTANT="$bug" \
        "$target/debug/ollamamax-chaos" --scenario "$scenario" --seed 3 2>&1) && code=0 || code=$?
    found=$(grep -oE 'BROKEN +[a-z]+' <<<"$said" | awk '{print $2}' | paste -sd, || true)
    if [ "$code" = 1 ]; then
        printf 'caught  %-20s by %s (expected %s)\n' "$bug" "${found:-the run, which broke off}" "$checker"
    else
        printf 'MISSED  %-20s expected %s to find it\n%s\n' "$bug" "$checker" "$said"
        missed=$((missed + 1))
    fi
done <<<"$list"
echo "$missed missed"
[ "$missed" = 0 ]

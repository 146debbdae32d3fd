#!/usr/bin/env bash
# What can be checked without Docker: the Dockerfile by hadolint, compose.yaml by the schema of Compose, that every path
# in them is there; and that the program, with no more than the image has, ships a line under seccomp.json in runc, the
# runtime of Docker. Nothing is pulled or built. Needs runc, root, target/release/log-capturer, and in PATH hadolint and
# check-jsonschema.
set -euo pipefail
cd "$(dirname "$0")/../../.."
here=config/deploy/docker
work=$PWD/target/docker-check
. config/deploy/deb/loki.sh
# Without the host's network: its ports may be in use.
[ "${1:-}" = inside ] || exec unshare --net config/deploy/docker/check.sh inside
ip link set lo up

fail() { echo "$*" >&2; exit 1; }

paths() {
    local path
    for path in $(awk '/^COPY/ && !/--from/ { for (i = 2; i < NF; i++) if ($i !~ /^--/) print $i }' $here/Dockerfile); do
        [ -e "$path" ] || fail "Dockerfile: no $path"
    done
    for path in $(sed -n 's/^ *- \(\.\.[^:]*\):.*/\1/p; s/^ *- seccomp:\(.*\)/\1/p; s/.*build: { context: \([^,]*\),.*/\1/p' $here/compose.yaml); do
        [ -e "$here/$path" ] || fail "compose.yaml: no $path"
    done
    path=$(sed -n 's/.*dockerfile: \([^ ]*\) }.*/\1/p' $here/compose.yaml)
    [ -f "$path" ] || fail "compose.yaml: no $path"
}

# The image's file system, and a log to read.
make_bundle() {
    local root=$work/bundle/rootfs library
    mkdir -p "$root"/{usr/bin,etc/log-capturer,var/lib,var/log,proc,dev,sys,tmp}
    cp target/release/log-capturer "$root/usr/bin/"
    for library in $(ldd target/release/log-capturer | grep -o '/[^ ]*'); do cp -L --parents "$library" "$root"; done
    cp config/deploy/deb/config.yaml "$root/etc/log-capturer/"
    # The volume.
    install -d -m 0700 -o 10001 -g 10001 "$work/data"
    install -m 0640 -o root -g 4 /dev/null "$root/var/log/app.log"
    echo "$1" >"$root/var/log/app.log"
    python3 $here/bundle.py "$work" "$loki_url" $here/seccomp.json
}

runs_under_seccomp() {
    local marker=qzxjv-wkyph
    start_loki "$work/pushes"
    make_bundle $marker
    runc --root "$work/runc" run --bundle "$work/bundle" "$container" >"$work/run.log" 2>&1 & local run=$!
    await $marker || { cat "$work/run.log"; fail "the line did not arrive"; }
    # A filter is in force.
    [ "$(awk '/^Seccomp:/ { print $2 }' "/proc/$(runc --root "$work/runc" state "$container" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')/status")" = 2 ] || fail "no seccomp filter is in force"
    runc --root "$work/runc" kill "$container" TERM
    wait "$run" || { cat "$work/run.log"; fail "ends with $?"; }
}

container=log-capturer-check-$$
cleanup() {
    runc --root "$work/runc" delete --force "$container" 2>/dev/null || true
    stop_loki
    rm -rf "$work"
}
rm -rf "$work" && mkdir -p "$work"
trap cleanup EXIT
hadolint $here/Dockerfile
check-jsonschema --builtin-schema vendor.compose-spec $here/compose.yaml
paths
runs_under_seccomp
echo "Dockerfile, compose.yaml and seccomp.json hold; image and compose were not run"

# For the tests of packages: a Loki that keeps what it is sent, and waiting for that. To be sourced.
loki_source=$(dirname "${BASH_SOURCE[0]}")/loki.py

# Sets loki_url; bodies go to the file $1.
start_loki() {
    loki_pushes=$1
    rm -f "$loki_pushes" "$loki_pushes.port"
    python3 "$loki_source" "$loki_pushes" & loki=$!
    local tries
    for tries in {1..100}; do [ -s "$loki_pushes.port" ] && break; sleep 0.1; done
    loki_url=http://127.0.0.1:$(cat "$loki_pushes.port")
}

# Until a push holds the text $1, 20 s at most.
await() {
    local tries
    for tries in {1..200}; do grep -aq "$1" "$loki_pushes" && return; sleep 0.1; done
    return 1
}

stop_loki() {
    [ -n "${loki:-}" ] || return 0
    kill "$loki" 2>/dev/null || true
    wait "$loki" 2>/dev/null || true
    loki=
}

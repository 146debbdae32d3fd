#!/usr/bin/env bash
# The service manager of a host that is a directory: `service.sh start|stop DIR PORT TEST`. A start ends when it listens,
# or with the exit code of what ended before. What runs ends with the process TEST, however that ends.
set -eu
action=$1 dir=$2 port=$3 test=$4
pid=$(cat "$dir/pid" 2>/dev/null || true)

runs() { [ -n "$pid" ] && grep -qs '^State:.[^Z]' "/proc/$pid/status"; }

case $action in
stop)
    if runs; then kill -TERM "$pid"; fi
    while runs; do sleep 0.05; done
    ;;
start)
    setsid "$dir/bin/log-capturer" run --config "$dir/config.yaml" </dev/null >>"$dir/product.log" 2>&1 &
    pid=$!
    echo "$pid" >"$dir/pid"
    (while runs; do [ -d "/proc/$test" ] || kill -KILL "$pid"; sleep 2; done) </dev/null >/dev/null 2>&1 &
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        if ! runs; then wait "$pid" && exit 1 || exit; fi
        sleep 0.05
    done
    ;;
esac

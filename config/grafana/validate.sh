#!/usr/bin/env bash
# Checks the dashboards: against Grafana's published schema, and that every query parses and every link leads somewhere.
#   config/grafana/validate.sh                                  # needs node, npm and promtool
#   config/grafana/validate.sh --queries                        # prints the queries, variables filled in, one a line
#   config/grafana/validate.sh --against http://127.0.0.1:9090  # asks that Prometheus each of them; fails where one has no data
set -euo pipefail
cd "$(dirname "$0")/../.."
there=target/grafana-schema
wanted='@grafana/schema@13.2.3 @grafana/grafana-foundation-sdk@0.0.21 typescript@5.9.3'
case "${1:-}" in
--queries | --against) ;;
*)
    if [ "$(cat "$there/versions" 2>/dev/null)" != "$wanted" ]; then
        mkdir -p "$there"
        # shellcheck disable=SC2086 # three words
        npm install --prefix "$there" --no-save --no-audit --no-fund --ignore-scripts --silent $wanted
        printf '%s\n' "$wanted" >"$there/versions"
    fi
    ;;
esac
exec node config/grafana/validate.mjs "$@"

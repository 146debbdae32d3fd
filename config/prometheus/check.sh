#!/usr/bin/env bash
# Checks what Prometheus gets: rules, scrape configuration, the tests of the alerts; that each alert has a case that raises
# it and one that does not, all annotations, and a section in RUNBOOKS.md. Needs promtool, 2.42 or later.
set -euo pipefail
cd "$(dirname "$0")/../.."
promtool check config config/prometheus/scrape.yaml
promtool test rules config/prometheus/tests/*.yaml
failed=0
fail() { echo "$*" >&2; failed=1; }
alerts=$(sed -n 's/^ *- alert: //p' config/prometheus/rules/alerts.yaml)
for alert in $alerts; do
    # From its name to the next one.
    text=$(awk -v name="$alert" '$2 == "alert:" || $2 == "name:" { on = ($3 == name) } on' config/prometheus/rules/alerts.yaml)
    for part in 'severity: \(critical\|warning\) ' 'summary: ' 'description: ' "runbook_url: config/RUNBOOKS.md#${alert,,}\$"; do
        grep -q "$part" <<<"$text" || fail "$alert: no $part"
    done
    [ "$(grep -c "^### $alert\$" config/RUNBOOKS.md)" = 1 ] || fail "$alert: no section in RUNBOOKS.md"
    for kind in fires 'does not fire'; do
        grep -qh "^  - name: '$alert $kind: " config/prometheus/tests/*.yaml || fail "$alert: no test that it $kind"
    done
done
# Sections, links and tests of alerts that are gone.
for named in $(grep -oh '^### LogCapturer[A-Za-z]*' config/RUNBOOKS.md | cut -c5-) $(grep -oh 'alertname: [A-Za-z]*' config/prometheus/tests/*.yaml | cut -c12-); do
    grep -qx "$named" <<<"$alerts" || fail "$named: there is no such alert"
done
anchors=$(sed -n 's/^##* //p' config/RUNBOOKS.md | tr 'A-Z ' 'a-z-')
for link in $(grep -o '](#[a-z-]*)' config/RUNBOOKS.md | tr -d '](#)'); do
    grep -qx "$link" <<<"$anchors" || fail "RUNBOOKS.md: #$link leads nowhere"
done
[ $failed = 0 ] && echo "$(wc -w <<<"$alerts") alerts, each with tests and a runbook"
exit $failed

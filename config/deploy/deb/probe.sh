#!/bin/bash
# Runs in the Debian that the test of the package boots, by probe.service.
for _ in {1..300}; do [ -e /arrived ] && break; sleep 0.1; done
exec 3<>/dev/tcp/127.0.0.1/8001
printf 'GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n' >&3
cat <&3 >/metrics
systemctl stop log-capturer
journalctl -u log-capturer --no-pager >/journal
systemctl show log-capturer -p Result -p NRestarts -p ExecMainStatus | sort -r >/result
systemctl poweroff --force

#!/usr/bin/env bash
# Prints seccomp.json: nothing is allowed but the groups that the systemd unit names, as the systemd of this host has them.
# Those of @privileged stay in, since the runtime itself needs some of them under the profile; without capabilities they
# are refused all the same.
set -euo pipefail

calls() {
    local name
    for name in $(systemd-analyze syscall-filter "$1" | sed '1d; s/#.*//'); do
        case $name in @*) calls "$name" ;; *) echo "$name" ;; esac
    done
}

cat <<END
{
  "defaultAction": "SCMP_ACT_ERRNO",
  "defaultErrnoRet": 1,
  "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
  "syscalls": [
    {
      "names": [
$({ calls @system-service; calls @aio; } | sort -u | sed 's/.*/        "&",/; $s/,$//')
      ],
      "action": "SCMP_ACT_ALLOW"
    }
  ]
}
END

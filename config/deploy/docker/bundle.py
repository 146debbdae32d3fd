"""Writes WORK/bundle/config.json for runc: what Dockerfile and compose.yaml ask of Docker. bundle.py WORK LOKI_URL SECCOMP"""

import json
import subprocess
import sys

work, loki_url, seccomp = sys.argv[1:]
bundle = work + "/bundle"
subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
with open(bundle + "/config.json") as file:
    spec = json.load(file)
spec["process"] |= {
    "terminal": False,
    "user": {"uid": 10001, "gid": 10001, "additionalGids": [4]},
    "args": ["/usr/bin/log-capturer", "run", "--config", "/etc/log-capturer/config.yaml"],
    "env": ["PATH=/usr/bin", "HOSTNAME=here", "LOKI_URL=" + loki_url],
    "capabilities": {},
    "noNewPrivileges": True,
    "rlimits": [
        {"type": "RLIMIT_NOFILE", "hard": 65536, "soft": 65536},
        {"type": "RLIMIT_MEMLOCK", "hard": 67108864, "soft": 67108864},
    ],
}
spec["root"]["readonly"] = True
spec["mounts"].append(
    {"destination": "/var/lib/log-capturer", "source": work + "/data", "type": "bind", "options": ["bind", "rw"]}
)
# The host's network.
spec["linux"]["namespaces"] = [of for of in spec["linux"]["namespaces"] if of["type"] != "network"]
spec["mounts"] = [of for of in spec["mounts"] if of["type"] not in ("sysfs", "cgroup")]
with open(seccomp) as file:
    spec["linux"]["seccomp"] = json.load(file)
with open(bundle + "/config.json", "w") as file:
    json.dump(spec, file)

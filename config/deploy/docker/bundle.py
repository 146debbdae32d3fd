"""Writes WORK/bundle/config.json for runc: what Dockerfile and compose.yaml ask of Docker. bundle.py WORK LOKI_URL SECCOMP"""

import json
import resource
import subprocess
import sys


def limit(name, wanted):
    """No more than this host lets this process have."""
    hard = resource.getrlimit(getattr(resource, "RLIMIT_" + name))[1]
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    return {"type": "RLIMIT_" + name, "hard": wanted, "soft": wanted}


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
    "rlimits": [limit("NOFILE", 65536), limit("MEMLOCK", 64 << 20)],
}
spec["root"]["readonly"] = True
spec["mounts"].append(
    {"destination": "/var/lib/log-capturer", "source": work + "/data", "type": "bind", "options": ["bind", "rw"]}
)
# The host's network.
spec["linux"]["namespaces"] = [of for of in spec["linux"]["namespaces"] if of["type"] != "network"]
spec["mounts"] = [of for of in spec["mounts"] if of["type"] != "cgroup"]
with open(seccomp) as file:
    spec["linux"]["seccomp"] = json.load(file)
with open(bundle + "/config.json", "w") as file:
    json.dump(spec, file)

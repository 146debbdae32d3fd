#!/usr/bin/env python3
"""What can be checked without a cluster: check.py LOG_CAPTURER, in a Python with PyYAML, promtool in PATH.

The files are YAML of the kinds they name; the program takes the configuration; each query is one, of metrics and recorded
series that there are; a pod has longer to end than the program takes."""

import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

here = pathlib.Path(__file__).parent
root = here.parents[2]
program = sys.argv[1]


def documents(name):
    return {of["kind"]: of for of in yaml.safe_load_all((here / name).read_text())}


def run(*args):
    ran = subprocess.run(args, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"{' '.join(map(str, args))}: {ran.stdout}{ran.stderr}")
    return ran.stdout


def seconds(text):
    return float(re.fullmatch(r"(\d+)s", text)[1])


def configuration(work, config_map):
    path = work / "config.yaml"
    path.write_text(config_map["data"]["config.yaml"])
    return yaml.safe_load(run(program, "check", "--config", path))


def pod(daemon_set, config):
    spec = daemon_set["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] > seconds(config["drain_timeout"]), "it is killed while it drains"
    [container] = spec["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name, section in ("api", "server"), ("metrics", "metrics"):
        assert config[section]["listen"] == f"0.0.0.0:{ports[name]}", f"{name}: {config[section]}"
    document = yaml.safe_load((root / "src/panel/openapi.json").read_text())
    for probe in "startupProbe", "readinessProbe", "livenessProbe":
        get = container[probe]["httpGet"]
        assert get["path"] in document["paths"] and get["port"] in ports, get
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {"/etc/log-capturer": True, config["data_dir"]: False, "/var/log": True}, mounts
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    labels = daemon_set["spec"]["template"]["metadata"]["labels"]
    assert daemon_set["spec"]["selector"]["matchLabels"].items() <= labels.items()


def queries(work, template):
    arguments = {"prometheus": "http://127.0.0.1:9090", "instances": "node-1|node-2", "count": "2", "before": "1d"}
    assert {of["name"] for of in template["spec"]["args"]} == set(arguments)
    known = set(re.findall(r"record: (\S+)", (root / "config/prometheus/rules/recording.yaml").read_text()))
    source = "".join(path.read_text() for crate in ("src", "perf/src") for path in (root / crate).rglob("*.rs"))
    known |= set(re.findall(r'"((?:log_capturer|process)_[a-z_]+)"', source)) | {"up"}
    rules = []
    for metric in template["spec"]["metrics"]:
        assert re.fullmatch(r"result\[0\] (<|<=|==|>=) [\d.]+", metric["successCondition"]), metric
        query = metric["provider"]["prometheus"]["query"]
        for name, value in arguments.items():
            query = query.replace("{{args.%s}}" % name, value)
        assert "{{" not in query, query
        for name in re.findall(r"\b(?:instance\w*:\S+?|(?:log_capturer|process)_\w+|up)(?=\{)", query):
            assert name in known, f"{metric['name']}: there is no {name}"
        rules.append({"record": "x:" + metric["name"].replace("-", "_"), "expr": query})
    path = work / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    run("promtool", "check", "rules", path)
    return len(rules)


def scrape(work):
    text = (here / "scrape.yaml").read_text()
    [job] = yaml.safe_load(text)["scrape_configs"]
    assert job["job_name"] == "log_capturer", job
    # Debian's promtool is built without Kubernetes.
    del job["kubernetes_sd_configs"]
    path = work / "scrape.yaml"
    path.write_text(yaml.safe_dump({"scrape_configs": [job]}))
    run("promtool", "check", "config", "--syntax-only", path)


def main():
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        config = configuration(work, documents("configmap.yaml")["ConfigMap"])
        pod(documents("daemonset.yaml")["DaemonSet"], config)
        scrape(work)
        count = queries(work, documents("analysis-template.yaml")["AnalysisTemplate"])
    [container] = documents("verify-job.yaml")["Job"]["spec"]["template"]["spec"]["containers"]
    # It gets as far as to ask: its arguments are right.
    ran = subprocess.run([program, "verify", "--help"], capture_output=True, text=True)
    assert all(flag in ran.stdout for flag in container["args"] if flag.startswith("--")), container["args"]
    print(f"the manifests hold, and {count} queries; no cluster was asked")


main()

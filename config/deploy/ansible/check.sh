#!/usr/bin/env bash
# The syntax of the playbooks, what ansible-lint says at its strictest, and that the collection is built. Needs ansible-core
# and ansible-lint in PATH. What it does on hosts is tested by tests/rollout.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export ANSIBLE_HOME=$work/home ANSIBLE_COLLECTIONS_PATH=$work/collections
mkdir -p "$ANSIBLE_HOME"
ansible-galaxy collection build --output-path "$work" >/dev/null
ansible-galaxy collection install --offline "$work"/log_capturer-fleet-*.tar.gz >/dev/null
for playbook in playbooks/*.yml; do
    ansible-playbook --syntax-check --inventory localhost, "log_capturer.fleet.$(basename "$playbook" .yml)" >/dev/null
done
ansible-lint --offline -q --profile production
echo "the collection is built, and clean"

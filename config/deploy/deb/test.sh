#!/usr/bin/env bash
# The package as an administrator meets it: builds it, lints it, and in a new Debian of the host's release installs, runs, boots,
# upgrades, removes and purges it. Needs root, debootstrap, lintian, systemd-nspawn, fish and zsh, and the network for the mirror that the host's apt has.
set -euo pipefail
cd "$(dirname "$0")/../../.."
. config/deploy/deb/loki.sh

# What is mounted is gone with this process, whatever happens.
stage=${1:-start}
[ "$stage" != start ] || exec unshare --mount --propagation private config/deploy/deb/test.sh prepare

work=$PWD/target/deb-test
root=$work/root
config=/etc/log-capturer/config.yaml
data=/var/lib/log-capturer
previous=/usr/lib/log-capturer/previous

fail() { echo "$*" >&2; exit 1; }
same() { [ "$1" = "$2" ] || fail "${3:-expected}: expected '$1', found '$2'"; }
# With the time since the stage began.
step() { echo "-- $* ($SECONDS s)"; "$@"; }
in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
# As the service runs it.
as_user=(chroot --userspec=log-capturer:log-capturer --groups=adm "$root" /usr/bin/env -i PATH=/usr/bin)
has() { [ -e "$root$1" ] || fail "$1 is missing"; }
has_not() { [ ! -e "$root$1" ] || fail "$1 is still there"; }
# The owner inside, not that of this host.
mode() { in_root stat -c '%a %U:%G' "$1"; }
apt_install() { in_root apt-get install -qy --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$1" >"$work/apt.log" 2>&1 || { cat "$work/apt.log"; fail "$1 is not installed"; }; }

# What the playbook says for packages, by the kind of its block.
playbook() { sed -n "/^\`\`\`sh $1\$/,/^\`\`\`\$/{/^\`\`\`/d;p}" config/PLAYBOOK.md; }
by_playbook() { local kind=$1; shift; in_root "$@" bash -euc "$(playbook "$kind")" >"$work/apt.log" 2>&1 || { cat "$work/apt.log"; fail "$kind of the playbook fails"; }; }

cleanup() {
    stop_loki
    umount_host
    rm -rf "$root"
}

mount_host() { local dir; for dir in proc sys dev; do mount --rbind "/$dir" "$root/$dir"; done; }
umount_host() { local dir; for dir in proc sys dev; do umount -R "$root/$dir" 2>/dev/null || true; done; }

# The host's own release, from the mirror that its apt takes it from.
make_root() {
    local suite mirror
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mirror=$(apt-get indextargets 'Created-By: Packages' 'Component: main' "Codename: $suite" --format '$(REPO_URI)' | head -n1)
    [ -n "$mirror" ] || fail "apt has no source for main of $suite: see /etc/apt/sources.list.d"
    mkdir -p "$work/cache"
    debootstrap --variant=minbase --cache-dir="$work/cache" --include=systemd,man-db,bash-completion "$suite" "$root" "$mirror" >"$work/debootstrap.log" 2>&1 ||
        { tail "$work/debootstrap.log" "$root/debootstrap/debootstrap.log"; fail "debootstrap fails"; }
    mount_host
    # As containers have it, manual pages may be left out.
    rm -f "$root"/etc/dpkg/dpkg.cfg.d/*
    mkdir -p "$root/var/log"
}

build() {
    config/deploy/deb/build.sh
    deb=$(echo target/debian/log-capturer_*.deb)
    lintian --allow-root --fail-on error,warning "$deb"
    cp "$deb" "$root/log-capturer.deb"
}

# The same sources as a higher version; its program and its default configuration can be told apart from the first's.
build_next() {
    local next=$work/next
    rm -rf "$next"
    dpkg-deb --raw-extract "$deb" "$next"
    sed -i "s/^Version: .*/Version: $version+next/" "$next/DEBIAN/control"
    printf next >>"$next/usr/bin/log-capturer"
    echo '# A default of the next version.' >>"$next$config"
    (cd "$next" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --root-owner-group --build -Zgzip -z1 "$next" "$root/next.deb" >/dev/null
}

installs() {
    apt_install /log-capturer.deb
    same '644 root:root' "$(mode $config)" "mode of $config"
    same '640 root:root' "$(mode /etc/default/log-capturer)" 'mode of /etc/default/log-capturer'
    same '755 root:root' "$(mode /usr/bin/log-capturer)" 'mode of the program'
    same '700 log-capturer:log-capturer' "$(mode $data)" "mode of $data"
    same 'log-capturer adm' "$(in_root id -nG log-capturer)" 'groups of the user'
    same "/etc/default/log-capturer $config" "$(in_root dpkg-query -W -f '${Conffiles}' log-capturer | awk '{print $1}' | sort | xargs)" conffiles
    same enabled "$(in_root systemctl is-enabled log-capturer)" 'the unit'
    local file
    for file in sysusers.d/log-capturer.conf tmpfiles.d/log-capturer.conf systemd/system/log-capturer.service; do has "/usr/lib/$file"; done
    for file in prometheus/scrape.yaml prometheus/rules/{alerts,recording}.yaml grafana/{critical-metrics,per-shard-tuning}.json \
        grafana/provisioning/{dashboards,datasources}.yaml systemd/{read-all-logs,credentials,before-253,previous}.conf; do has "/usr/share/log-capturer/$file"; done
    in_root sh -c 'cd /usr/share/doc/log-capturer && ls -R' >"$work/docs"
    for file in README ARCHITECTURE PLAYBOOK RUNBOOKS full minimal copyright changelog.Debian; do grep -q "^$file" "$work/docs" || fail "no $file under /usr/share/doc"; done
    same 0 "$(in_root find /etc -path '*logrotate*' -name '*log-capturer*' | wc -l)" 'configuration of logrotate'
}

# Each command that the program names in its help, at any depth.
pages() {
    local name=log-capturer command
    for command in "$@"; do name+=-$command; done
    in_root man -w "$name" >/dev/null || fail "no man page $name"
    in_root man "$name" | grep -q "$name" || fail "the man page $name does not show"
    local below
    below=$(in_root log-capturer "$@" --help | awk '/^Commands:/ { on = 1; next } /^$/ { on = 0 } on && $1 != "help" && /^  [a-z]/ { print $1 }')
    for command in $below; do pages "$@" "$command"; done
}

completes() {
    local found
    found=$(in_root bash -c '. /usr/share/bash-completion/bash_completion; . /usr/share/bash-completion/completions/log-capturer
        COMP_WORDS=(log-capturer dlq re) COMP_CWORD=2; $(complete -p log-capturer | sed "s/.* -F \([^ ]*\) .*/\1/") log-capturer re dlq; echo "${COMPREPLY[*]}"')
    same replay "$found" 'what bash completes'
    found=$(fish --no-config -c "source $root/usr/share/fish/vendor_completions.d/log-capturer.fish; complete -C 'log-capturer dlq re'" | cut -f1)
    same replay "$found" 'what fish completes'
    zsh -n "$root/usr/share/zsh/vendor-completions/_log-capturer"
}

# The unit where all it names is installed.
unit() {
    local said score
    said=$(in_root systemd-analyze verify log-capturer.service 2>&1 || true)
    # Before 253 that is how it says that it keeps to the line above.
    [ "$(in_root systemctl --version | awk 'NR == 1 { print $2 }')" -ge 253 ] || said=$(grep -v 'Failed to parse service type, ignoring: notify-reload$' <<<"$said" || true)
    same '' "$said" 'systemd-analyze verify'
    score=$(in_root systemd-analyze security --offline=true --no-pager log-capturer.service | sed -n 's/.*exposure level for log-capturer.service: \([0-9.]*\) .*/\1/p')
    same 1.4 "$score" 'exposure, as README has it, of systemd-analyze security'
}

# Lines of a file that only adm may read come to a Loki, on the configuration that the package brings.
runs() {
    in_root log-capturer check --config $config >"$work/checked"
    grep -q "data_dir: $data" "$work/checked"
    start_loki "$work/pushes"
    install -m 0640 -o root -g "$(in_root getent group adm | cut -d: -f3)" /dev/null "$root/var/log/app.log"
    echo "$1" >>"$root/var/log/app.log"
    "${as_user[@]}" LOKI_URL="$loki_url" log-capturer run --config $config 2>"$work/run.log" & local run=$!
    await "$1" || { kill "$run"; cat "$work/run.log"; fail "the line did not arrive"; }
    kill "$run"
    wait "$run" || { cat "$work/run.log"; fail "run ends with $?"; }
    stop_loki
    has $data/shard-00/wal
}

# The service in a Debian that is booted: all that the unit forbids is forbidden.
boots() {
    start_loki "$work/pushes"
    echo "LOKI_URL=$loki_url" >>"$root/etc/default/log-capturer"
    echo "$1" >>"$root/var/log/app.log"
    install -m 0755 config/deploy/deb/probe.sh "$root/probe.sh"
    install -m 0644 config/deploy/deb/probe.service "$root/etc/systemd/system/probe.service"
    in_root systemctl enable probe >/dev/null 2>&1
    umount_host
    systemd-nspawn -D "$root" --register=no --keep-unit --boot --console=pipe </dev/null >"$work/boot.log" 2>&1 & local boot=$!
    await "$1" || { cat "$root/result" "$root/journal"; fail "the line did not arrive from the service"; }
    touch "$root/arrived"
    wait "$boot" || { cat "$work/boot.log"; fail "systemd-nspawn ends with $?"; }
    mount_host
    stop_loki
    same 'Result=success NRestarts=0 ExecMainStatus=0' "$(xargs <"$root/result")" 'the service'
    # What it shows of itself needs /proc, of which little is left.
    grep -q '^process_threads [1-9]' "$root/metrics" || fail 'the metrics of the process are missing'
    in_root systemctl disable probe >/dev/null 2>&1
    rm "$root"/{probe.sh,etc/systemd/system/probe.service,result,metrics,journal,arrived}
    sed -i '/^LOKI_URL=/d' "$root/etc/default/log-capturer"
}

position() { "${as_user[@]}" log-capturer positions export --data-dir $data | grep /var/log/app.log; }

upgrades() {
    echo '# changed here' >>"$root$config"
    local before
    before=$(position)
    by_playbook package DEB=/next.deb
    same "$version+next" "$(in_root dpkg-query -W -f '${Version}' log-capturer)" 'the version'
    grep -q '^# changed here' "$root$config" || fail "the upgrade replaced $config"
    has $config.dpkg-dist
    same "$before" "$(position)" 'the position after the upgrade'
    # For the way back.
    same "$version" "$(cat "$root$previous/version")" 'the version that is kept'
    cmp "$work/first" "$root$previous/log-capturer" || fail 'what is kept is not the program before'
    in_root $previous/log-capturer check --config $config >/dev/null
    apt_install /next.deb --reinstall
    same "$version" "$(cat "$root$previous/version")" 'the version that is kept after the same version again'
    by_playbook package-back DEB_BEFORE=/log-capturer.deb
    same "$version" "$(in_root dpkg-query -W -f '${Version}' log-capturer)" 'the version after going back'
    same "$version+next" "$(cat "$root$previous/version")" 'the version that is kept after going back'
    same "$before" "$(position)" 'the position after going back'
    grep -q '^# changed here' "$root$config" || fail "going back replaced $config"
}

removes() {
    in_root dpkg --remove log-capturer >/dev/null
    has_not /usr/bin/log-capturer
    has_not /usr/lib/log-capturer
    has $config
    has $data/shard-00/wal
    in_root dpkg --purge log-capturer >/dev/null
    has_not $data
    has_not /etc/log-capturer
    has_not /etc/default/log-capturer
    same '' "$(in_root find / -xdev -name '*log-capturer*' -not -path '/var/cache/*' -not -path '/log-capturer.deb' -not -path '/proc/*' -not -path '/sys/*')" 'what a purge leaves'
    in_root id log-capturer >/dev/null || fail 'the user is gone: its number would go to another'
}

deb=$(echo target/debian/log-capturer_*.deb)
trap cleanup EXIT
if [ "$stage" = prepare ]; then
    rm -rf "$root"
    step make_root
    step build
    trap - EXIT
    # From here on without the host's network: its ports may be in use.
    exec unshare --net config/deploy/deb/test.sh test
fi
ip link set lo up
version=$(dpkg-deb -f "$deb" Version)
step installs
cp "$root/usr/bin/log-capturer" "$work/first"
step pages
step completes
step unit
# Words that no other log has a part of: pushes are compressed.
step runs qzxjv-wkyph-1
step boots qzxjv-wkyph-2
step build_next
step upgrades
step runs qzxjv-wkyph-3
step removes
echo "$(basename "$deb"): installed, run, upgraded, removed, purged"

#!/bin/bash
# Makes of this process' mounts and network a host that has nothing but log-capturer's package on it.
# Arguments: the program; this repository; a directory on a disk, for data_dir.
set -euo pipefail
program=$1 repository=$2 disk=$3
deploy=$repository/config/deploy

mount --make-rprivate /
ip link set lo up
# What is written here is gone with this process.
mount -t tmpfs tmpfs /mnt
for dir in etc usr root; do
    mkdir -p /mnt/$dir/{upper,work}
    mount -t overlay overlay -o "lowerdir=/$dir,upperdir=/mnt/$dir/upper,workdir=/mnt/$dir/work" /$dir
done
mount -t tmpfs tmpfs /var/log
mount -t tmpfs tmpfs /run

# As the package does it.
useradd --system --no-create-home --shell /usr/sbin/nologin log-capturer
mkdir /mnt/lib
mount --bind /mnt/lib /var/lib
install -d -m 0700 -o log-capturer -g log-capturer /var/lib/log-capturer "$disk"
mount --bind "$disk" /var/lib/log-capturer
install -D -m 0644 "$deploy/deb/config.yaml" /etc/log-capturer/config.yaml
install -D -m 0644 "$deploy/systemd/log-capturer.service" /usr/lib/systemd/system/log-capturer.service
install -D -m 0644 -t /usr/share/log-capturer/systemd "$deploy"/systemd/*.conf
install -D -m 0644 -t /usr/share/doc/log-capturer/examples "$repository"/config/examples/*.yaml
for place in /usr/bin /usr/lib/log-capturer/previous; do
    mkdir -p $place
    touch $place/log-capturer
    mount --bind "$program" $place/log-capturer
done
mkdir -p /etc/prometheus
cp -r "$repository"/config/prometheus/rules /etc/prometheus/
cp "$repository"/config/prometheus/scrape.yaml /etc/prometheus/prometheus.yml
install -m 0755 -t /usr/local/bin "$repository"/tests/playbook/{systemctl,systemd-run,journalctl}
# The configuration does not load without it.
echo 'LOKI_URL=http://127.0.0.1:3100' >/etc/default/log-capturer
sed -i 's|${LOKI_URL:-.*}|${LOKI_URL}|' /etc/log-capturer/config.yaml
chmod 0640 /etc/default/log-capturer

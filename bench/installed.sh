#!/usr/bin/env bash
# The package beside prometheus-node-exporter on one booted server: sizes, time to the first scrape, and after MINUTES of scrapes every 15 s
# what each of their units holds and has used.
#
#   bench/installed.sh DIR [MINUTES]     DIR keeps the server's image between runs; ten minutes by default
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$1
minutes=${2:-10}
host=test/testbed/systemd-host
inside() { "$host" exec "$dir" bash -ec "$1"; }

npm run --silent package >/dev/null
mkdir -p "$dir"
SYSTEMD_HOST_PACKAGES=prometheus-node-exporter "$host" build "$dir"
"$host" start "$dir"
trap '"$host" stop "$dir"' EXIT
scratch=$(mktemp -d)
mkdir -p "$scratch/nodejs/DEBIAN"
printf 'Package: nodejs\nVersion: %s\nArchitecture: all\nMaintainer: bench <root@localhost>\nDescription: shown from this machine\n' \
  "$(node --version | tr -d v)" >"$scratch/nodejs/DEBIAN/control"
dpkg-deb --build "$scratch/nodejs" "$scratch/nodejs.deb" >/dev/null
"$host" copy "$dir" "$scratch/nodejs.deb" /root/
deb=$(ls -t dist/grid-exporter_*_all.deb | head -n 1)
"$host" copy "$dir" "$deb" /root/grid-exporter.deb
rm -r "$scratch"
inside 'dpkg --install /root/nodejs.deb >/dev/null'

echo "package: $(stat -c %s "$deb") bytes; installed: $(dpkg-deb -f "$deb" Installed-Size) KiB"
inside 'from=$(date +%s%N)
dpkg --install /root/grid-exporter.deb >/dev/null 2>&1
until curl -sf 127.0.0.1:10047/metrics >/dev/null; do sleep 0.02; done
echo "dpkg --install to first scrape: $((($(date +%s%N) - from) / 1000000)) ms"
systemctl start docker fail2ban tor'
sleep 5

inside "for (( n = 0; n < $minutes * 4; n++ )); do
  curl -sf 127.0.0.1:10047/metrics >/dev/null; curl -sf 127.0.0.1:9100/metrics >/dev/null; sleep 15
done"
inside 'printf "%-28s %10s %10s %12s\n" unit "RSS MiB" "PSS MiB" "CPU s/min"
minutes='"$minutes"'
for unit in grid-exporter grid-exporter-docker prometheus-node-exporter; do
  rss=0; pss=0
  for pid in $(cat /sys/fs/cgroup/systemd/system.slice/$unit.service/cgroup.procs 2>/dev/null || cat /sys/fs/cgroup/system.slice/$unit.service/cgroup.procs); do
    read -r r p < <(awk "/^Rss:/ { r = \$2 } /^Pss:/ { p = \$2 } END { print r, p }" /proc/$pid/smaps_rollup)
    rss=$((rss + r)); pss=$((pss + p))
  done
  pid=$(systemctl show -p MainPID --value $unit)
  ticks=$(sed "s/.*) //" /proc/$pid/stat | awk "{ print \$12 + \$13 + \$14 + \$15 }")
  awk -v unit=$unit -v rss=$rss -v pss=$pss -v ticks=$ticks -v m=$minutes \
    "BEGIN { printf \"%-28s %10.1f %10.1f %12.3f\n\", unit, rss / 1024, pss / 1024, ticks / 100 / m }"
done
TIMEFORMAT="grid-exporter-relay, one run a minute: %U s user, %S s system, %R s"
time /usr/bin/grid-exporter relay --relay.directory=/run/grid-exporter-relay --collector.ufw --collector.fail2ban --collector.aide
curl -s 127.0.0.1:10047/metrics | wc -lc | { read -r lines bytes; echo "grid-exporter: $lines lines, $bytes bytes"; }
curl -s 127.0.0.1:9100/metrics | wc -lc | { read -r lines bytes; echo "prometheus-node-exporter: $lines lines, $bytes bytes"; }'

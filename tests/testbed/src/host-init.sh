#!/bin/sh
# Process 1 of the emulated machine: mounts what a host has, loads KVM, and
# then serves commands that come over a virtio-serial port.
export PATH=/usr/bin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
ip link set lo up
hostname testbed
while read -r module; do
    insmod "$module"
done </etc/modules
chown root:kvm /dev/kvm && chmod 660 /dev/kvm

# The agent. A request is a line `ID SECONDS COMMAND`, its answer a line
# `answer ID STATUS STDOUT STDERR`; command and outputs in base64, `-` for an
# empty output. Outputs are cut at LIMIT bytes, and what a command writes past
# the size of this file system is lost to it.
LIMIT=1048576
mkdir -p /run/agent
mount -t tmpfs -o mode=700,size=32m tmpfs /run/agent
port=
until [ -e "$port" ]; do
    port=$(echo /dev/vport*p1)
done
exec 3<>"$port"
# The host side knows from this that nothing it sent before was lost.
echo "ready" >&3
encoded() {
    if [ -s "$1" ]; then head -c "$LIMIT" "$1" | base64 -w 0; else printf -; fi
}
while :; do
    if ! read -r id seconds command <&3; then
        usleep 20000
        continue
    fi
    printf %s "$command" | base64 -d >/run/agent/command
    # A session of its own, so that all of it can be ended.
    setsid sh /run/agent/command </dev/null >/run/agent/stdout 2>/run/agent/stderr 3>&- &
    running=$!
    (exec 3>&-; sleep "$seconds"; kill -KILL -"$running") 2>/dev/null &
    limiter=$!
    wait "$running"
    status=$?
    kill "$limiter" 2>/dev/null
    {
        printf 'answer %s %s ' "$id" "$status"
        encoded /run/agent/stdout
        printf ' '
        encoded /run/agent/stderr
        echo
    } >&3
done

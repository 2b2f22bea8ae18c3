#!/bin/sh
# Process 1 of a guest whose disk and adapter are measured. Words on the kernel command line: name=NAME,
# address=ADDRESS (its own), driver=ADDRESS (who asks for loads).
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in virtio_mmio virtio_pci virtio_blk virtio_net; do
    modprobe "$module"
done
for word in $(cat /proc/cmdline); do
    case "$word" in
    name=*) name=${word#name=} ;;
    address=*) address=${word#address=} ;;
    driver=*) driver=${word#driver=} ;;
    esac
done
adapter=$(basename /sys/class/net/e*)
echo 0 >/proc/sys/net/ipv4/tcp_slow_start_after_idle
echo 0 >/sys/module/tcp_cubic/parameters/hystart
ip link set "$adapter" up
ip addr add "$address/24" dev "$adapter"
echo "$name: $(cat /sys/block/vda/size) sectors, adapter $adapter, clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
load agent "$name" "$driver:7000" /dev/vda
echo "$name: the agent ended with $?"
sleep 5
poweroff -f

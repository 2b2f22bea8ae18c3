#!/bin/sh
# Process 1 of a Linux partition. Words on the kernel command line:
#   name=NAME               what this partition calls itself
#   action=idle             print a beat each second, with a shell on the console (default)
#   action=shell            no beats: the console has what its shell is asked for
#   action=poweroff|reboot  do so by itself
#   action=disk             copy the first disk to the second, say their digests and interrupts, move one to
#                           processor 1
#   after=SECONDS           this long after user space is reached (default 0)
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

name=unnamed action=idle after=0
for word in $(cat /proc/cmdline); do
    case "$word" in
    name=*) name=${word#name=} ;;
    action=*) action=${word#action=} ;;
    after=*) after=${word#after=} ;;
    esac
done

say() { echo "BULKHEAD-GUEST name=$name $*"; }

# Says why, waits until the console has sent it, and ends.
leave() {
    say "$2"
    stty cread </dev/console 2>/dev/null
    "$1" -f
}

say "cpus=$(nproc) reached user space"

# The power button: an input device whose events are 24 bytes each.
modprobe button
modprobe evdev
buttons=0
for input in /sys/class/input/event*; do
    [ "$(cat "$input/device/name" 2>/dev/null)" = "Power Button" ] || continue
    buttons=$((buttons + 1))
    (dd if="/dev/input/${input##*/}" of=/dev/null bs=24 count=1 2>/dev/null && leave poweroff "power button pressed: powering off") &
done
say "power buttons=$buttons"

case "$action" in
poweroff)
    sleep "$after"
    leave poweroff "powering off"
    ;;
reboot)
    sleep "$after"
    leave reboot "rebooting"
    ;;
disk)
    modprobe virtio_pci
    modprobe virtio_blk
    modprobe virtio-rng
    say "disk first=$(md5sum </dev/vda | cut -d' ' -f1) serial=$(cat /sys/block/vda/serial)"
    dd if=/dev/vda of=/dev/vdb bs=1M conv=fsync 2>/dev/null || say "disk cannot be copied"
    echo 3 >/proc/sys/vm/drop_caches
    say "disk second=$(dd if=/dev/vdb bs=1M count=$(($(cat /sys/block/vda/size) / 2048)) 2>/dev/null | md5sum | cut -d' ' -f1)"
    dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync 2>/dev/null && say "disk first was written"
    say "disk random=$(cat /sys/class/misc/hw_random/rng_available)"
    irq=$(grep virtio0-input /proc/interrupts | cut -d: -f1 | tr -d ' ')
    for mask in 1 2; do
        echo "$mask" >"/proc/irq/$irq/smp_affinity"
        head -c 64 /dev/hwrng >/dev/null
    done
    sync
    grep virtio /proc/interrupts | while read -r line; do say "interrupt $line"; done
    say "disk done"
    ;;
idle)
    (
        beat=0
        while sleep 1; do
            beat=$((beat + 1))
            say "beat=$beat"
        done
    ) &
    ;;
shell) ;;
*) say "unknown action=$action: idle without beats" ;;
esac

# A shell on the console, for as long as the partition runs.
export PS1="$name# "
while :; do
    setsid cttyhack sh
done

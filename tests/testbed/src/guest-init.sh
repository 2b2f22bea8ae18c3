#!/bin/sh
# Process 1 of a Linux partition. Words on the kernel command line:
#   name=NAME               what this partition calls itself
#   action=idle             print a beat each second, with a shell on the console (default)
#   action=shell            no beats: the console has what its shell is asked for
#   action=poweroff|reboot  do so by itself
#   action=disk             copy the first disk to the second, say their digests and interrupts, move one to
#                           processor 1
#   action=net              set the first adapter up as 10.0.0.HOST, and as 10.0.30.HOST on the tagged VLAN 30;
#                           host 1 reaches for 2 and 3 in every way, the others answer
#   action=panic            crash the kernel
#   action=ports            say the names of the console device's ports, write to its terminal, and answer
#                           each line that comes to one of its other ports there
#   action=watchdog         arm the watchdog for 10 seconds, reload it for longer than that, then no more
#   action=root             have the first disk, ext4, as root file system, run this script there, and write 100 MB
#   host=HOST               1, 2 or 3
#   after=SECONDS           this long after user space is reached (default 0)
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

name=unnamed action=idle after=0 host=1
for word in $(cat /proc/cmdline); do
    case "$word" in
    name=*) name=${word#name=} ;;
    action=*) action=${word#action=} ;;
    after=*) after=${word#after=} ;;
    host=*) host=${word#host=} ;;
    esac
done

say() { echo "BULKHEAD-GUEST name=$name $*"; }

# Says why, waits until the console has sent it, and ends.
leave() {
    say "$2"
    stty cread </dev/console 2>/dev/null
    grep -q ' / ext4 ' /proc/mounts && mount -o remount,ro /
    "$1" -f
}

if [ "$action" = root ] && ! grep -q ' / ext4 ' /proc/mounts; then
    modprobe virtio_pci
    modprobe virtio_blk
    mkdir /disk
    mount -t ext4 /dev/vda /disk || say "root cannot be mounted"
    umount /proc /sys /dev
    exec switch_root /disk /init
fi

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
    grep -E 'virtio|ttyS0|acpi' /proc/interrupts | while read -r line; do say "interrupt $line"; done
    say "disk done"
    ;;
watchdog)
    modprobe i6300esb heartbeat=10
    for function in /sys/bus/pci/drivers/i6300*/0000:*; do say "watchdog function=${function##*/}"; done
    exec 3>/dev/watchdog
    for second in $(seq 20); do
        echo >&3
        sleep 1
    done
    say "watchdog reloaded for $second seconds"
    # Open still, and left alone.
    sleep 3600
    ;;
ports)
    modprobe virtio_pci
    modprobe virtio_console
    # The driver hears of each by itself.
    for try in $(seq 60); do
        [ "$(cat /sys/class/virtio-ports/vport*/name | wc -w)" = 3 ] && break
        sleep 1
    done
    for port in /sys/class/virtio-ports/vport*; do
        name_of_port=$(cat "$port/name")
        say "port $name_of_port device=${port##*/}"
        [ "$name_of_port" = hvc0 ] && continue
        # While no program of the host is there, a port reads as ended.
        (
            exec 3<>"/dev/${port##*/}"
            while :; do
                if read -r line <&3; then echo "the guest heard $line" >&3; else usleep 200000; fi
            done
        ) &
    done
    echo "the second terminal of $name" >/dev/hvc0
    read -r line </dev/hvc0
    say "terminal heard=$line"
    ;;
panic)
    modprobe pvpanic-mmio
    say "panicking"
    stty cread </dev/console 2>/dev/null
    echo c >/proc/sysrq-trigger
    ;;
root)
    dd if=/dev/urandom of=/written bs=1M count=100 conv=fsync 2>/dev/null
    digest=$(md5sum </written | cut -d' ' -f1)
    echo 3 >/proc/sys/vm/drop_caches
    say "root on=$(grep -o '/dev/vda / ext4' /proc/mounts | tr ' ' ,) written=$digest read=$(md5sum </written | cut -d' ' -f1)"
    ;;
net)
    modprobe virtio_pci
    modprobe virtio_net
    modprobe 8021q
    adapter=$(basename /sys/class/net/e*)
    # A tag of one's own making, with an address of one's own on it.
    tagged() {
        ip link add link "$adapter" name "tag$1" type vlan id "$1"
        ip link set "tag$1" up
        ip addr add "10.0.$1.$host/24" dev "tag$1"
    }
    # One answer within so many tries.
    answers() { for try in $(seq "$2"); do ping -c 1 -W 2 "$1" >/dev/null 2>&1 && return 0; done; return 1; }
    reaches() { if answers "$2" "$3"; then say "net $1=yes"; else say "net $1=no"; fi; }
    ip link set "$adapter" up
    ip addr add "10.0.0.$host/24" dev "$adapter"
    # What is not tagged is on VLAN 20 for host 3: these are the addresses by which it could be reached there.
    ip addr add "10.0.20.$host/24" dev "$adapter"
    tagged 30
    say "net adapter=$adapter mac=$(cat "/sys/class/net/$adapter/address") driver=$(basename "$(readlink "/sys/class/net/$adapter/device/driver")")"
    if [ "$host" != 1 ]; then
        say "net up"
        nc -l -p 5000 | md5sum | while read -r digest _; do say "net received=$digest"; done
    else
        reaches ping 10.0.0.2 60
        reaches tagged 10.0.30.2 20
        dd if=/dev/urandom of=/tmp/sent bs=64k count=64 2>/dev/null
        say "net sent=$(md5sum </tmp/sent | cut -d' ' -f1)"
        nc -w 60 10.0.0.2 5000 </tmp/sent
        reaches other-vlan 10.0.0.3 2
        ip addr del "10.0.20.$host/24" dev "$adapter"
        tagged 20
        reaches forged-tag 10.0.20.3 2
        mac=$(cat "/sys/class/net/$adapter/address")
        ip link set "$adapter" down
        ip link set "$adapter" address 02:00:00:00:00:99
        ip link set "$adapter" up
        reaches forged-mac 10.0.0.2 2
        ip link set "$adapter" down
        ip link set "$adapter" address "$mac"
        ip link set "$adapter" up
        reaches own-mac 10.0.0.2 20
        say "net done"
    fi
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

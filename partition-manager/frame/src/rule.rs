//! The rules that a frame file is checked by, as one table.
//!
//! A diagnostic is made from a rule, so nothing is reported that is not here. `lpar explain RULE` shows the
//! entry.

use crate::diagnostic::Severity;
use serde::Serialize;

/// One rule: what is said when it is broken, and what to do then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Short stable name, such as `unknown-key`.
    pub name: &'static str,
    /// Whether breaking it stops anything.
    pub severity: Severity,
    /// What is said; words in capitals stand for what the file has there.
    pub message: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// The rule of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Rule> {
    TABLE.iter().copied().find(|rule| rule.name == name)
}

macro_rules! rules {
    ($($severity:ident $constant:ident $name:literal: $message:literal => $remedy:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $message, ".")]
            pub const $constant: &Rule =
                &Rule { name: $name, severity: Severity::$severity, message: $message, remedy: $remedy };
        )*

        /// Every rule: those of the text, of one partition, of several, of patterns and includes, of the files
        /// that are named, and of the plan.
        pub const TABLE: &[&Rule] = &[$($constant),*];
    };
}

rules! {
    // The text.
    Error FILE_TOO_LARGE "file-too-large": "the file has BYTES bytes; a frame file has at most MOST"
        => "check that this is the file you mean; a large frame can be spread over included files";
    Error NOT_UTF8 "not-utf8": "the file is not UTF-8: a byte in line LINE begins no character"
        => "a frame file is TOML, which is UTF-8 text; save it as such";
    Error SYNTAX "syntax": "this is not TOML: REASON"
        => "write [header] or key = value on a line; a text value stands in quotes";
    Error DUPLICATE_KEY "duplicate-key": "this key is given twice"
        => "remove one of the two";
    Error TOO_MANY "too-many": "there are more than MOST mistakes; NUMBER or more are not shown"
        => "mend those above first";

    // Keys and their types.
    Error UNKNOWN_KEY "unknown-key": "TABLE has no key KEY"
        => "correct the spelling, or remove the key";
    Error MISSING_KEY "missing-key": "TABLE has no KEY"
        => "add the key";
    Error WRONG_TYPE "wrong-type": "KEY of TABLE is TYPE"
        => "write a value of that type";
    Error SINGLE_TABLE "single-table": "TABLE is declared as a single table"
        => "write the header in double brackets: [[partition]], [[pool]]";
    Error TOO_MANY_ITEMS "too-many-items": "there are NUMBER of TABLE, at most MOST are supported"
        => "declare fewer";
    Error NOT_IN_THIS_VERSION "not-in-this-version": "TABLE has no key KEY: this version has no such thing"
        => "remove the key, or use a version that has it";
    Error KEY_OF_OTHER_MODE "key-of-other-mode": "TABLE has no key KEY: it is for the other mode"
        => "remove the key, or change the mode";
    Error BAD_CHOICE "bad-choice": "KEY of TABLE cannot be WORD"
        => "choose one of the words that are listed";
    Error OUT_OF_RANGE "out-of-range": "KEY of TABLE is out of range"
        => "write a whole number within the range";

    // Values.
    Error BAD_NAME "bad-name": "a name has only a-z, 0-9 and '-' and begins with a letter or digit"
        => "the name becomes a file, a cgroup and a host name: use only what all of them can have";
    Error NAME_TOO_LONG "name-too-long": "a name has at most 63 characters, this one has NUMBER"
        => "choose a shorter name";
    Error BAD_SIZE "bad-size": "TEXT is not a size"
        => "write a whole number and a unit in quotes, such as \"512MiB\"";
    Error ZERO_SIZE "zero-size": "KEY of memory cannot be 0B"
        => "give it at least one memory block";
    Error SIZE_TOO_LARGE "size-too-large": "KEY of memory cannot be SIZE"
        => "a partition has at most 64TiB";
    Error NOT_A_MULTIPLE "not-a-multiple": "KEY of memory cannot be SIZE: not a multiple of GRANULE"
        => "sizes are multiples of frame.memory_block and of the page size";
    Error MEMORY_BLOCK "memory-block": "memory_block cannot be SIZE"
        => "write a power of two from 4KiB to 1GiB; 2MiB suits most hosts";
    Error BAD_DURATION "bad-duration": "TEXT is not a duration"
        => "write a whole number and one of ms, s, min, h in quotes, such as \"30s\"; 24h at most";
    Error BAD_CPUS "bad-cpus": "TEXT does not name CPUs"
        => "write CPUs in quotes, such as \"0-15\" or \"0,2,4-7\"";
    Error NO_CPUS "no-cpus": "the frame has no CPU"
        => "name CPUs such as \"0-15\", or leave cpus out to take the whole host";
    Error UNITS_STEP "units-step": "KEY of TABLE is finer than processing units are"
        => "units come in steps of 0.001";
    Error UNITS_RANGE "units-range": "KEY of TABLE is out of range"
        => "0.001 is the least";
    Error BAD_PATH "bad-path": "KEY is no path"
        => "write a path of 1 to 4095 bytes without a zero byte";
    Error BAD_CMDLINE "bad-cmdline": "this cannot be a command line: a control character is in it"
        => "a command line is one line of plain text";
    Error CMDLINE_TOO_LONG "cmdline-too-long": "this command line has BYTES bytes; a kernel takes at most 2047"
        => "shorten it, or move settings into the initrd";
    Error BAD_IO "bad-io": "io cannot be TEXT"
        => "write \"own\", or \"pool:\" and the name of a pool";

    // What must suit within one partition.
    Error RANGE_ORDER "range-order": "RESOURCE: the lower bound is more than the upper one"
        => "minimum <= desired <= maximum";
    Error BASE_ABOVE_DESIRED "base-above-desired": "base memory of SIZE is more than the desired SIZE"
        => "lower memory.base, or raise memory.desired";
    Error UNITS_TOO_FEW "units-too-few": "KEY units UNITS are too few for COUNT virtual processors"
        => "each virtual processor needs frame.minimum_units: raise the units, or lower the count";
    Error UNITS_TOO_MANY "units-too-many": "KEY units UNITS are more than COUNT virtual processors can use"
        => "a virtual processor uses at most 1 unit: raise the count, or lower the units";
    Error WEIGHT_WITH_CAPPED "weight-with-capped": "a capped partition has no weight"
        => "remove the weight, or make sharing \"uncapped\"";
    Warning WEIGHT_ZERO "weight-zero": "an uncapped partition of weight 0 gets nothing above its entitlement"
        => "write sharing = \"capped\", or give it a weight from 1 to 255";
    Error BOOT_FORM "boot-form": "boot has both a kernel and a payload, or neither"
        => "boot = \"diagnostics\", or boot = { kernel = \"vmlinuz\", initrd = \"initrd.img\", cmdline = \"console=ttyS0\" }";
    Error PAYLOAD_WITH_INITRD "payload-with-initrd": "the built-in payload takes no initrd"
        => "remove the initrd, or name a kernel";
    Error PAYLOAD_WITH_MODULES "payload-with-modules": "the built-in payload takes no modules"
        => "remove the modules, or name a multiboot kernel";
    Error INITRD_IS_KERNEL "initrd-is-kernel": "PATH is both the kernel and the initrd"
        => "name the initial RAM disk as initrd, or leave it out";
    Warning NMI_IGNORED "nmi-ignored": "the shutdown gives an NMI its time, but the payload is told to ignore it"
        => "leave shutdown.nmi out or make it \"0s\", or remove ignore-nmi from the command line";
    Error PIT_WITHOUT_8259 "pit-without-8259": "an 8254 interrupts by an 8259, which is there only with interrupts = \"kernel\""
        => "leave out pit, or interrupts";
    Warning BUTTON_IGNORED "button-ignored": "the shutdown gives the power button its time, but the payload is told to ignore it"
        => "leave shutdown.button out or make it \"0s\", or remove ignore-button from the command line";
    Warning LADDER_EMPTY "ladder-empty": "every rung of the shutdown has no time: the partition is ended without being asked"
        => "give ask, button or nmi some time";

    // Devices.
    Error DUPLICATE_DEVICE "duplicate-device": "the device name NAME is declared twice in one partition"
        => "rename one of the two";
    Error DUPLICATE_SLOT "duplicate-slot": "slot SLOT is declared twice in one partition"
        => "leave slot out of one of the two: it is given a free one";
    Error BAD_SERIAL "bad-serial": "a disk cannot have the serial number TEXT"
        => "write at most 20 characters of ASCII, without spaces";
    Error ZERO_LIMIT "zero-limit": "bandwidth of limit cannot be 0B"
        => "leave the limit out, or let something through";

    Error BAD_MAC "bad-mac": "TEXT is not the address of an adapter: REASON"
        => "write six bytes such as \"02:00:00:00:00:01\", or leave mac out to be given one";
    Error DUPLICATE_VLAN "duplicate-vlan": "VLAN NUMBER is declared twice for one adapter"
        => "name it once: as vlan, whose frames have no tag, or among tagged";
    Error TOO_MANY_TAPS "too-many-taps": "COUNT queue pairs over COUNT VLANs are too many"
        => "lower queues, or declare fewer VLANs: their product is at most 64";
    Error SWITCH_NAME "switch-name": "a switch's name has at most 10 characters, this one has NUMBER"
        => "choose a shorter name: it is that of a network interface of the host, with the VLAN behind it";
    Error BAD_UPLINK "bad-uplink": "TEXT cannot be a network interface of the host"
        => "write the name of one that `ip link` shows, such as \"eth1\"";

    // What must suit among several.
    Error DUPLICATE_NAME "duplicate-name": "the partition name NAME is declared twice"
        => "rename one of the two";
    Error DUPLICATE_ID "duplicate-id": "the partition id ID is declared twice"
        => "renumber one of the two, or leave an id out to be given a free one";
    Error DUPLICATE_POOL "duplicate-pool": "the pool name NAME is declared twice"
        => "rename one of the two, or add its cpus to the other";
    Error DUPLICATE_SWITCH "duplicate-switch": "the switch name NAME is declared twice"
        => "rename one of the two, or remove it";
    Error DUPLICATE_UPLINK "duplicate-uplink": "the uplink NAME is declared twice"
        => "an interface of the host joins one switch: leave the uplink out of the other";
    Error SWITCH_MISSING "switch-missing": "adapter NAME of partition NAME is on switch SWITCH, which is not declared"
        => "declare the switch with [[switch]], or name another";
    Error DUPLICATE_MAC "duplicate-mac": "two adapters on switch SWITCH have the address MAC"
        => "change one of the two, or leave mac out to be given one";
    Error DUPLICATE_CID "duplicate-cid": "partitions NAME and NAME have one context identifier"
        => "change vsock.cid of one of the two, or leave both out to be given one each";
    Error DUPLICATE_PORT "duplicate-port": "the port name NAME is declared twice in one partition"
        => "rename one of the two; the terminal of every console device is named hvc0";
    Error TOO_MANY_PORTS "too-many-ports": "a console device has more than 7 ports besides its terminal"
        => "declare fewer ports, or use the socket device: vsock = {}";
    Error POOL_MISSING "pool-missing": "partition NAME uses pool POOL, which is not declared"
        => "declare the pool with [[pool]], or name another";
    Error UNITS_EXCEEDED "units-exceeded": "pool POOL has HAS processing units, but the minimums of its partitions need SUM"
        => "lower a minimum of units, give the pool more cpus, or use another pool";
    Error CPUS_EXCEEDED "cpus-exceeded": "there are HAS CPUs, but SUM are claimed"
        => "lower a minimum or a pool's cpus, reserve less, or give the frame more CPUs";

    // Defaults and patterns.
    Error DEFAULTS_KEY "defaults-key": "[defaults] has no key KEY: each partition has its own"
        => "write the key under its [[partition]]";
    Error COUNT_WITHOUT_PATTERN "count-without-pattern": "count makes several partitions, but the name NAME is one for all"
        => "put {n} into the name, such as name = \"web-{n}\" or name = \"web-{n:03}\"";
    Error PATTERN_WITHOUT_COUNT "pattern-without-count": "{n} stands for a number, but the partition has no count"
        => "add count = 2, or write the number itself";
    Error PLACEHOLDER_UNKNOWN "placeholder-unknown": "PLACEHOLDER stands for nothing"
        => "write {n}, or {n:03} for a number of three digits";
    Error ID_WITH_COUNT "id-with-count": "several partitions cannot have one id"
        => "leave id out: each is given a free one";
    Error TEXT_TOO_LARGE "text-too-large": "the paths and command lines of all partitions together have more than MOST bytes"
        => "lower a count, or shorten the command line that is repeated";

    // Included files.
    Error INCLUDE_POSITION "include-position": "TABLE has no key include"
        => "write include = [\"...\"] above the first [header] of the file";
    Error INCLUDE_FRAME "include-frame": "an included file has a [frame]"
        => "a frame has one head: keep [frame] in the file that includes, and remove it here";
    Error INCLUDE_MISSING "include-missing": "the included file PATH is not there"
        => "correct the path; a relative path begins at the directory of the file that includes";
    Error INCLUDE_UNREADABLE "include-unreadable": "the included file PATH cannot be read: REASON"
        => "let the user who runs the frame read it";
    Error INCLUDE_KIND "include-kind": "the included file PATH is KIND, not a file"
        => "name a regular file";
    Error INCLUDE_NOT_UTF8 "include-not-utf8": "the included file PATH is not UTF-8: a byte in line LINE begins no character"
        => "a frame file is TOML, which is UTF-8 text; save it as such";
    Error INCLUDE_TOO_LARGE "include-too-large": "the included file PATH has more than MOST bytes"
        => "spread it over several files";
    Error INCLUDE_SUM "include-sum": "with PATH, the frame's files together have more than MOST bytes"
        => "use [defaults] and count instead of repeating partitions";
    Error INCLUDE_CIRCLE "include-circle": "PATH includes itself, directly or through others"
        => "remove this, or the include that leads here";
    Error INCLUDE_TWICE "include-twice": "PATH is included twice"
        => "remove one of the two";
    Error INCLUDE_DEPTH "include-depth": "PATH is included too deep: includes nest at most MOST deep"
        => "include it from a file further up";
    Error INCLUDE_TOO_MANY "include-too-many": "more than MOST files are included"
        => "put several of them into one";

    // Files and places of the host.
    Error FILE_MISSING "file-missing": "the KIND of partition NAME, PATH, is not there"
        => "correct the path; a relative path begins at the directory of the file that names it";
    Error FILE_UNREADABLE "file-unreadable": "the KIND of partition NAME, PATH, cannot be read: REASON"
        => "let the user who runs the frame read it";
    Error FILE_KIND "file-kind": "the KIND of partition NAME, PATH, is no file"
        => "name the file itself";
    Error BAD_IMAGE "bad-image": "the kernel of partition NAME, PATH, cannot be started: REASON"
        => "name a Linux bzImage, an ELF with a 64-bit or PVH entry, or a multiboot image";
    Error IMAGE_TOO_LARGE "image-too-large": "the KIND of partition NAME, PATH, does not fit into its minimum memory"
        => "raise memory.minimum, or use a smaller file";
    Error DISK_UNWRITABLE "disk-unwritable": "the disk of partition NAME, PATH, cannot be written: REASON"
        => "let the user who runs the frame write it, or say read_only = true";
    Error DISK_TOO_SHORT "disk-too-short": "the disk of partition NAME, PATH, has BYTES bytes"
        => "a disk has at least one sector of 512 bytes: `truncate -s 1G PATH` makes an image";
    Error DISK_FORMAT "disk-format": "the disk of partition NAME, PATH, is a FORMAT image"
        => "only raw images are taken: `qemu-img convert -O raw PATH disk.img`";
    Error DISK_SHARED "disk-shared": "partitions NAME and NAME use one image, and not both only read it"
        => "give each an image of its own, or say read_only = true in both";
    Error DEDICATED_FILE "dedicated-file": "the dedicated disk of partition NAME, PATH, has no PCI function of its own"
        => "name a block device of a PCI function, such as /dev/nvme0n1, or leave dedicated out";
    Error DEDICATED_SHARED "dedicated-shared": "partitions NAME and NAME use one PCI function, FUNCTION, which is dedicated to one"
        => "give each a disk of another PCI function, or leave dedicated out in all";
    Error SOCKET_PATH "socket-path": "the socket of NAME would have a path of BYTES bytes: a Unix socket takes at most 107"
        => "choose a shorter name, or a shorter --root";
    Warning NO_INVENTORY "no-inventory": "whether the frame fits this host was not checked"
        => "see `lpar doctor`";

    // The plan: the frame against a host.
    Error PLAN "plan": "the plan says REASON"
        => "see what it says; the plan is of another version than this command";
    Error INVENTORY "inventory": "the inventory contradicts itself"
        => "write a new one with `lpar doctor --inventory`";
    Error DUPLICATE "duplicate": "NAME or ID is declared twice"
        => "rename or renumber one of the two";
    Error AMOUNT "amount": "an amount of partition NAME is no range"
        => "minimum <= desired <= maximum, within what the frame allows";
    Error POOL_EMPTY "pool-empty": "pool POOL has no CPU"
        => "give the pool at least 1 CPU";
    Error CPUS_MISSING "cpus-missing": "frame.cpus names CPUs that the host does not have online"
        => "name CPUs that the host has; `lpar doctor` shows them";
    Error MEMORY_EXCEEDED "memory-exceeded": "the minimums of all partitions need more memory than there is"
        => "lower a memory.minimum, or reserve less";
    Error PAGES_MISSING "pages-missing": "the host has too few free pages of the size that partitions require"
        => "reserve huge pages on the host, or let memory.pages be \"any\"";
    Error RESERVE_EXCEEDED "reserve-exceeded": "more is reserved for the host than it has"
        => "reserve less";
    Error UNPLACEABLE "unplaceable": "no place is left for a partition's minimum"
        => "lower its minimum, or free what others hold";
    Error HELD "held": "what the partition needs is held by others"
        => "shut one of them down, or lower what it holds";
    Error PENDING "pending": "a change of the partition waits for its next activation"
        => "shut it down and activate it again";
    Error UNDECLARED "undeclared": "something runs that the frame does not declare"
        => "declare it, or bring it down";
    Warning AFFINITY "affinity": "a partition's processors and memory are on different nodes"
        => "see the score in `lpar plan`; a smaller partition fits into one node";
    Warning GUARDED "guarded": "something runs on CPUs that guard records take out"
        => "shut it down and activate it again: it gets others";
    Warning HOST_SHARES "host-shares": "the host has no CPU of its own and shares a pool"
        => "reserve at least 1 CPU when latency matters";
    Warning IDLE_SIBLING "idle-sibling": "a dedicated set is whole cores: a sibling stays idle"
        => "ask for a multiple of the threads of a core";
    Warning OVERHEAD "overhead": "what partitions need beside their own memory is not covered by the reserve"
        => "raise frame.reserved.memory";
    Warning POOL_SHORT "pool-short": "a pool gets fewer CPUs than are declared for it"
        => "free what others hold, or repair what is guarded";
    Warning RESERVE_SHORT "reserve-short": "the host gets less than is reserved for it"
        => "lower what partitions take, or reserve less";
    Warning SHORTFALL "shortfall": "a partition gets less than it desires"
        => "lower what others desire, or raise its availability_priority";
    Warning SPLIT_CORE "split-core": "frame.cpus names only a part of a core"
        => "let frame.cpus name whole cores";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn rules_have_names_of_their_own_and_all_words() {
        let names: BTreeSet<&str> = TABLE.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), TABLE.len(), "two rules have one name");
        for rule in TABLE {
            let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(rule.name.chars().all(word), "{}", rule.name);
            assert!(!rule.message.is_empty() && !rule.remedy.is_empty(), "{}", rule.name);
            assert!(!rule.remedy.ends_with('.') && !rule.message.ends_with('.'), "{}", rule.name);
        }
        assert_eq!(find("unknown-key"), Some(UNKNOWN_KEY));
        assert_eq!(find("no such rule"), None);
    }

    #[test]
    fn every_rule_of_the_plan_is_in_the_table() {
        for name in crate::plan::RULES {
            assert!(find(name).is_some(), "{name} of plan::RULES is not in rule::TABLE");
        }
    }
}

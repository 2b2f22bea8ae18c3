//! The PCI functions behind block devices, and their interrupts (Linux, Documentation/ABI/testing/sysfs-bus-pci and
//! sysfs-dev).

use std::path::Path;

/// The address of the PCI function that a block device hangs on, such as `0000:00:05.0`, by the device's number
/// (`st_rdev`). None when there is none: loop devices, device mapper, devices of other buses.
#[must_use]
pub fn behind(device: u64) -> Option<String> {
    behind_in(Path::new("/sys"), device)
}

fn behind_in(sysfs: &Path, device: u64) -> Option<String> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let real = sysfs.join(format!("dev/block/{major}:{minor}")).canonicalize().ok()?;
    // The last one is the device's own; those before are bridges.
    let mut parts = real.iter().filter_map(|part| part.to_str()).filter(|part| is_function(part));
    parts.next_back().map(ToOwned::to_owned)
}

/// Whether a name is that of a PCI function: domain, bus, slot and function in hexadecimal digits.
fn is_function(name: &str) -> bool {
    let pieces: Vec<&str> = name.split([':', '.']).collect();
    let hex = |piece: &&str, length: usize| piece.len() >= length && piece.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(pieces.as_slice(), [domain, bus, slot, function] if hex(domain, 4) && hex(bus, 2) && hex(slot, 2) && hex(function, 1))
        && name.bytes().filter(|byte| *byte == b':').count() == 2
}

/// The numbers of a function's interrupts: its messages, or its line where it has none.
#[must_use]
pub fn interrupts(function: &str) -> Vec<u32> {
    interrupts_in(Path::new("/sys"), function)
}

fn interrupts_in(sysfs: &Path, function: &str) -> Vec<u32> {
    if !is_function(function) {
        return vec![];
    }
    let directory = sysfs.join("bus/pci/devices").join(function);
    let entries = std::fs::read_dir(directory.join("msi_irqs")).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    if numbers.is_empty() {
        let line = std::fs::read_to_string(directory.join("irq")).ok().and_then(|text| text.trim().parse().ok());
        numbers.extend(line.filter(|line: &u32| *line != 0));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_disk_leads_to_its_function_and_its_interrupts() {
        let sysfs = tempfile::tempdir().unwrap();
        let at = |path: &str| sysfs.path().join(path);
        let disk = "devices/pci0000:00/0000:00:1c.0/0000:02:00.1/nvme/nvme0/nvme0n1/nvme0n1p2";
        std::fs::create_dir_all(at(disk)).unwrap();
        std::fs::create_dir_all(at("devices/virtual/block/loop0")).unwrap();
        std::fs::create_dir_all(at("dev/block")).unwrap();
        symlink(format!("../../{disk}"), at("dev/block/259:2")).unwrap();
        symlink("../../devices/virtual/block/loop0", at("dev/block/7:0")).unwrap();
        let found = |major, minor| behind_in(sysfs.path(), rustix::fs::makedev(major, minor));
        assert_eq!(found(259, 2).as_deref(), Some("0000:02:00.1"));
        assert_eq!((found(7, 0), found(8, 0)), (None, None));

        let function = at("bus/pci/devices/0000:02:00.1");
        std::fs::create_dir_all(&function).unwrap();
        std::fs::write(function.join("irq"), "17\n").unwrap();
        assert_eq!(interrupts_in(sysfs.path(), "0000:02:00.1"), [17]);
        std::fs::create_dir_all(function.join("msi_irqs")).unwrap();
        ["31", "30"]
            .iter()
            .for_each(|number| std::fs::write(function.join("msi_irqs").join(number), "msix\n").unwrap());
        assert_eq!(interrupts_in(sysfs.path(), "0000:02:00.1"), [30, 31]);
        assert_eq!(interrupts_in(sysfs.path(), "../0000:02:00.1"), [0u32; 0]);
    }

    #[test]
    fn names_of_functions_are_told_from_others() {
        assert!(is_function("0000:00:05.0") && is_function("10000:e1:00.0"));
        for other in ["pci0000:00", "0000:00", "virtio1", "0000:00:05", "0000.00.05.0", "000g:00:05.0", ""] {
            assert!(!is_function(other), "{other}");
        }
    }
}

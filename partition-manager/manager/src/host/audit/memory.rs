//! Where a guest's memory is (Linux, Documentation/filesystems/proc.rst, `numa_maps`).

use crate::memory::NAME;
use frame::audit::Resident;
use std::collections::BTreeMap;

/// The guest's memory that process `pid` has; none when it may not be looked at, or the kernel does not say.
pub fn resident(pid: u32) -> Option<Vec<Resident>> {
    // Without the right to look it can be opened and not read, or is empty.
    let text = std::fs::read_to_string(format!("/proc/{pid}/numa_maps")).ok().filter(|text| !text.is_empty())?;
    Some(parse(&text))
}

fn parse(text: &str) -> Vec<Resident> {
    let file = format!("file=/memfd:{NAME}");
    let mut found: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for line in text.lines().filter(|line| line.split(' ').any(|word| word.starts_with(&file))) {
        let page = line.split(' ').find_map(|word| word.strip_prefix("kernelpagesize_kB=")?.parse::<u64>().ok());
        let page = page.unwrap_or(4).saturating_mul(1024);
        for word in line.split(' ') {
            let Some((node, pages)) = word.strip_prefix('N').and_then(|rest| rest.split_once('=')) else { continue };
            if let (Ok(node), Ok(pages)) = (node.parse(), pages.parse::<u64>()) {
                *found.entry((node, page)).or_default() += pages.saturating_mul(page);
            }
        }
    }
    found.into_iter().map(|((node, page), bytes)| Resident { node, page, bytes }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_summed_by_node_and_size() {
        let text = "55d0 default file=/usr/bin/x mapped=3 N0=3 kernelpagesize_kB=4\n\
            7f00 default file=/memfd:bulkhead-memory\\040(deleted) dirty=7 active=0 N0=5 N1=2 kernelpagesize_kB=4\n\
            7f10 bind:1 file=/memfd:bulkhead-memory\\040(deleted) huge dirty=2 N1=2 kernelpagesize_kB=2048\n\
            7f20 default file=/memfd:bulkhead-memory\\040(deleted) dirty=1 N0=1 kernelpagesize_kB=4\n\
            7f30 default anon=9 N0=9 kernelpagesize_kB=4\n";
        let found: Vec<_> = parse(text).iter().map(|one| (one.node, one.page, one.bytes)).collect();
        assert_eq!(found, [(0, 4096, 6 * 4096), (1, 4096, 2 * 4096), (1, 2 << 20, 4 << 20)]);
        assert_eq!(parse("nonsense\nN0=x file=/memfd:bulkhead-memory\n"), []);
    }
}

//! Free CPUs by core and node, and how whole cores and loose CPUs are taken from them.
//!
//! [`Budget`] only counts and answers whether claims fit; [`Cores`] hands out real CPUs. Both follow one
//! order of taking, so that what was counted can be handed out.

use crate::cpuset::CpuSet;
use crate::inventory::Inventory;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where CPUs that need not be whole cores (those of pools and of the host) are taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preference {
    /// From whole cores, so that a pool shares no core with anybody.
    Whole,
    /// From cores that are broken already, so that whole cores are left for dedicated partitions.
    Loose,
}

/// Which width of core to take for `n` CPUs: the widest that is used up, else the narrowest.
fn pick(mut widths: impl DoubleEndedIterator<Item = usize> + Clone, n: usize) -> Option<usize> {
    widths.clone().rfind(|&width| width <= n).or_else(|| widths.next())
}

/// The widest core that `n` CPUs use up.
fn pick_full(mut widths: impl DoubleEndedIterator<Item = usize>, n: usize) -> Option<usize> {
    widths.rfind(|&width| width <= n && n > 0)
}

/// How many whole cores of which width, and how many loose CPUs, are free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Budget {
    widths: BTreeMap<usize, usize>,
    loose: usize,
}

impl Budget {
    fn remove(&mut self, width: usize) {
        if let Some(count) = self.widths.get_mut(&width) {
            *count -= 1;
            if *count == 0 {
                self.widths.remove(&width);
            }
        }
    }

    /// Takes whole cores for `n` CPUs; false, and half taken, when there are too few.
    pub(super) fn whole(&mut self, mut n: usize) -> bool {
        while n > 0 {
            let Some(width) = pick(self.widths.keys().copied(), n) else { return false };
            self.remove(width);
            n = n.saturating_sub(width);
        }
        true
    }

    /// Takes `n` CPUs that need not be whole cores; false, and half taken, when there are too few.
    pub(super) fn any(&mut self, mut n: usize, preference: Preference) -> bool {
        if preference == Preference::Loose {
            let loose = n.min(self.loose);
            self.loose -= loose;
            n -= loose;
        }
        while let Some(width) = pick_full(self.widths.keys().copied(), n) {
            self.remove(width);
            n -= width;
        }
        while n > 0 {
            if self.loose == 0 {
                let Some(width) = pick(self.widths.keys().copied(), n) else { return false };
                self.remove(width);
                self.loose += width;
            }
            let loose = n.min(self.loose);
            self.loose -= loose;
            n -= loose;
        }
        true
    }

    /// CPUs in whole cores.
    pub(super) fn whole_cpus(&self) -> usize {
        self.widths.iter().map(|(width, count)| width * count).sum()
    }

    /// Whole cores.
    pub(super) fn whole_cores(&self) -> usize {
        self.widths.values().sum()
    }

    /// All CPUs.
    pub(super) fn cpus(&self) -> usize {
        self.whole_cpus() + self.loose
    }
}

/// The free CPUs of one node.
#[derive(Clone, Debug, Default)]
struct NodeCores {
    /// Whole cores by their width, lowest CPU first.
    whole: BTreeMap<usize, VecDeque<Vec<u32>>>,
    /// CPUs of cores that are not wholly free.
    loose: BTreeSet<u32>,
    /// CPUs in `whole`.
    threads: usize,
}

impl NodeCores {
    fn remove(&mut self, width: usize) -> Option<Vec<u32>> {
        let cores = self.whole.get_mut(&width)?;
        let core = cores.pop_front();
        if cores.is_empty() {
            self.whole.remove(&width);
        }
        self.threads -= core.as_ref().map_or(0, Vec::len);
        core
    }

    /// Takes loose CPUs until `taken` has `n`.
    fn loose(&mut self, n: usize, taken: &mut Vec<u32>) {
        while taken.len() < n {
            let Some(cpu) = self.loose.pop_first() else { break };
            taken.push(cpu);
        }
    }

    /// Breaks one core when `taken` has less than `n`, and takes from it; false when nothing was broken.
    fn open(&mut self, n: usize, taken: &mut Vec<u32>) -> bool {
        let Some(width) = pick(self.whole.keys().copied(), n.saturating_sub(taken.len())) else { return false };
        if taken.len() >= n {
            return false;
        }
        let Some(core) = self.remove(width) else { return false };
        self.loose.extend(core);
        self.loose(n, taken);
        true
    }
}

/// The free CPUs of a frame.
#[derive(Clone, Debug)]
pub(super) struct Cores {
    nodes: Vec<NodeCores>,
}

impl Cores {
    /// The CPUs of `frame` that are not in `taken`. A core counts as whole when all its online siblings
    /// are free and in the frame.
    pub(super) fn new(inventory: &Inventory, frame: &CpuSet, taken: &CpuSet) -> Self {
        let mut cores: BTreeMap<(u32, u32), (u32, BTreeSet<u32>)> = BTreeMap::new();
        for cpu in &inventory.cpus {
            cores.entry((cpu.package, cpu.core)).or_insert((cpu.node, BTreeSet::new())).1.insert(cpu.id);
        }
        let positions: BTreeMap<u32, usize> = inventory.nodes.iter().enumerate().map(|(at, n)| (n.id, at)).collect();
        let mut nodes = vec![NodeCores::default(); inventory.nodes.len().max(1)];
        let mut by_lowest: Vec<_> = cores.into_values().collect();
        by_lowest.sort_by_key(|(_, cpus)| cpus.first().copied());
        for (node, siblings) in by_lowest {
            let Some(place) = positions.get(&node).and_then(|&at| nodes.get_mut(at)) else { continue };
            let free: Vec<u32> =
                siblings.iter().copied().filter(|&cpu| frame.contains(cpu) && !taken.contains(cpu)).collect();
            if free.len() == siblings.len() {
                place.threads += free.len();
                place.whole.entry(free.len()).or_default().push_back(free);
            } else {
                place.loose.extend(free);
            }
        }
        Self { nodes }
    }

    /// The same CPUs as though they were on one node: what is left when nodes cannot be honoured.
    pub(super) fn blind(&self) -> Self {
        let mut one = NodeCores::default();
        for node in &self.nodes {
            for (&width, cores) in &node.whole {
                one.whole.entry(width).or_default().extend(cores.iter().cloned());
            }
            one.loose.extend(&node.loose);
            one.threads += node.threads;
        }
        for cores in one.whole.values_mut() {
            cores.make_contiguous().sort();
        }
        Self { nodes: vec![one] }
    }

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// What is free, counted.
    pub(super) fn budget(&self) -> Budget {
        let mut budget = Budget::default();
        for node in &self.nodes {
            budget.loose += node.loose.len();
            for (&width, cores) in &node.whole {
                *budget.widths.entry(width).or_default() += cores.len();
            }
        }
        budget
    }

    /// CPUs in whole cores of the node at a position.
    pub(super) fn whole_on(&self, node: usize) -> usize {
        self.nodes.get(node).map_or(0, |node| node.threads)
    }

    /// All CPUs of the node at a position.
    pub(super) fn any_on(&self, node: usize) -> usize {
        self.nodes.get(node).map_or(0, |node| node.threads + node.loose.len())
    }

    /// Takes whole cores for `n` CPUs, node after node as `order` says; none when there are too few. The
    /// CPUs come core by core; those past the first `n` are idle siblings.
    pub(super) fn whole(&mut self, n: usize, order: &[usize]) -> Option<Vec<u32>> {
        let mut taken = Vec::with_capacity(n);
        for &at in order {
            let Some(node) = self.nodes.get_mut(at) else { continue };
            while taken.len() < n {
                let Some(width) = pick(node.whole.keys().copied(), n - taken.len()) else { break };
                taken.extend(node.remove(width)?);
            }
        }
        (taken.len() >= n).then_some(taken)
    }

    /// Takes `n` CPUs that need not be whole cores; none when there are too few. A core on the first node
    /// of `order` is broken, rather than going to another node, as long as there is `slack`: whole cores
    /// that nobody needs.
    pub(super) fn any(
        &mut self,
        n: usize,
        order: &[usize],
        preference: Preference,
        slack: &mut usize,
    ) -> Option<Vec<u32>> {
        let mut taken = Vec::with_capacity(n);
        if preference == Preference::Loose {
            self.loose(n, order, &mut taken);
        }
        for &at in order {
            let Some(node) = self.nodes.get_mut(at) else { continue };
            while let Some(width) = pick_full(node.whole.keys().copied(), n - taken.len()) {
                taken.extend(node.remove(width)?);
            }
        }
        if let Some(home) = order.first().and_then(|&at| self.nodes.get_mut(at)) {
            home.loose(n, &mut taken);
            while *slack > 0 && home.open(n, &mut taken) {
                *slack -= 1;
            }
        }
        self.loose(n, order, &mut taken);
        for &at in order {
            let Some(node) = self.nodes.get_mut(at) else { continue };
            while node.open(n, &mut taken) {}
        }
        (taken.len() == n).then_some(taken)
    }

    /// Takes loose CPUs, node after node, until `taken` has `n`.
    fn loose(&mut self, n: usize, order: &[usize], taken: &mut Vec<u32>) {
        for &at in order {
            if let Some(node) = self.nodes.get_mut(at) {
                node.loose(n, taken);
            }
        }
    }
}

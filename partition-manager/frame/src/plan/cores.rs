//! Free CPUs by core and node, and how whole cores and loose CPUs are taken from them.
//!
//! [`Budget`] only counts and answers whether claims fit; [`Cores`] hands out real CPUs. Both take loose CPUs in
//! one order, and whole cores can be handed out just as they were counted: what was counted can be had.

use crate::cpuset::CpuSet;
use crate::inventory::Inventory;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

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

/// Whole cores that were taken: how many of which width.
pub(super) type Cover = BTreeMap<usize, usize>;

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

    /// Takes whole cores for `n` CPUs; none, and half taken, when there are too few.
    pub(super) fn whole(&mut self, n: usize) -> Option<Cover> {
        let mut cover = Cover::new();
        let mut taken = 0;
        while taken < n {
            let width = pick(self.widths.keys().copied(), n - taken)?;
            self.remove(width);
            *cover.entry(width).or_default() += 1;
            taken += width;
        }
        // A wide core that had to be taken at the end may make narrower ones superfluous.
        while let Some(width) = pick_full(cover.keys().copied(), taken - n) {
            if let Some(count) = cover.get_mut(&width) {
                *count -= 1;
            }
            cover.retain(|_, count| *count > 0);
            *self.widths.entry(width).or_default() += 1;
            taken -= width;
        }
        Some(cover)
    }

    /// Gives back what was taken.
    pub(super) fn put(&mut self, cover: &Cover) {
        for (&width, &count) in cover {
            *self.widths.entry(width).or_default() += count;
        }
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

/// One core, as far as it belongs to the frame.
#[derive(Clone, Debug)]
struct Core {
    /// Position of its node.
    node: usize,
    /// Its CPUs that are in the frame.
    cpus: Vec<u32>,
    /// Whether these are all its online siblings: another cannot be given out whole.
    complete: bool,
}

/// The free CPUs of one node.
#[derive(Clone, Debug, Default)]
struct NodeCores {
    /// Whole cores by their width: positions in [`Cores::cores`], lowest CPU first.
    whole: BTreeMap<usize, BTreeSet<usize>>,
    /// CPUs of cores that are not wholly free.
    loose: BTreeSet<u32>,
    /// CPUs in `whole`.
    threads: usize,
}

impl NodeCores {
    fn insert(&mut self, core: usize, width: usize) {
        self.whole.entry(width).or_default().insert(core);
        self.threads += width;
    }

    fn remove(&mut self, core: usize, width: usize) -> bool {
        let Some(cores) = self.whole.get_mut(&width) else { return false };
        let there = cores.remove(&core);
        if cores.is_empty() {
            self.whole.remove(&width);
        }
        self.threads -= if there { width } else { 0 };
        there
    }

    fn pop(&mut self, width: usize) -> Option<usize> {
        let core = self.whole.get(&width)?.first().copied()?;
        self.remove(core, width).then_some(core)
    }

    /// Takes loose CPUs until `taken` has `n`.
    fn loose(&mut self, n: usize, taken: &mut Vec<u32>) {
        while taken.len() < n {
            let Some(cpu) = self.loose.pop_first() else { break };
            taken.push(cpu);
        }
    }
}

/// The free CPUs of a frame.
#[derive(Clone, Debug)]
pub(super) struct Cores {
    /// Every core of the frame, by lowest CPU.
    cores: Rc<Vec<Core>>,
    /// The core of each CPU.
    core_of: Rc<BTreeMap<u32, usize>>,
    nodes: Vec<NodeCores>,
}

impl Cores {
    /// The CPUs of `frame`. A core counts as whole when all its online siblings are free and in the frame.
    pub(super) fn new(inventory: &Inventory, frame: &CpuSet) -> Self {
        let mut cores: BTreeMap<(u32, u32), (u32, BTreeSet<u32>)> = BTreeMap::new();
        for cpu in &inventory.cpus {
            cores.entry((cpu.package, cpu.core)).or_insert((cpu.node, BTreeSet::new())).1.insert(cpu.id);
        }
        let positions: BTreeMap<u32, usize> = inventory.nodes.iter().enumerate().map(|(at, n)| (n.id, at)).collect();
        let mut inside: Vec<Core> = cores
            .into_values()
            .filter_map(|(node, siblings)| {
                let all = siblings.len();
                let cpus: Vec<u32> = siblings.into_iter().filter(|&cpu| frame.contains(cpu)).collect();
                let complete = cpus.len() == all;
                Some(Core { node: *positions.get(&node)?, cpus, complete })
            })
            .filter(|core| !core.cpus.is_empty())
            .collect();
        inside.sort_by(|a, b| a.cpus.cmp(&b.cpus));
        Self::all_free(inside, inventory.nodes.len().max(1))
    }

    fn all_free(cores: Vec<Core>, nodes: usize) -> Self {
        let mut free = vec![NodeCores::default(); nodes];
        let mut core_of = BTreeMap::new();
        for (at, core) in cores.iter().enumerate() {
            core_of.extend(core.cpus.iter().map(|&cpu| (cpu, at)));
            let Some(node) = free.get_mut(core.node) else { continue };
            if core.complete {
                node.insert(at, core.cpus.len());
            } else {
                node.loose.extend(&core.cpus);
            }
        }
        Self { cores: Rc::new(cores), core_of: Rc::new(core_of), nodes: free }
    }

    /// The same cores, all free, as though they were on one node: for when nodes cannot be honoured.
    pub(super) fn blind(&self) -> Self {
        Self::all_free(self.cores.iter().map(|core| Core { node: 0, ..core.clone() }).collect(), 1)
    }

    /// How many nodes there are.
    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Position of the node of a CPU of the frame.
    pub(super) fn node_of(&self, cpu: u32) -> Option<usize> {
        self.core(cpu).map(|(_, core)| core.node)
    }

    fn core(&self, cpu: u32) -> Option<(usize, &Core)> {
        let at = *self.core_of.get(&cpu)?;
        Some((at, self.cores.get(at)?))
    }

    /// The runs of CPUs of one core each in a list of CPUs that comes core by core.
    pub(super) fn by_core<'l>(&self, cpus: &'l [u32]) -> impl Iterator<Item = &'l [u32]> {
        cpus.chunk_by(|a, b| self.core_of.get(a).is_some_and(|core| Some(core) == self.core_of.get(b)))
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

    /// All CPUs in whole cores.
    pub(super) fn whole_cpus(&self) -> usize {
        self.nodes.iter().map(|node| node.threads).sum()
    }

    /// All CPUs.
    pub(super) fn cpus(&self) -> usize {
        self.nodes.iter().map(|node| node.threads + node.loose.len()).sum()
    }

    fn is_free(&self, cpu: u32) -> bool {
        let Some((at, core)) = self.core(cpu) else { return false };
        let Some(node) = self.nodes.get(core.node) else { return false };
        node.loose.contains(&cpu) || node.whole.get(&core.cpus.len()).is_some_and(|whole| whole.contains(&at))
    }

    /// Takes one CPU; false when it is not free.
    pub(super) fn take_cpu(&mut self, cpu: u32) -> bool {
        let cores = Rc::clone(&self.cores);
        let Some(core) = self.core_of.get(&cpu).and_then(|&at| Some((at, cores.get(at)?))) else { return false };
        let (at, core) = core;
        let Some(node) = self.nodes.get_mut(core.node) else { return false };
        if node.remove(at, core.cpus.len()) {
            node.loose.extend(&core.cpus);
        }
        node.loose.remove(&cpu)
    }

    /// Takes just these CPUs; false, and nothing taken, when one is not free.
    pub(super) fn take(&mut self, cpus: &[u32]) -> bool {
        cpus.iter().all(|&cpu| self.is_free(cpu)) && cpus.iter().all(|&cpu| self.take_cpu(cpu))
    }

    /// Gives CPUs back.
    pub(super) fn put(&mut self, cpus: &[u32]) {
        let cores = Rc::clone(&self.cores);
        for &cpu in cpus {
            let Some((at, core)) = self.core_of.get(&cpu).and_then(|&at| Some((at, cores.get(at)?))) else { continue };
            let Some(node) = self.nodes.get_mut(core.node) else { continue };
            node.loose.insert(cpu);
            if core.complete && core.cpus.iter().all(|cpu| node.loose.contains(cpu)) {
                core.cpus.iter().for_each(|cpu| {
                    node.loose.remove(cpu);
                });
                node.insert(at, core.cpus.len());
            }
        }
    }

    /// Takes whole cores for `n` CPUs, or for as many as there are, node after node as `order` says. The CPUs
    /// come core by core; those past the first `n` are idle siblings.
    pub(super) fn whole_up_to(&mut self, n: usize, order: &[usize]) -> Vec<u32> {
        let cores = Rc::clone(&self.cores);
        let mut taken: Vec<&Core> = vec![];
        let mut sum = 0;
        for &at in order {
            let Some(node) = self.nodes.get_mut(at) else { continue };
            while sum < n {
                let Some(width) = pick(node.whole.keys().copied(), n - sum) else { break };
                let Some(core) = node.pop(width).and_then(|core| cores.get(core)) else { break };
                sum += width;
                taken.push(core);
            }
            if sum >= n {
                break;
            }
        }
        // As in `Budget::whole`: none that is superfluous.
        while let Some(width) = pick_full(
            taken.iter().map(|core| core.cpus.len()).collect::<BTreeSet<_>>().into_iter(),
            sum.saturating_sub(n),
        ) {
            let Some(at) = taken.iter().rposition(|core| core.cpus.len() == width) else { break };
            self.put(&taken.remove(at).cpus);
            sum -= width;
        }
        taken.into_iter().flat_map(|core| core.cpus.iter().copied()).collect()
    }

    /// As [`Cores::whole_up_to`]; none, and nothing taken, when there are too few.
    pub(super) fn whole(&mut self, n: usize, order: &[usize]) -> Option<Vec<u32>> {
        let taken = self.whole_up_to(n, order);
        if taken.len() < n {
            self.put(&taken);
            return None;
        }
        Some(taken)
    }

    /// Takes just the whole cores of `cover` from one node, the widest first; none when there are too few.
    pub(super) fn covered(&mut self, cover: &Cover, node: usize) -> Option<Vec<u32>> {
        let cores = Rc::clone(&self.cores);
        let node = self.nodes.get_mut(node)?;
        let mut taken = vec![];
        for (&width, &count) in cover.iter().rev() {
            for _ in 0..count {
                taken.extend(&cores.get(node.pop(width)?)?.cpus);
            }
        }
        Some(taken)
    }

    /// Breaks one core of a node when `taken` has less than `n`, and takes from it; false when nothing was broken.
    fn open(&mut self, at: usize, n: usize, taken: &mut Vec<u32>) -> bool {
        let Some(node) = self.nodes.get_mut(at) else { return false };
        let Some(width) = pick(node.whole.keys().copied(), n.saturating_sub(taken.len())) else { return false };
        if taken.len() >= n {
            return false;
        }
        let Some(core) = node.pop(width).and_then(|core| self.cores.get(core)) else { return false };
        node.loose.extend(&core.cpus);
        node.loose(n, taken);
        true
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
                let Some(core) = node.pop(width).and_then(|core| self.cores.get(core)) else { break };
                taken.extend(&core.cpus);
            }
        }
        if let Some(&home) = order.first() {
            self.loose(n, &[home], &mut taken);
            while *slack > 0 && self.open(home, n, &mut taken) {
                *slack -= 1;
            }
        }
        self.loose(n, order, &mut taken);
        for &at in order {
            while self.open(at, n, &mut taken) {}
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

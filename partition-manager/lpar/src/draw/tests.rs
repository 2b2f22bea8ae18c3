//! What must hold for every picture, and a few pictures by hand.

use super::bar::{bar, cell_size, cut};
use super::cpus::{self, Scale};
use super::layout::{Options, lines};
use super::marks::{LARGEST, LETTERS, Mark};
use super::scene::{Owner, Scene};
use super::{Ink, svg, text};
use frame::assignment::Assignment;
use frame::cpuset::CpuSet;
use frame::inventory::{Cpu, HugePages, Inventory, Node};
use frame::plan::{Plan, plan};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const GIB: u64 = 1 << 30;

/// A machine of so many packages, one node each, with so many cores of so many threads.
fn machine(packages: u32, cores: u32, threads: u32) -> Inventory {
    let all = packages * cores;
    let cpus = (0..all * threads)
        .map(|id| {
            let core = id % all;
            Cpu { id, package: core / cores, core: core % cores, node: core / cores }
        })
        .collect();
    let huge_pages = vec![HugePages { size: GIB, total: 8, free: 8 }];
    let node =
        |id| Node { id, memory: 72 * GIB, available: 60 * GIB, huge_pages: huge_pages.clone(), distances: vec![] };
    Inventory { cpus, nodes: (0..packages).map(node).collect(), ..Inventory::default() }
}

/// A frame file with this head and so many partitions of each kind.
fn declared(head: &str, dedicated: usize, shared: usize) -> frame::declare::Frame {
    let mut text = format!("[frame]\nname = \"t\"\nminimum_units = 0.01\n{head}\n");
    for n in 1..=dedicated {
        let (desired, pages) = (1 + n % 4, if n % 3 == 1 { ", pages = \"1GiB\"" } else { "" });
        let _ = write!(
            text,
            "[[partition]]\nname = \"d{n}\"\nprocessors = {{ mode = \"dedicated\", minimum = 1, desired = {desired}, maximum = 4 }}\nmemory = {{ desired = \"1GiB\"{pages} }}\nboot = \"diagnostics\"\n"
        );
    }
    for n in 1..=shared {
        let _ = write!(
            text,
            "[[partition]]\nname = \"s{n}\"\nprocessors = {{ mode = \"shared\", desired = 1, units = {{ desired = 0.01 }} }}\nmemory = {{ desired = \"{}MiB\" }}\nboot = \"diagnostics\"\n",
            2 * n
        );
    }
    let reading = frame::file::read(&text);
    reading.frame.unwrap_or_else(|| panic!("{:?}", reading.diagnostics))
}

const POOL: &str = "reserved = { cpus = 1, memory = \"1GiB\" }\n[[pool]]\nname = \"default\"\ncpus = 2";

fn planned(frame: &frame::declare::Frame, inventory: &Inventory) -> Plan {
    plan(frame, inventory, &Assignment::new()).unwrap()
}

fn options(width: usize, ink: Ink) -> Options {
    Options { width, table: width, ink, all: false, basis: vec!["planned for a machine that is drawn here".into()] }
}

/// Machines, and how many dedicated and shared partitions are planned on each.
const CASES: [(u32, u32, u32, usize, usize); 6] =
    [(1, 4, 1, 0, 2), (2, 4, 2, 3, 3), (1, 6, 2, 2, 40), (4, 16, 2, 20, 60), (2, 1, 4, 1, 1), (16, 60, 2, 200, 100)];

fn for_each(mut check: impl FnMut(&Scene<'_>)) {
    for (packages, cores, threads, dedicated, shared) in CASES {
        let (frame, inventory) = (declared(POOL, dedicated, shared), machine(packages, cores, threads));
        let plan = planned(&frame, &inventory);
        check(&Scene::new(&plan, &inventory, &Assignment::new()));
    }
}

#[test]
fn every_cpu_is_in_exactly_one_cell_at_every_scale() {
    for_each(|scene| {
        for scale in [Scale::Cpu, Scale::Cores(1), Scale::Cores(2), Scale::Cores(7)] {
            let cells = scene.rows.iter().flat_map(|row| cpus::cells(row, scale)).flatten().flatten();
            let drawn: Vec<u32> = cells.collect();
            let once: BTreeSet<u32> = drawn.iter().copied().collect();
            assert_eq!(drawn.len(), once.len(), "a CPU is drawn twice");
            assert_eq!(once, scene.inventory.cpus.iter().map(|cpu| cpu.id).collect());
        }
    });
}

#[test]
fn owners_are_those_of_the_plan() {
    for_each(|scene| {
        let mut owners: BTreeMap<Owner, CpuSet> = BTreeMap::new();
        for (cpu, owner) in &scene.owners {
            owners.entry(*owner).or_default().insert(*cpu);
        }
        let of = |owner| owners.get(&owner).cloned().unwrap_or_default();
        for (at, partition) in scene.plan.partitions.iter().enumerate() {
            if partition.backing == frame::plan::Backing::Dedicated {
                assert_eq!(of(Owner::Partition(at)).union(&of(Owner::Idle(at))), partition.cpus);
                assert_eq!(of(Owner::Partition(at)).len(), partition.processors.len());
            } else {
                assert!(of(Owner::Partition(at)).is_empty(), "a shared partition has no CPU of its own");
            }
        }
        assert_eq!(of(Owner::Pool(0)), scene.plan.pools[0].cpus);
        assert_eq!(of(Owner::Host), scene.plan.reserved);
        assert_eq!(of(Owner::Nobody), scene.plan.unassigned);
    });
}

#[test]
fn memory_adds_up() {
    for_each(|scene| {
        let all = scene.inventory.nodes.iter().map(|node| node.memory).sum::<u64>();
        assert_eq!(scene.memory.iter().map(|one| one.bytes()).sum::<u64>(), all);
        for (at, partition) in scene.plan.partitions.iter().enumerate() {
            let shares = scene.memory.iter().flat_map(|one| &one.shares);
            let own = shares.filter(|(owner, _)| *owner == Owner::Partition(at)).map(|(_, bytes)| bytes).sum::<u64>();
            assert_eq!(own, partition.memory_bytes(scene.plan.memory_block));
        }
    });
}

#[test]
fn no_line_is_wider_than_the_screen() {
    for_each(|scene| {
        for width in [80, 100, 200] {
            for line in lines(scene, &options(width, Ink::Plain)) {
                assert!(line.width() <= width, "{} columns of {width}: {}", line.width(), line.show(Ink::Plain));
            }
        }
    });
}

#[test]
fn every_partition_is_in_the_legend_or_counted() {
    for_each(|scene| {
        let count = scene.plan.partitions.len();
        let shown = text(scene, &options(120, Ink::Plain));
        let letters: BTreeSet<char> =
            scene.marks.listed().iter().map(|at| scene.marks.of(Owner::Partition(*at)).glyph).collect();
        assert_eq!(letters.len(), if count > LETTERS { LARGEST } else { count }, "each has a letter of its own");
        for at in scene.marks.listed() {
            let row = format!("{} {} ", scene.marks.of(Owner::Partition(*at)).glyph, scene.plan.partitions[*at].name);
            assert!(shown.lines().any(|line| line.starts_with(&row)), "no row {row:?} in {shown}");
        }
        let more = format!("* and {} more: ", count - letters.len());
        assert_eq!(shown.contains(&more), count > letters.len(), "{shown}");
        let all = text(scene, &Options { all: true, ..options(120, Ink::Plain) });
        for partition in &scene.plan.partitions {
            assert!(
                all.lines()
                    .any(|line| line.get(2..).is_some_and(|row| row.starts_with(&format!("{} ", partition.name))))
            );
        }
    });
}

#[test]
fn colours_change_nothing_but_colours() {
    for_each(|scene| {
        let coloured = text(scene, &options(80, Ink::Colours));
        let bare: String = coloured
            .split("\x1b[")
            .enumerate()
            .map(|(at, part)| if at == 0 { part } else { part.split_once('m').unwrap().1 })
            .collect();
        let trimmed: Vec<&str> = bare.lines().map(str::trim_end).collect();
        assert_eq!(trimmed, text(scene, &options(80, Ink::Plain)).lines().collect::<Vec<_>>());
    });
}

#[test]
fn a_small_plan_reads_so() {
    let head =
        "reserved = { cpus = 1, memory = \"1GiB\" }\ncpus = \"0-6,8-15\"\n[[pool]]\nname = \"default\"\ncpus = 2";
    let (frame, inventory) = (declared(head, 2, 1), machine(2, 4, 2));
    let plan = planned(&frame, &inventory);
    let scene = Scene::new(&plan, &inventory, &Assignment::new());
    let (cells, scale) = cpus::lines(&scene, 80);
    assert_eq!(scale, Scale::Cpu);
    let all: String = cells.iter().map(|line| line.show(Ink::Plain) + "\n").collect();
    assert!(all.starts_with("pkg 0 node 0 ") && all.contains("\npkg 1 node 1 "), "{all}");
    let count = |glyph: char| cells.iter().flat_map(|line| line.marks()).filter(|mark| mark.glyph == glyph).count();
    // d1 has a core of two; d2 has three CPUs of two cores, whose fourth is idle.
    let found = [('A', 2), ('B', 3), ('-', 1), ('1', 2), ('=', 1), ('_', 1), ('.', 6)]
        .map(|(glyph, n)| (glyph, count(glyph), n));
    assert!(found.iter().all(|(_, found, wanted)| found == wanted), "{found:?}\n{all}");
    let shown = text(&scene, &options(80, Ink::Plain));
    assert!(shown.contains("idle sibling") && shown.contains("not of this frame") && shown.contains("the host's own"));
}

#[test]
fn a_cell_of_several_says_so() {
    let (frame, inventory) = (declared(POOL, 2, 1), machine(2, 4, 2));
    let plan = planned(&frame, &inventory);
    let marks = Scene::new(&plan, &inventory, &Assignment::new()).marks;
    let glyph = |owners: &[Owner]| marks.of_cell(owners.iter().copied()).glyph;
    assert_eq!(glyph(&[Owner::Partition(0), Owner::Partition(0)]), 'A');
    assert_eq!(glyph(&[Owner::Idle(1), Owner::Partition(1)]), 'b');
    assert_eq!(glyph(&[Owner::Idle(0), Owner::Partition(1)]), '+');
    assert_eq!(glyph(&[Owner::Pool(0), Owner::Nobody]), '+');
    assert_eq!(glyph(&[Owner::Guarded, Owner::Partition(0)]), '!', "what is broken is never hidden");
    let all = [
        Owner::Partition(0),
        Owner::Idle(0),
        Owner::Pool(0),
        Owner::Host,
        Owner::Guarded,
        Owner::Nobody,
        Owner::Outside,
    ];
    let glyphs: BTreeSet<char> = all.iter().map(|owner| marks.of(*owner).glyph).collect();
    assert_eq!(glyphs.len(), all.len(), "told apart without colour");
}

#[test]
fn bars_show_whoever_has_part() {
    let (frame, inventory) = (declared(POOL, 3, 1), machine(2, 4, 2));
    let plan = planned(&frame, &inventory);
    let marks = Scene::new(&plan, &inventory, &Assignment::new()).marks;
    let show = |shares: &[(Owner, u64)], cell| {
        bar(&marks, shares, cell).iter().map(|mark: &Mark| mark.glyph).collect::<String>()
    };
    let (a, b, c) = (Owner::Partition(0), Owner::Partition(1), Owner::Partition(2));
    assert_eq!(show(&[(Owner::Host, 4), (a, 8), (Owner::Nobody, 8)], 4), "=AA..");
    assert_eq!(show(&[(a, 6), (b, 6)], 4), "AAB", "each has a cell");
    assert_eq!(show(&[(a, 1), (Owner::Nobody, 7)], 4), "A.", "a little is seen too");
    assert_eq!(show(&[(a, 4), (b, 1), (c, 1), (Owner::Nobody, 2)], 4), "A+");
    assert_eq!(show(&[], 4), "");
    let shares = [(a, 5), (b, 7), (Owner::Nobody, u64::from(u32::MAX))];
    assert_eq!(
        cut(&shares, 1 << 30).iter().flatten().map(|(_, part)| part).sum::<u64>(),
        shares.iter().map(|one| one.1).sum::<u64>()
    );
    assert_eq!((cell_size(100, 10, 2), cell_size(0, 10, 2), cell_size(u64::MAX, 1, 1)), (16, 2, u64::MAX));
}

/// Every element of an XML text, opened and closed in order; panics where it is not well formed.
fn elements(text: &str) -> Vec<String> {
    let (mut open, mut all) = (Vec::new(), Vec::new());
    for piece in text.split('<').skip(1) {
        let (tag, rest) = piece.split_once('>').expect("a tag that ends");
        assert!(!rest.contains('>') || open.last().is_some_and(|name| name == "style"), "text is escaped: {rest:?}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "tags are closed in order");
        } else {
            let name = tag.split([' ', '/']).next().unwrap().to_owned();
            all.push(name.clone());
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
    }
    assert_eq!(open, Vec::<String>::new());
    all
}

#[test]
fn the_document_is_well_formed_and_stands_alone() {
    for_each(|scene| {
        let document = svg(scene, &["a <b> & \"c\" \u{1b}[31m \u{202e}".to_owned()]);
        let elements = elements(&document);
        assert_eq!(elements.first().map(String::as_str), Some("svg"));
        for foreign in ["script", "image", "foreignObject", "use", "a"] {
            assert!(!elements.iter().any(|name| name == foreign), "{foreign}");
        }
        assert!(!document.contains("href") && !document.contains("@import"));
        assert!(document.contains("a &lt;b&gt; &amp; &quot;c&quot; ?[31m ?"), "text is escaped");
        // Every CPU has its cell, with a tooltip that says whose it is.
        for (cpu, owner) in &scene.owners {
            let tip = format!("<title>CPU {cpu} (");
            assert_eq!(document.matches(&tip).count(), 1, "CPU {cpu}");
            let line = document.lines().find(|line| line.contains(&tip)).unwrap();
            let words = svg::escaped(&scene.words(*owner));
            assert!(line.contains(&format!("): {words}</title>")), "{line}");
        }
        for at in scene.marks.listed() {
            assert!(document.contains(&format!(">{}</text>", scene.plan.partitions[*at].name)));
        }
    });
}

#[test]
fn what_is_guarded_is_seen() {
    let (frame, inventory) = (declared(POOL, 1, 1), machine(2, 4, 2));
    let mut plan = planned(&frame, &inventory);
    let broken = plan.unassigned.iter().next().unwrap();
    plan.unassigned.remove(broken);
    plan.guarded.insert(broken);
    // One that a partition runs on is the partition's still.
    let kept = plan.partitions[0].processors[0].iter().next().unwrap();
    plan.guarded.insert(kept);
    plan.guarded_memory.push(frame::plan::Extent { node: 1, blocks: GIB / plan.memory_block, pages: 4096 });
    plan.holders.push(plan.partitions[0].name.clone());
    let scene = Scene::new(&plan, &inventory, &Assignment::new());
    assert_eq!((scene.owner(broken), scene.owner(kept)), (Owner::Guarded, Owner::Partition(0)));
    let on_node = scene.memory.iter().find(|one| (one.node, one.pages) == (1, 4096)).unwrap();
    assert!(on_node.shares.contains(&(Owner::Guarded, GIB)), "{on_node:?}");
    let shown = text(&scene, &options(80, Ink::Plain));
    for part in ["! guarded", &format!("CPUs {}", plan.guarded), "1GiB in 4KiB pages on node 1", "as they were: d1"] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let document = svg(&scene, &[]);
    assert!(document.contains("deconfigured") && document.contains("as they were: d1"), "{document}");
}

#[test]
fn what_runs_is_not_counted_as_the_hosts() {
    let (frame, mut inventory) = (declared(POOL, 1, 1), machine(1, 4, 2));
    let first = planned(&frame, &inventory);
    let partitions = first.partitions.iter().map(|one| (one.name.clone(), one.clone())).collect();
    let pools = first.pools.iter().map(|pool| (pool.name.clone(), pool.cpus.clone())).collect();
    let owned = Assignment { pools, partitions };
    let host = |scene: &Scene<'_>| {
        let shares = scene.memory.iter().flat_map(|one| &one.shares);
        shares.filter(|(owner, _)| *owner == Owner::Host).map(|(_, bytes)| bytes).sum::<u64>()
    };
    let before = host(&Scene::new(&first, &inventory, &Assignment::new()));
    // Now they run, and the host has that much less available.
    for extent in first.partitions.iter().flat_map(|one| &one.memory) {
        let bytes = extent.blocks * first.memory_block;
        let node = &mut inventory.nodes[0];
        match node.huge_pages.iter_mut().find(|pool| pool.size == extent.pages) {
            Some(pool) => pool.free -= bytes / pool.size,
            None => node.available -= bytes,
        }
    }
    let again = plan(&frame, &inventory, &owned).unwrap();
    assert_eq!(host(&Scene::new(&again, &inventory, &owned)), before);
}

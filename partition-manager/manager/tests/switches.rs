//! Switches on the kernel's own bridges and taps, in a network namespace that is gone with the test.

use anyhow::{Context, Result, ensure};
use frame::declare::Switch;
use frame::device::{Attachment, NetworkSpec};
use frame::mac::Mac;
use frame::name::Name;
use libtest_mimic::{Arguments, Failed, Trial};
use manager::host::network::rtnetlink::Route;
use manager::host::network::{Switches, probe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

type Test = fn() -> Result<()>;

/// Bytes before each frame of a tap: `struct virtio_net_hdr`, as it is where nothing else is asked for.
const HEADER: usize = 10;
/// What the tests send: a type for experiments (IEEE 802, table 3), so that nothing else answers.
const KIND: [u8; 2] = [0x88, 0xb5];

fn main() -> ExitCode {
    let tests: [(&str, Test); 4] = [
        ("a_frame_reaches_its_vlan_and_no_other", reaches),
        ("a_bridge_that_is_not_the_frames_is_refused_and_stays", foreign),
        ("what_a_killed_manager_left_is_used_again_and_swept", left),
        ("an_uplink_that_cannot_be_is_refused", uplink),
    ];
    let lacks = probe().err();
    if let Some(lacks) = &lacks {
        println!("ignored: {lacks:#}");
    }
    let trials = tests.into_iter().map(|(name, test)| {
        let run = move || apart(test).map_err(|error| Failed::from(format!("{error:?}")));
        Trial::test(name, run).with_ignored_flag(lacks.is_some())
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Runs a test in a network namespace of its own.
fn apart(test: Test) -> Result<()> {
    let thread = std::thread::spawn(move || {
        // SAFETY: only this thread changes its network namespace, and it ends with the test.
        let outcome = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        ensure!(outcome == 0, "no network namespace: {}", std::io::Error::last_os_error());
        test()
    });
    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the test panicked")))
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn lan() -> Switch {
    Switch { name: name("lan"), uplink: None }
}

fn adapter(number: u8, vlan: u16, tagged: &[u16]) -> Result<NetworkSpec> {
    Ok(NetworkSpec {
        mac: Mac([2, 0, 0, 0, 0, number]),
        vlan,
        tagged: tagged.to_vec(),
        attachment: probe()?,
        mtu: 1500,
        queues: 1,
        operations: None,
        bandwidth: None,
    })
}

fn plug(switches: &mut Switches, number: u8, vlan: u16, tagged: &[u16]) -> Result<Vec<OwnedFd>> {
    switches.plug(&lan(), &adapter(number, vlan, tagged)?, &name("red"), &name("lan0"))
}

/// Sends to everybody, in a VLAN of the adapter: with a tag where its taps want one.
fn send(taps: &[OwnedFd], tap: usize, vlan: u16, mark: u8) -> Result<()> {
    let mut frame = vec![0; HEADER];
    frame.extend([255; 6]);
    frame.extend([2, 0, 0, 0, 0, 99]);
    if probe()? == Attachment::Trunk {
        frame.extend([0x81, 0]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(KIND);
    frame.extend([mark; 50]);
    let tap = taps.get(if probe()? == Attachment::Trunk { 0 } else { tap }).context("no such tap")?;
    rustix::io::write(tap, &frame)?;
    Ok(())
}

/// The marks of the next frame that a test sent; waits for it.
fn next(tap: &OwnedFd) -> Result<u8> {
    loop {
        let mut wait = [PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)];
        ensure!(poll(&mut wait, Some(&Timespec { tv_sec: 20, tv_nsec: 0 }))? == 1, "nothing comes");
        let mut frame = [0; 2048];
        let count = rustix::io::read(tap, &mut frame)?;
        let frame = frame.get(HEADER..count).unwrap_or_default();
        let kind = if frame.get(12..14) == Some(&[0x81, 0]) { 16 } else { 12 };
        if frame.get(kind..kind + 2) == Some(&KIND) {
            return frame.get(kind + 2).copied().context("a frame without its mark");
        }
    }
}

fn bridges() -> Result<Vec<String>> {
    let links = Route::open()?.links()?;
    Ok(links.into_iter().filter(|link| link.kind.as_deref() == Some("bridge")).map(|link| link.name).collect())
}

fn reaches() -> Result<()> {
    let mut switches = Switches::new("rack7.1");
    let first = plug(&mut switches, 1, 10, &[20])?;
    let second = plug(&mut switches, 2, 10, &[])?;
    let third = plug(&mut switches, 3, 20, &[])?;
    let stranger = plug(&mut switches, 4, 30, &[])?;
    // What the stranger sends comes first, and to nobody; so does what each VLAN's own frame would overtake.
    send(&stranger, 0, 30, 3)?;
    send(&first, 0, 10, 1)?;
    send(&first, 1, 20, 2)?;
    ensure!(next(&second[0])? == 1, "VLAN 10 got another's");
    ensure!(next(&third[0])? == 2, "VLAN 20 got another's");
    // Frames that come back mark the end of what could have come before.
    send(&second, 0, 10, 4)?;
    ensure!(next(&first[0])? == 4);
    send(&third, 0, 20, 5)?;
    ensure!(next(first.last().context("no tap")?)? == 5);
    send(&first, 0, 10, 6)?;
    ensure!(next(&second[0])? == 6);
    let peer = plug(&mut switches, 5, 30, &[])?;
    send(&peer, 0, 30, 7)?;
    ensure!(next(&stranger[0])? == 7, "VLAN 30 got another's");
    let marked = Route::open()?.links()?.into_iter().filter(|link| link.alias.is_some()).count();
    ensure!(marked >= 6, "only {marked} interfaces say whose they are");
    drop((first, second, third, stranger, peer));
    switches.sweep()?;
    ensure!(bridges()?.is_empty(), "left behind: {:?}", bridges()?);
    let links = Route::open()?.links()?;
    ensure!(!links.iter().any(|link| link.kind.as_deref() == Some("tun")), "a tap stays: {links:?}");
    Ok(())
}

fn foreign() -> Result<()> {
    let bridge = if probe()? == Attachment::Trunk { "lan" } else { "lan.10" };
    let mut route = Route::open()?;
    route.add_bridge(bridge, Mac([2, 0, 0, 0, 0, 77]), false)?;
    let before = route.links()?;
    let mut switches = Switches::new("rack7.1");
    let refusal = format!("{:#}", plug(&mut switches, 1, 10, &[]).err().context("a foreign bridge was taken")?);
    ensure!(refusal.contains(bridge) && refusal.contains("is not this frame's"), "{refusal}");
    switches.sweep()?;
    ensure!(route.links()? == before, "something changed");
    // Another frame's is as foreign.
    let mut other = Switches::new("rack8.1");
    let taps =
        other.plug(&Switch { name: name("wan"), uplink: None }, &adapter(1, 10, &[])?, &name("a"), &name("b"))?;
    let again =
        switches.plug(&Switch { name: name("wan"), uplink: None }, &adapter(2, 10, &[])?, &name("a"), &name("b"));
    let refusal = format!("{:#}", again.err().context("another frame's bridge was taken")?);
    ensure!(refusal.contains("bulkhead rack8.1"), "{refusal}");
    drop(taps);
    Ok(())
}

fn left() -> Result<()> {
    let taps = plug(&mut Switches::new("rack7.1"), 1, 10, &[])?;
    // Killed: nobody swept, and the taps are gone.
    drop(taps);
    ensure!(bridges()?.len() == 1, "{:?}", bridges()?);
    let mut next = Switches::new("rack7.1");
    let taps = plug(&mut next, 1, 10, &[])?;
    next.sweep()?;
    ensure!(bridges()?.len() == 1, "a bridge that is used was swept");
    drop(taps);
    next.sweep()?;
    ensure!(bridges()?.is_empty());
    Ok(())
}

fn uplink() -> Result<()> {
    let switch = Switch { name: name("lan"), uplink: Some("nothere0".into()) };
    let mut switches = Switches::new("rack7.1");
    let refused = switches.plug(&switch, &adapter(1, 10, &[])?, &name("red"), &name("lan0"));
    let refusal = format!("{:#}", refused.err().context("an uplink that is not there was taken")?);
    ensure!(refusal.contains("nothere0"), "{refusal}");
    switches.sweep()?;
    ensure!(bridges()?.is_empty());
    Ok(())
}

//! Other monitors that boot the same payload file by its PVH note, where they are on this machine.
//!
//! Each is given the least machine it can make: one processor, the same memory, a serial port and nothing else.

use crate::subject::Setup;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What kind of monitor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Qemu,
    Firecracker,
    CloudHypervisor,
}

impl Kind {
    const ALL: [(Self, &str, &str); 3] = [
        (Self::Qemu, "qemu", "qemu-system-x86_64"),
        (Self::Firecracker, "firecracker", "firecracker"),
        (Self::CloudHypervisor, "cloud-hypervisor", "cloud-hypervisor"),
    ];
}

/// A monitor to compare with.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What it is called in the results.
    pub name: String,
    kind: Kind,
    binary: PathBuf,
}

/// The monitors that are on the `PATH`.
#[must_use]
pub fn on_path() -> Vec<Peer> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| std::env::split_paths(&path).map(|one| one.join(program)).find(|file| file.is_file());
    let all = Kind::ALL.into_iter();
    all.filter_map(|(kind, name, program)| Some(Peer { name: name.to_owned(), kind, binary: found(program)? }))
        .collect()
}

/// Reads `NAME=PATH`, where NAME begins with the kind: `qemu`, `firecracker` or `cloud-hypervisor`.
///
/// # Errors
/// When it is of no such kind.
pub fn parse(text: &str) -> Result<Peer> {
    let (name, path) = text.split_once('=').context("a peer is written NAME=PATH")?;
    let kind = Kind::ALL.into_iter().find(|(_, begin, _)| name.starts_with(begin)).map(|(kind, ..)| kind);
    let Some(kind) = kind else {
        bail!("it is not known how to start {name:?}: the name must begin with qemu, firecracker or cloud-hypervisor");
    };
    Ok(Peer { name: name.to_owned(), kind, binary: path.into() })
}

impl Peer {
    /// The command that boots `image`; its serial port is standard output. `directory` is for files it needs.
    ///
    /// # Errors
    /// When those cannot be written.
    pub fn command(&self, image: &Path, setup: &Setup, directory: &Path) -> Result<Command> {
        let mut command = Command::new(&self.binary);
        let mib = setup.memory >> 20;
        match self.kind {
            Kind::Qemu => {
                // The small firmware is quicker than the usual one wherever it is installed.
                let firmware = self.firmware();
                command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
                // What KVM may refuse in a guest within a guest, and the payload never asks for.
                command.args(["-cpu", "host,arch-capabilities=off"]);
                command.args(["-M", "microvm,accel=kvm,pit=off,pic=off,rtc=off,isa-serial=on,auto-kernel-cmdline=off"]);
                command.args(["-smp", "1", "-m", &mib.to_string(), "-serial", "stdio", "-monitor", "none"]);
                command.args(firmware.map(|file| [PathBuf::from("-bios"), file]).into_iter().flatten());
                command.arg("-kernel").arg(image).args(["-append", &setup.cmdline]);
            }
            Kind::Firecracker => {
                let file = directory.join("firecracker.json");
                let settings = serde_json::json!({
                    "boot-source": { "kernel_image_path": image, "boot_args": setup.cmdline },
                    "drives": [],
                    "machine-config": { "vcpu_count": 1, "mem_size_mib": mib },
                });
                std::fs::write(&file, settings.to_string())?;
                command.args(["--no-api", "--level", "Error", "--config-file"]).arg(file);
            }
            Kind::CloudHypervisor => {
                command.arg("--kernel").arg(image).args(["--cmdline", &setup.cmdline, "--cpus", "boot=1"]);
                command.args(["--memory", &format!("size={mib}M"), "--serial", "tty", "--console", "off"]);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(command)
    }

    /// `qboot.rom`, if QEMU has it beside its other firmware.
    fn firmware(&self) -> Option<PathBuf> {
        let prefix = self.binary.parent().and_then(Path::parent)?;
        let places = ["share/qemu/qboot.rom", "share/qboot/qboot.rom"];
        places.into_iter().map(|place| prefix.join(place)).find(|file| file.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_known_by_the_beginning_of_its_name() {
        let peer = parse("qemu-10=/opt/q").unwrap();
        assert_eq!(
            (peer.name.as_str(), peer.kind, peer.binary.as_path()),
            ("qemu-10", Kind::Qemu, Path::new("/opt/q"))
        );
        assert!(parse("firecracker").is_err());
        assert!(parse("other=/opt/o").unwrap_err().to_string().contains("must begin with"));
    }

    #[test]
    fn every_kind_is_given_the_payload_its_line_and_its_memory() {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup { memory: 16 << 20, ..crate::measure::setup("run=spin") };
        for (_, name, _) in Kind::ALL {
            let peer = parse(&format!("{name}=/none")).unwrap();
            let command = peer.command(Path::new("/image"), &setup, directory.path()).unwrap();
            let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            let mut all = words.join(" ");
            if name == "firecracker" {
                all += &std::fs::read_to_string(directory.path().join("firecracker.json")).unwrap();
            }
            for part in ["/image", "name=bench run=spin", "16"] {
                assert!(all.contains(part), "{name}: {all}");
            }
        }
    }
}

//! Bad input: a clear error, exit status 1, nothing left behind.

use crate::TWO;
use anyhow::{Context, Result, ensure};
use end_to_end::frame::Frame;
use end_to_end::lpar::Answer;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

/// `lpar up` of a frame that must be refused, with everything in its reason that `wanted` names.
fn refused(text: &str, wanted: &[&str]) -> Result<Answer> {
    let frame = Frame::new(text)?;
    let answer = frame.lpar.run_all(["up".as_ref(), frame.file().as_os_str(), "--detach".as_ref()])?.expect(1)?;
    for part in wanted {
        ensure!(answer.stderr.contains(part), "{part:?} is not said: {}", answer.stderr);
    }
    ensure!(!answer.stderr.contains("panicked"), "{}", answer.stderr);
    frame.nothing_left()?;
    Ok(answer)
}

pub fn three() -> Result<()> {
    let text = TWO
        .replacen("memory_block = \"2MiB\"", "memory_blok = \"2MiB\"", 1)
        .replacen("name = \"beta\"", "name = \"alpha\"", 1)
        .replacen("weight = 128", "weight = 1280", 1);
    let frame = Frame::new(&text)?;
    let answer = frame.lpar.run_all(["check".as_ref(), frame.file().as_os_str()])?.expect(1)?;
    for part in ["memory_blok", "memory_block", "alpha", "1280"] {
        ensure!(answer.stderr.contains(part), "{part:?} is not said: {}", answer.stderr);
    }
    let errors = answer.stderr.matches("error").count();
    ensure!(errors >= 3, "three mistakes are three errors: {}", answer.stderr);
    ensure!(answer.stderr.contains("frame.toml:"), "file, line and column: {}", answer.stderr);
    let json = frame.lpar.run_all(["check".as_ref(), frame.file().as_os_str(), "--json".as_ref()])?.expect(1)?;
    let diagnostics = json.json()?;
    ensure!(diagnostics.as_array().is_some_and(|all| all.len() >= 3), "{diagnostics}");
    ensure!(diagnostics[0]["line"].is_u64() && diagnostics[0]["column"].is_u64(), "{diagnostics}");
    refused(&text, &["memory_blok"])?;
    Ok(())
}

fn with_kernel(kernel: &str) -> String {
    TWO.replacen("boot = \"diagnostics\"", &format!("boot = {{ kernel = \"{kernel}\" }}"), 1)
}

pub fn missing_kernel() -> Result<()> {
    refused(&with_kernel("no-such-kernel"), &["no-such-kernel", "frame.toml:"])?;
    Ok(())
}

pub fn cut_short() -> Result<()> {
    // The payload itself, as any ELF, less its last third.
    let directory = tempfile::tempdir()?;
    let binaries = end_to_end::lpar::binaries()?;
    let image = std::process::Command::new(binaries.join("partition")).arg("--image").output()?.stdout;
    ensure!(image.starts_with(b"\x7fELF"), "partition --image gives an ELF");
    let kernel = directory.path().join("kernel.elf");
    std::fs::write(&kernel, &image[..image.len() / 3])?;
    let path = kernel.to_str().context("the directory's name is no text")?;
    refused(&with_kernel(path), &["kernel.elf", "short"])?;
    Ok(())
}

pub fn exabytes() -> Result<()> {
    refused(&TWO.replacen("desired = \"16MiB\"", "desired = \"16EiB\"", 1), &["16EiB"])?;
    refused(&TWO.replacen("desired = \"16MiB\"", "desired = \"15EiB\"", 1), &["memory"])?;
    Ok(())
}

pub fn kvm_absent() -> Result<()> {
    let frame = Frame::new(TWO)?;
    let up = frame.lpar.command(["up".as_ref(), frame.file().as_os_str(), "--detach".as_ref()])?;
    // A mount namespace of its own, whose /dev has what any program needs and no KVM.
    let mut command = std::process::Command::new("unshare");
    command.args([
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none /mnt && cp -a /dev/null /dev/urandom /mnt && mount --move /mnt /dev && exec \"$@\"",
        "sh",
    ]);
    command.arg(up.get_program()).args(up.get_args());
    command.env("BULKHEAD_ROOT", frame.directory().join("r")).stdin(std::process::Stdio::null());
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(stderr.contains("/dev/kvm"), "{stderr}");
    frame.nothing_left()
}

pub fn kvm_not_permitted() -> Result<()> {
    let frame = Frame::new(TWO)?;
    std::fs::set_permissions(frame.directory(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    // Binaries that another user can reach, wherever this checkout is.
    let place = tempfile::tempdir()?;
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    for name in ["lpar", "partition-manager", "service-processor", "partition"] {
        std::fs::copy(end_to_end::lpar::binaries()?.join(name), place.path().join(name))?;
    }
    let mut command = std::process::Command::new(place.path().join("lpar"));
    command.args(["up".as_ref(), frame.file().as_os_str(), "--detach".as_ref()]);
    command.env("BULKHEAD_ROOT", frame.directory().join("r")).uid(65534).gid(65534);
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(stderr.contains("/dev/kvm") && stderr.contains("ermi"), "{stderr}");
    frame.nothing_left()
}

/// Everything below a directory that others than its user and group have a right to.
fn reachable(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = std::fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            found.extend(reachable(&path)?);
        }
        if metadata.permissions().mode() & 0o007 != 0 {
            found.push(format!("{} {:o}", path.display(), metadata.permissions().mode()));
        }
    }
    Ok(found)
}

pub fn others() -> Result<()> {
    let frame = Frame::new(TWO)?;
    let up = frame.lpar.command([Path::new("up"), &frame.file(), Path::new("--detach")])?;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "umask 0 && exec \"$@\"", "sh"]).arg(up.get_program()).args(up.get_args());
    command.env("BULKHEAD_ROOT", frame.directory().join("r")).stdin(std::process::Stdio::null());
    let output = command.output()?;
    ensure!(output.status.success(), "{output:?}");
    let root = frame.directory().join("r");
    let found = reachable(&root.join("run"))?;
    ensure!(found.is_empty(), "others reach {found:?}");
    let (run, state) = (root.join("run").metadata()?, root.join("state").metadata()?);
    ensure!((run.permissions().mode() | state.permissions().mode()) & 0o027 == 0, "{run:?} {state:?}");
    frame.down()
}

pub fn open_directory() -> Result<()> {
    let frame = Frame::new(TWO)?;
    let run = frame.directory().join("r/run");
    std::fs::create_dir_all(&run)?;
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777))?;
    let answer = frame.lpar.run_all([Path::new("up"), &frame.file(), Path::new("--detach")])?.expect(1)?;
    ensure!(answer.stderr.contains("everybody may write") && answer.stderr.contains("chmod o-w"), "{}", answer.stderr);
    ensure!(std::fs::read_dir(&run)?.next().is_none(), "something was made in a directory of everybody's");
    frame.nothing_left()
}

//! `testbed bounded` leaves nothing of its command behind, however that ends.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Starts `testbed bounded` on a shell script and reads the number that the script prints first.
fn start(deadline: &str, script: &str) -> Result<(Child, i32)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["bounded", "--deadline", deadline, "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    Ok((child, line.trim().parse()?))
}

fn alive(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_process_that_left_the_session_is_killed_when_the_command_ends() -> Result<()> {
    let (mut bounded, pid) = start("60", "setsid sleep 1000 >/dev/null & echo $!; exit 5")?;
    assert_eq!(bounded.wait()?.code(), Some(5));
    assert!(!alive(pid));
    Ok(())
}

#[test]
fn at_the_deadline_everything_is_killed() -> Result<()> {
    let (mut bounded, pid) = start("1", "setsid sleep 1000 >/dev/null & echo $!; sleep 1000 >/dev/null")?;
    assert_eq!(bounded.wait()?.code(), Some(124));
    assert!(!alive(pid));
    Ok(())
}

#[test]
fn when_asked_to_end_everything_is_killed() -> Result<()> {
    let script = "trap '' TERM; setsid sleep 1000 >/dev/null & echo $!; sleep 1000 >/dev/null";
    let (mut bounded, pid) = start("1000", script)?;
    let own = rustix::process::Pid::from_child(&bounded);
    rustix::process::kill_process(own, rustix::process::Signal::TERM)?;
    assert_eq!(bounded.wait()?.code(), Some(124));
    assert!(!alive(pid));
    Ok(())
}

#[test]
fn an_orphan_that_ends_is_gone_at_once() -> Result<()> {
    // The script ends only when the orphan that it killed has left /proc: a zombie would stay there.
    let script =
        "pid=$(setsid sleep 1000 >/dev/null & echo $!); echo $pid; kill -9 $pid; while [ -e /proc/$pid ]; do :; done";
    let (mut bounded, pid) = start("60", script)?;
    assert_eq!(bounded.wait()?.code(), Some(0));
    assert!(!alive(pid));
    Ok(())
}

//! How the command fails: with a reason and an exit status.

use std::fmt;
use std::process::ExitCode;

/// Says a line on standard error. One that is closed, or a terminal that is gone, ends nothing.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
pub(crate) use say;

/// Why the command did not do what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// Refused or failed: exit status 1.
    Failed(anyhow::Error),
    /// Refused or failed, and everything was said already: exit status 1.
    Said,
    /// Not within the time given: exit status 3.
    TimedOut(String),
}

impl Failure {
    /// Says the reason on standard error, once, and gives the exit status.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        let (text, status) = match self {
            Self::Failed(error) => (Some(chain(error)), 1),
            Self::Said => (None, 1),
            Self::TimedOut(reason) => (Some(reason.clone()), 3),
        };
        if let Some(text) = text {
            say!("error: {}", shown(&text));
        }
        ExitCode::from(status)
    }
}

/// A text as a terminal may show it: whatever a file name, a log or a guest put into it.
fn shown(text: &str) -> String {
    text.split('\n').map(crate::show::plain).collect::<Vec<_>>().join("\n")
}

/// The chain of causes in one line; a cause that its effect already tells is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => f.write_str(&chain(error)),
            Self::Said => Ok(()),
            Self::TimedOut(reason) => f.write_str(reason),
        }
    }
}

/// What a verb gives.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Fails with a reason.
macro_rules! refuse {
    ($($reason:tt)*) => { return Err($crate::failure::Failure::Failed(anyhow::anyhow!($($reason)*))) };
}
pub(crate) use refuse;

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_chain_is_told_once() {
        let error = std::fs::read("/nowhere/at/all").context("cannot read the file").unwrap_err();
        assert_eq!(chain(&error), "cannot read the file: No such file or directory (os error 2)");
        assert_eq!(shown("cannot read \x1b[2Ja\u{202e}b:\n  its log"), "cannot read ?[2Ja?b:\n  its log");
        let error = anyhow::anyhow!("inner").context("outer because of inner");
        assert_eq!(chain(&error), "outer because of inner");
    }
}

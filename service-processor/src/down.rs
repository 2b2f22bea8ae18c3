//! Asking the manager to bring the frame down, from a thread that may wait for it.

use frame::api::{DOWN, DownRequest};
use os::http::{Client, HttpError};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long until a manager that was away is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// How a manager answered.
#[derive(Debug)]
pub enum Answer {
    /// It brings the frame down, or has.
    Accepted,
    /// It refuses; the reason.
    Refused(String),
    /// It did not answer in time; the last error.
    Silent(String),
}

/// Asks the manager at `socket` until it answers or `patience` is over.
#[must_use]
pub fn ask(socket: &Path, request: DownRequest, patience: Duration) -> Answer {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match Client::new(socket, left).post::<_, serde_json::Value>(DOWN, &request) {
            // An answer in another form is an answer: it heard.
            Ok(_) | Err(HttpError::Form { .. }) => return Answer::Accepted,
            // One that ends, or has too much to do, is to be asked again.
            Err(HttpError::Refused { status: 503, .. }) if Instant::now() < deadline => std::thread::sleep(AGAIN),
            Err(HttpError::Refused { message, .. }) => return Answer::Refused(message),
            Err(error) if error.is_away() && Instant::now() < deadline => std::thread::sleep(AGAIN),
            Err(error) => return Answer::Silent(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there_is_silence() {
        let answer = ask(Path::new("/nowhere/socket"), DownRequest::default(), Duration::ZERO);
        assert!(matches!(answer, Answer::Silent(reason) if reason.contains("/nowhere/socket")));
    }
}

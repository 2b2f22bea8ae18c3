//! The daemons of a running frame, asked in a way that outlasts the replacement of either.

use frame::api::PARTITIONS;
use frame::name::Name;
use frame::root::Root;
use os::http::{Client, HttpError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a daemon may be away, that is, be replaced.
pub const REPLACEMENT: Duration = Duration::from_secs(10);
/// How long an ordinary answer may take.
pub const ORDINARY: Duration = Duration::from_secs(10);
/// How long an answer may take that the manager bounds by itself: starting, the shutdown ladder.
pub const BOUNDED_THERE: Duration = Duration::from_secs(24 * 3600);
/// How long until a daemon that is away is asked again.
const AGAIN: Duration = Duration::from_millis(50);
/// "Ask me again": what a daemon says that is just ending or has no room for another request.
const SERVICE_UNAVAILABLE: u16 = 503;

/// One daemon.
#[derive(Clone, Debug)]
pub struct Daemon {
    client: Client,
}

impl Daemon {
    /// The manager of the frame at `root`.
    #[must_use]
    pub fn manager(root: &Root) -> Self {
        Self { client: Client::new(&root.manager_socket(), ORDINARY) }
    }

    /// The service processor of the frame at `root`.
    #[must_use]
    pub fn service_processor(root: &Root) -> Self {
        Self { client: Client::new(&root.service_processor_socket(), ORDINARY) }
    }

    /// The client, for what must not be asked twice.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// GET.
    ///
    /// # Errors
    /// [`HttpError`], after the daemon was given time to be replaced.
    pub fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, HttpError> {
        patiently(|| self.client.get(path))
    }

    /// POST of something that may be asked twice.
    ///
    /// # Errors
    /// As [`Daemon::get`].
    pub fn post<B: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        timeout: Duration,
    ) -> Result<A, HttpError> {
        let client = self.client.with_timeout(timeout);
        patiently(|| client.post(path, body))
    }
}

/// Tries again while the daemon is away.
///
/// # Errors
/// The last error.
pub fn patiently<T>(mut work: impl FnMut() -> Result<T, HttpError>) -> Result<T, HttpError> {
    let mut pauses = REPLACEMENT.as_millis() / AGAIN.as_millis();
    loop {
        match work() {
            Err(error) if pauses > 0 && is_away(&error) => {
                // Only the pauses count: a long request that broke says nothing of how long the daemon is away.
                pauses -= 1;
                std::thread::sleep(AGAIN);
            }
            result => return result,
        }
    }
}

fn is_away(error: &HttpError) -> bool {
    error.is_away() || matches!(error, HttpError::Refused { status: SERVICE_UNAVAILABLE, .. })
}

/// The path of something of one partition.
#[must_use]
pub fn of(partition: &Name, what: &str) -> String {
    format!("{PARTITIONS}/{partition}{what}")
}

//! Why the service processor cannot do something.

use std::path::PathBuf;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory cannot be used.
    #[error("cannot {what} {}", .path.display())]
    File {
        /// What was tried, such as `read`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The frame file has mistakes; the text shows them.
    #[error("the frame file {} has mistakes:\n{shown}", .path.display())]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// The diagnostics as people read them.
        shown: String,
    },
    /// No frame file was given, and none was applied before.
    #[error("no frame was applied yet in {}; name a frame file with --file", .state.display())]
    NothingApplied {
        /// The state directory.
        state: PathBuf,
    },
    /// The database failed.
    #[error("the event log cannot be used")]
    Database(#[from] rusqlite::Error),
    /// Something cannot be written as JSON.
    #[error("{what} cannot be written as JSON")]
    Json {
        /// What it is.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The host failed.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// [`Error::File`], for `map_err`.
    pub fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    /// [`Error::Host`], for `map_err`.
    pub fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

//! A blocking HTTP/1.1 client over a Unix socket, for the daemons' control planes.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest answer that is taken, bytes.
pub const LARGEST_ANSWER: usize = 64 << 20;

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody listens at the socket.
    #[error("nobody answers at {}", .path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the connection to {} broke", .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What broke it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("no answer from {} within {} ms", .path.display(), .timeout.as_millis())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// The time that was given.
        timeout: Duration,
    },
    /// The daemon refused the request.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The daemon's reason.
        message: String,
    },
    /// The answer is not what it should be.
    #[error("the answer of {} cannot be read", .path.display())]
    Form {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl HttpError {
    /// Whether the daemon was not there at all or went away, so that asking again later may help.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            // Who may not connect now may not later.
            Self::Unreachable { source, .. } => source.kind() != std::io::ErrorKind::PermissionDenied,
            Self::Broken { .. } => true,
            Self::TimedOut { .. } | Self::Refused { .. } | Self::Form { .. } => false,
        }
    }
}

/// A client of one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the daemon that listens at `path`, which gives up after `timeout`.
    #[must_use]
    pub fn new(path: &Path, timeout: Duration) -> Self {
        Self { path: path.to_owned(), timeout }
    }

    /// The same client with another timeout.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { path: self.path.clone(), timeout }
    }

    /// GET.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, HttpError> {
        self.read(&self.exchange(Method::GET, path, Vec::new())?)
    }

    /// POST with a JSON body.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn post<B: Serialize, A: DeserializeOwned>(&self, path: &str, body: &B) -> Result<A, HttpError> {
        let body = serde_json::to_vec(body).map_err(|source| HttpError::Form { path: self.path.clone(), source })?;
        self.read(&self.exchange(Method::POST, path, body)?)
    }

    fn read<A: DeserializeOwned>(&self, bytes: &[u8]) -> Result<A, HttpError> {
        serde_json::from_slice(bytes).map_err(|source| HttpError::Form { path: self.path.clone(), source })
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> HttpError {
        HttpError::Broken { path: self.path.clone(), source: source.into() }
    }

    /// Connects without waiting: a daemon that was stopped leaves its connections waiting, and the next one
    /// would wait for as long as that lasts, whatever the timeout.
    fn connect(&self) -> Result<UnixStream, HttpError> {
        let attempt = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(self.path.as_path())?)?;
            Ok(socket.into())
        };
        attempt().map_err(|errno: rustix::io::Errno| HttpError::Unreachable {
            path: self.path.clone(),
            source: errno.into(),
        })
    }

    fn runtime(&self) -> Result<tokio::runtime::Runtime, HttpError> {
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| self.broken(error))
    }

    fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes, HttpError> {
        let stream = self.connect()?;
        let work = async {
            let (response, _connection) = self.request(stream, method, path, body, &[]).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
            let bytes = body.map_err(|error| self.broken(error))?.to_bytes();
            if status.is_success() { Ok(bytes) } else { Err(refusal(status, &bytes)) }
        };
        self.runtime()?.block_on(async {
            tokio::time::timeout(self.timeout, work)
                .await
                .map_err(|_| HttpError::TimedOut { path: self.path.clone(), timeout: self.timeout })?
        })
    }

    async fn request(
        &self,
        stream: UnixStream,
        method: Method,
        path: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> Result<(hyper::Response<hyper::body::Incoming>, tokio::task::JoinHandle<()>), HttpError> {
        stream.set_nonblocking(true).map_err(|error| self.broken(error))?;
        let stream = tokio::net::UnixStream::from_std(stream).map_err(|error| self.broken(error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        let connection = tokio::spawn(async move {
            // Its failure shows as the failure of the exchange.
            let _ = connection.with_upgrades().await;
        });
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| self.broken(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        Ok((response, connection))
    }

    /// Asks for a byte stream (`101 Switching Protocols`, RFC 9110, section 7.8) and gives it as a blocking
    /// socket: what the daemon sends is read from it, what is written to it the daemon gets.
    ///
    /// The connection stays with a thread of this process, which ends when either side closes.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn upgrade(&self, path: &str, protocol: &str) -> Result<UnixStream, HttpError> {
        let stream = self.connect()?;
        let runtime = self.runtime()?;
        let upgraded = runtime.block_on(async {
            let headers = [("connection", "upgrade"), ("upgrade", protocol)];
            let work = self.request(stream, Method::POST, path, Vec::new(), &headers);
            let (response, connection) = tokio::time::timeout(self.timeout, work)
                .await
                .map_err(|_| HttpError::TimedOut { path: self.path.clone(), timeout: self.timeout })??;
            let status = response.status();
            if status != StatusCode::SWITCHING_PROTOCOLS {
                let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
                return Err(refusal(status, &body.map_err(|error| self.broken(error))?.to_bytes()));
            }
            let upgraded = hyper::upgrade::on(response).await.map_err(|error| self.broken(error))?;
            Ok((upgraded, connection))
        })?;
        let (near, far) = UnixStream::pair().map_err(|error| self.broken(error))?;
        far.set_nonblocking(true).map_err(|error| self.broken(error))?;
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let (upgraded, _connection) = upgraded;
                if let Ok(mut far) = tokio::net::UnixStream::from_std(far) {
                    // Either side may close; there is nobody to tell.
                    let _ = tokio::io::copy_bidirectional(&mut far, &mut TokioIo::new(upgraded)).await;
                }
            });
        });
        Ok(near)
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> HttpError {
    let message = serde_json::from_slice::<frame::api::ErrorBody>(body)
        .map_or_else(|_| String::from_utf8_lossy(body).chars().take(500).collect(), |body| body.error);
    let message = if message.is_empty() { format!("the daemon answered {status}") } else { message };
    HttpError::Refused { status: status.as_u16(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_accepts_nothing_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(path.as_path()).unwrap()).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        let client = Client::new(&path, Duration::from_millis(100));
        let waiting: Vec<_> = (0..8).map_while(|_| client.connect().ok()).collect();
        assert!(waiting.len() < 8);
        let error = client.get::<serde_json::Value>("/").unwrap_err();
        assert!(matches!(error, HttpError::Unreachable { .. }) && error.is_away(), "{error}");
    }

    #[test]
    fn who_may_not_connect_need_not_try_again() {
        let refused = |kind: std::io::ErrorKind| HttpError::Unreachable { path: "/s".into(), source: kind.into() };
        assert!(refused(std::io::ErrorKind::NotFound).is_away());
        assert!(!refused(std::io::ErrorKind::PermissionDenied).is_away());
    }
}

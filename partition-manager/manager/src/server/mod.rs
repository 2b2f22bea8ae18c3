//! The API: HTTP and JSON over a Unix socket, for those who may.
//!
//! It runs in a thread of its own and only puts requests into the driver's queue.

mod console;
mod routes;

use crate::message::Message;
use anyhow::Context;
use axum::Router;
use crossbeam_channel::Sender;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

/// Connections that are served at once.
const MOST_CONNECTIONS: usize = 64;
/// Time that a client has to say what it wants.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Time that a client has to send all of what it announced.
const BODY_TIME: Duration = Duration::from_secs(5);
/// Time that answers on their way have at the end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The API's thread.
#[derive(Debug)]
pub struct Server {
    thread: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    path: PathBuf,
}

impl Server {
    /// Binds the socket at `path`, in place of one that an earlier manager left, and serves.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn start(path: &Path, queue: Sender<Message>) -> anyhow::Result<Self> {
        let named = || format!("the socket {} of the API", path.display());
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(named),
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(path).with_context(named)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o660)).with_context(named)?;
        let group = std::fs::metadata(path).with_context(named)?.gid();
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::Builder::new().name("api".into()).spawn(move || {
            runtime.block_on(async {
                match UnixListener::from_std(listener) {
                    Ok(listener) => serve(listener, group, routes::router(queue), stopped).await,
                    Err(error) => tracing::error!("the API cannot be served: {error}"),
                }
            });
        })?;
        Ok(Self { thread: Some(thread), stop, path: path.to_owned() })
    }

    /// Ends when the answers on their way are out, and removes the socket.
    pub fn end(mut self) {
        // The thread may have ended already.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(listener: UnixListener, group: u32, router: Router, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            _ = stopped.changed() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, for instance: others may give some back.
                tracing::warn!("a connection could not be taken: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !os::peer::may(&stream, group) {
            tracing::warn!("a client without permission was turned away");
            continue;
        }
        let service = TowerToHyperService::new(router.clone());
        let mut stopped = stopped.clone();
        tokio::spawn(async move {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
            let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
            tokio::pin!(connection);
            // A client that goes away in between is no concern of the manager's.
            tokio::select! {
                _ = connection.as_mut() => {}
                _ = stopped.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(place);
        });
    }
    drop(listener);
    // All places are free when all connections have ended.
    let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(LAST_WORDS, places.acquire_many(all)).await;
}

async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    // A place first: those beyond wait in the socket's own queue.
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

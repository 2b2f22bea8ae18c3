//! A console session: history, then what comes, and what is typed.
//!
//! Output is read from the partition's ring at the client's own speed. A client that is slower than the
//! guest misses what the ring no longer holds, and is told so.

use super::routes::{Api, Named, Problem};
use crate::message::{Message, Refusal, Request, Session};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use frame::name::Name;
use frame::wire::LARGEST_INPUT;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

/// The protocol's name in the `Upgrade` header.
const PROTOCOL: &str = "console";
/// Least time between two looks at the output, so that a guest that prints without end does not keep the
/// API's thread to itself.
const PAUSE: Duration = Duration::from_millis(2);
/// Time that a client has to take the reason why its session ends.
const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    force: bool,
}

/// Opens the one session on a partition's console: the connection becomes a byte stream
/// (`Upgrade: console`).
#[utoipa::path(post, path = "/v1/partitions/{name}/console", params(("name" = String, Path),
    ("force" = Option<bool>, Query)), responses((status = 101, description = "The session is open"),
    (status = 404, body = frame::api::ErrorBody),
    (status = 409, description = "There is a session already", body = frame::api::ErrorBody),
    (status = 426, description = "The request does not ask for an upgrade", body = frame::api::ErrorBody)))]
pub async fn open(
    State(api): State<Api>,
    Named(name): Named,
    query: Result<Query<Options>, axum::extract::rejection::QueryRejection>,
    mut request: axum::extract::Request,
) -> Result<Response, Problem> {
    let Query(Options { force }) = query?;
    let wanted = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if wanted.is_none_or(|wanted| !wanted.eq_ignore_ascii_case(PROTOCOL)) {
        let message = format!("a console session needs the headers `connection: upgrade` and `upgrade: {PROTOCOL}`");
        return Err(Refusal { status: 426, message }.into());
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let asked = name.clone();
    let session = api.ask(move |reply| Request::OpenConsole { name: asked, force, reply }).await?;
    tokio::spawn(async move {
        let number = session.number;
        if let Ok(upgraded) = upgrade.await {
            // Either side may end it; there is nobody to tell.
            let _ = run(&api, &name, session, upgraded).await;
        }
        // The queue is full at times; a session whose other end is gone is found closed later.
        let _ = api.queue.try_send(Message::Request(Request::CloseConsole { name, session: number }));
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}

async fn run(api: &Api, name: &Name, session: Session, upgraded: Upgraded) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
    let Session { number, record, doorbell, mut end } = session;
    let output = Output { record, doorbell, writer };
    tokio::select! {
        outcome = typed(api, name, number, reader) => outcome,
        outcome = output.pass_on(&mut end) => outcome,
    }
}

/// Passes on what is typed, until the client closes.
async fn typed(api: &Api, name: &Name, session: u64, mut reader: ReadHalf<TokioIo<Upgraded>>) -> io::Result<()> {
    let mut bytes = [0; LARGEST_INPUT];
    loop {
        let count = reader.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        let bytes = bytes.get(..count).unwrap_or_default().to_vec();
        let name = name.clone();
        // The next bytes are read when these were passed on: the client waits, not the driver.
        let passed = api.ask(move |reply| Request::Type { name, session, bytes, reply }).await;
        passed.map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))?;
    }
}

struct Output {
    record: Arc<crate::record::Record>,
    doorbell: Arc<OwnedFd>,
    writer: WriteHalf<TokioIo<Upgraded>>,
}

impl Output {
    async fn pass_on(mut self, end: &mut tokio::sync::oneshot::Receiver<String>) -> io::Result<()> {
        // A descriptor of its own: a session that takes over may watch the doorbell at the same time.
        let doorbell = self.doorbell.try_clone()?;
        // SAFETY: the descriptor is owned by what is made here, and stays open and the same as long as that lives.
        let doorbell = unsafe { AsyncFd::register_with_interest(doorbell, tokio::io::Interest::READABLE) }?;
        let mut position = 0;
        loop {
            let (start, bytes) = self.record.console(position)?;
            let missed = if position == 0 { 0 } else { start.saturating_sub(position) };
            position = start.saturating_add(bytes.len() as u64);
            let writer = &mut self.writer;
            let next = async {
                if missed > 0 {
                    let missed = format!("\r\n[{missed} bytes of output were missed]\r\n");
                    writer.write_all(missed.as_bytes()).await?;
                }
                if bytes.is_empty() {
                    // The count stays where it is, since the partition may make reading it block: each ring is
                    // an edge of its own (`epoll(7)`).
                    doorbell.readable().await?.clear_ready();
                    return Ok::<(), io::Error>(());
                }
                writer.write_all(&bytes).await?;
                writer.flush().await?;
                tokio::time::sleep(PAUSE).await;
                Ok(())
            };
            // The end is heard of also while the client takes nothing.
            tokio::select! {
                done = next => done?,
                reason = &mut *end => {
                    let reason = reason.unwrap_or_else(|_| "the manager ends".to_owned());
                    let farewell = self.farewell(&reason);
                    return tokio::time::timeout(FAREWELL, farewell).await.unwrap_or(Ok(()));
                }
            }
        }
    }

    async fn farewell(&mut self, reason: &str) -> io::Result<()> {
        self.writer.write_all(format!("\r\n[{reason}]\r\n").as_bytes()).await?;
        self.writer.flush().await?;
        self.writer.shutdown().await
    }
}

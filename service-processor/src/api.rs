//! The service processor's API: HTTP and JSON over a Unix socket.

mod serve;

pub use serve::{bind, serve};

use crate::driver::{Message, NotDown};
use crate::log::{Log, LogError, Selection};
use crate::store::LARGEST_ANSWER;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use crossbeam_channel::Sender;
use frame::api::{
    Acknowledgement, DOWN, Delivery, DownRequest, EVENTS, ErrorBody, OPENAPI, STATUS, SurveillanceStatus,
};
use frame::event::{LARGEST_DELIVERY, LoggedEvent};
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::oneshot;
use utoipa::OpenApi;

/// Largest body of a request, bytes: a full delivery of events with their first-failure data.
pub const LARGEST_BODY: usize = 8 << 20;
/// Longest that a reader of events may wait for the next one.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Longest that a client may take to send all of what it announced.
const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// Longest that the log may take for an answer.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// What the handlers reach.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The driver's queue.
    pub driver: Sender<Message>,
    /// The event log.
    pub log: Log,
}

/// An answer that is no success.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    error: String,
}

impl Failure {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    fn gone() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the service processor is ending or busy; try again")
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.error })).into_response()
    }
}

/// A JSON body that came whole and in time: a client that sends half of it must not keep its place for good.
#[derive(Debug)]
struct Body<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> axum::extract::FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Failure> {
        match tokio::time::timeout(BODY_PATIENCE, Json::from_request(request, state)).await {
            Ok(Ok(Json(body))) => Ok(Self(body)),
            Ok(Err(error)) => Err(Failure::new(StatusCode::BAD_REQUEST, error.body_text())),
            Err(_) => Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the rest of the request did not come in time")),
        }
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Bulkhead service processor", description = "Surveillance of a frame and its event log."),
    paths(deliver, events, status, down),
    components(schemas(ErrorBody))
)]
struct Description;

/// The API's routes.
pub fn router(reach: Reach) -> Router {
    Router::new()
        .route(EVENTS, post(deliver).get(events))
        .route(STATUS, get(status))
        .route(DOWN, post(down))
        .route(OPENAPI, get(async || Json(Description::openapi())))
        .fallback(async || Failure::new(StatusCode::NOT_FOUND, format!("there is no such path; see {OPENAPI}")))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(reach)
}

/// Takes events over into the log: all of them, or none.
#[utoipa::path(post, path = EVENTS, request_body = Delivery, responses(
    (status = 200, description = "The events are in the log, new or known.", body = Acknowledgement),
    (status = 400, description = "The delivery is too large or of another form.", body = ErrorBody),
    (status = 503, description = "The log cannot be written now; keep the events.", body = ErrorBody),
))]
async fn deliver(
    State(reach): State<Reach>,
    Body(Delivery { events }): Body<Delivery>,
) -> Result<Json<Acknowledgement>, Failure> {
    let taken = events.len();
    if taken > LARGEST_DELIVERY {
        let error = format!("a delivery has at most {LARGEST_DELIVERY} events, this one has {taken}");
        return Err(Failure::new(StatusCode::BAD_REQUEST, error));
    }
    within(reach.log.deliver(events)).await?;
    Ok(Json(Acknowledgement { taken }))
}

/// Which events a reader asks for.
#[derive(Clone, Copy, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only events after this number.
    after: Option<u64>,
    /// Only the newest so many; not together with `after`.
    last: Option<usize>,
    /// At most so many; 1000 when absent, and at most. Fewer when they are large: ask again after the last one.
    limit: Option<usize>,
    /// When there is none, waits so many milliseconds for the next, at most 60 s.
    wait_ms: Option<u64>,
}

/// Gives events, oldest first.
#[utoipa::path(get, path = EVENTS, params(EventsQuery), responses(
    (status = 200, description = "Events, oldest first; may be none.", body = Vec<LoggedEvent>),
    (status = 400, description = "The query has another form.", body = ErrorBody),
    (status = 503, description = "The log cannot be read now.", body = ErrorBody),
))]
async fn events(
    State(reach): State<Reach>,
    query: Result<Query<EventsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Vec<LoggedEvent>>, Failure> {
    let Query(query) = query.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let limit = query.limit.unwrap_or(LARGEST_ANSWER);
    let (selection, limit) = match (query.after, query.last) {
        (Some(_), Some(_)) => {
            return Err(Failure::new(StatusCode::BAD_REQUEST, "give `after` or `last`, not both"));
        }
        (None, Some(last)) => (Selection::Newest, last.min(limit)),
        (after, None) => (Selection::After(after.unwrap_or(0)), limit),
    };
    let mut extent = reach.log.extent();
    extent.mark_unchanged();
    let mut events = within(reach.log.read(selection, limit)).await?;
    let wait = Duration::from_millis(query.wait_ms.unwrap_or(0)).min(LONGEST_WAIT);
    if events.is_empty() && !wait.is_zero() && limit > 0 {
        // No event in time is an empty answer.
        let _ = tokio::time::timeout(wait, extent.changed()).await;
        events = within(reach.log.read(selection, limit)).await?;
    }
    Ok(Json(events))
}

/// Says how the surveillance stands.
#[utoipa::path(get, path = STATUS, responses(
    (status = 200, description = "The status.", body = SurveillanceStatus),
    (status = 503, description = "The service processor is ending.", body = ErrorBody),
))]
async fn status(State(reach): State<Reach>) -> Result<Json<SurveillanceStatus>, Failure> {
    let (reply, answer) = oneshot::channel();
    reach.driver.try_send(Message::Status(reply)).map_err(|_| Failure::gone())?;
    answer.await.map(Json).map_err(|_| Failure::gone())
}

/// Brings the frame down and answers when it is.
#[utoipa::path(post, path = DOWN, request_body = DownRequest, responses(
    (status = 200, description = "The frame is down; the service processor ends."),
    (status = 400, description = "The request has another form.", body = ErrorBody),
    (status = 409, description = "The frame stays up.", body = ErrorBody),
    (status = 500, description = "It does not come down in order; the service processor ends.", body = ErrorBody),
    (status = 503, description = "The service processor is ending.", body = ErrorBody),
))]
async fn down(
    State(reach): State<Reach>,
    Body(request): Body<DownRequest>,
) -> Result<Json<serde_json::Value>, Failure> {
    let (reply, answer) = oneshot::channel();
    reach.driver.try_send(Message::Down(request, reply)).map_err(|_| Failure::gone())?;
    match answer.await {
        Ok(Ok(())) => Ok(Json(serde_json::json!({}))),
        Ok(Err(NotDown::Refused(reason))) => Err(Failure::new(StatusCode::CONFLICT, reason)),
        Ok(Err(NotDown::Failed(reason))) => Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, reason)),
        Err(_) => Err(Failure::gone()),
    }
}

/// A log on a disk that does not answer is a busy log.
async fn within<T>(work: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
    tokio::time::timeout(LOG_PATIENCE, work).await.unwrap_or(Err(LogError::Busy))
}

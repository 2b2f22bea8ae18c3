//! The paths of the API.

use super::console;
use crate::message::{Message, Refusal, Reply, Request};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, OptionalFromRequest, Path, Query, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use crossbeam_channel::{Sender, TrySendError};
use frame::api::{
    APPLY, ASSIGNMENT, ApplyRequest, ChangeAnswer, DECLARATION, DEVICES, DOWN, Declaration, DownRequest, ErrorBody,
    FRAME, FrameAssignment, FrameStatus, HOST_INTERRUPTS, INTERRUPTS, OPENAPI, PartitionDetail, PartitionRow,
    PartitionStat, ServiceRequest, SetRequest, ShutdownRequest, WaitAnswer,
};
use frame::device_row::DeviceRow;
use frame::interrupt::InterruptRow;
use frame::name::Name;
use frame::steer::HostInterruptRow;
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::OpenApi;

/// Largest body of a request, bytes.
const LARGEST_BODY: usize = 64 * 1024;
/// Largest body of a request that declares a frame, bytes.
const LARGEST_FRAME: usize = 64 << 20;

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Api {
    /// The driver's queue.
    pub queue: Sender<Message>,
}

impl Api {
    /// Puts a request into the queue and waits for its answer.
    pub async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        match self.queue.try_send(Message::Request(request(reply))) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(Refusal::unavailable("the manager has too much to do; try again").into());
            }
            Err(TrySendError::Disconnected(_)) => return Err(Refusal::unavailable("the manager ends").into()),
        }
        match answer.await {
            Ok(answer) => answer.map_err(Problem::from),
            Err(_) => Err(Refusal::unavailable("the manager ends").into()),
        }
    }
}

/// An answer that is none.
#[derive(Debug)]
pub struct Problem(Refusal);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self(Refusal { status: rejection.status().as_u16(), message: rejection.body_text() })
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self(Refusal { status: rejection.status().as_u16(), message: rejection.body_text() })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorBody { error: self.0.message })).into_response()
    }
}

/// The partition that a path names.
#[derive(Debug)]
pub struct Named(pub Name);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let text = path.map(|Path(text)| text).unwrap_or_default();
        Name::new(text).map(Self).map_err(|error| Refusal { status: 400, message: error.to_string() }.into())
    }
}

/// A JSON body that may be left out.
#[derive(Debug)]
struct Body<T>(T);

impl<S, T> axum::extract::FromRequest<S> for Body<T>
where
    S: Send + Sync,
    T: serde::de::DeserializeOwned + Default,
{
    type Rejection = Problem;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Problem> {
        let body = <Json<T> as OptionalFromRequest<S>>::from_request(request, state);
        let Ok(body) = tokio::time::timeout(super::BODY_TIME, body).await else {
            return Err(Refusal { status: 408, message: "the rest of the request did not come in time".into() }.into());
        };
        let body = body?;
        Ok(Self(body.map(|Json(body)| body).unwrap_or_default()))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    state: String,
    #[serde(default)]
    timeout_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Of {
    partition: Option<String>,
}

/// The description of the API.
#[derive(OpenApi)]
#[openapi(
    info(title = "Bulkhead partition manager", description = "Who owns what on the host, and what is done about it."),
    paths(
        list,
        show,
        stat,
        interrupts,
        host_interrupts,
        devices,
        activate,
        shutdown,
        service,
        wait,
        frame_status,
        assignment,
        declaration,
        apply,
        set,
        down,
        console::open
    )
)]
struct Description;

/// The routes.
pub fn router(queue: Sender<Message>) -> Router {
    Router::new()
        .route("/v1/partitions", get(list))
        .route("/v1/partitions/{name}", get(show))
        .route("/v1/partitions/{name}/stat", get(stat))
        .route("/v1/partitions/{name}/activate", post(activate))
        .route("/v1/partitions/{name}/shutdown", post(shutdown))
        .route("/v1/partitions/{name}/service", post(service))
        .route("/v1/partitions/{name}/wait", get(wait))
        .route("/v1/partitions/{name}/console", post(console::open))
        .route(INTERRUPTS, get(interrupts))
        .route(HOST_INTERRUPTS, get(host_interrupts))
        .route(DEVICES, get(devices))
        .route(FRAME, get(frame_status))
        .route(ASSIGNMENT, get(assignment))
        .route(DECLARATION, get(declaration))
        .route(APPLY, post(apply).layer(DefaultBodyLimit::max(LARGEST_FRAME)))
        .route("/v1/partitions/{name}/set", post(set))
        .route(DOWN, post(down))
        .route(OPENAPI, get(|| async { Json(Description::openapi()) }))
        .fallback(|| async {
            Problem(Refusal { status: 404, message: "there is no such path; see /openapi.json".into() })
        })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(Api { queue })
}

/// All partitions of the frame.
#[utoipa::path(get, path = "/v1/partitions", responses((status = 200, body = Vec<PartitionRow>)))]
async fn list(State(api): State<Api>) -> Result<Json<Vec<PartitionRow>>, Problem> {
    Ok(Json(api.ask(Request::List).await?))
}

/// One partition, with what it is declared to have, has, and gets at its next activation.
#[utoipa::path(get, path = "/v1/partitions/{name}", params(("name" = String, Path)), responses(
    (status = 200, body = PartitionDetail), (status = 404, body = ErrorBody)))]
async fn show(State(api): State<Api>, Named(name): Named) -> Result<Json<PartitionDetail>, Problem> {
    Ok(Json(*api.ask(|reply| Request::Show(name, reply)).await?))
}

/// Figures of one partition.
#[utoipa::path(get, path = "/v1/partitions/{name}/stat", params(("name" = String, Path)), responses(
    (status = 200, body = PartitionStat), (status = 404, body = ErrorBody)))]
async fn stat(State(api): State<Api>, Named(name): Named) -> Result<Json<PartitionStat>, Problem> {
    Ok(Json(api.ask(|reply| Request::Stat(name, reply)).await?))
}

/// Starts a partition. Answers when it runs, also when it did already.
#[utoipa::path(post, path = "/v1/partitions/{name}/activate", params(("name" = String, Path)), responses(
    (status = 200, body = PartitionRow), (status = 404, body = ErrorBody),
    (status = 409, description = "Not possible at present", body = ErrorBody),
    (status = 500, description = "Tried and failed", body = ErrorBody)))]
async fn activate(State(api): State<Api>, Named(name): Named) -> Result<Json<PartitionRow>, Problem> {
    Ok(Json(api.ask(|reply| Request::Activate(name, reply)).await?))
}

/// Ends a partition. Answers when it has ended, or runs again where a restart was asked for.
#[utoipa::path(post, path = "/v1/partitions/{name}/shutdown", params(("name" = String, Path)),
    request_body = Option<ShutdownRequest>, responses(
    (status = 200, body = PartitionRow), (status = 404, body = ErrorBody),
    (status = 409, description = "The guest objects", body = ErrorBody),
    (status = 500, description = "It failed instead", body = ErrorBody)))]
async fn shutdown(
    State(api): State<Api>,
    Named(name): Named,
    Body(request): Body<ShutdownRequest>,
) -> Result<Json<PartitionRow>, Problem> {
    Ok(Json(api.ask(|reply| Request::Shutdown(name, request, reply)).await?))
}

/// Tells a partition that a device of it was serviced: one that stays frozen may be reset by its guest, and its
/// interrupt sources are no longer quarantined.
#[utoipa::path(post, path = "/v1/partitions/{name}/service", params(("name" = String, Path)),
    request_body = ServiceRequest, responses(
    (status = 200, body = PartitionRow), (status = 404, description = "No such partition or device", body = ErrorBody),
    (status = 409, description = "It does not run", body = ErrorBody)))]
async fn service(
    State(api): State<Api>,
    Named(name): Named,
    body: Result<Json<ServiceRequest>, JsonRejection>,
) -> Result<Json<PartitionRow>, Problem> {
    let Json(request) = body?;
    Ok(Json(api.ask(|reply| Request::Service(name, request, reply)).await?))
}

/// Waits until a partition has a state, or for as long as is said.
#[utoipa::path(get, path = "/v1/partitions/{name}/wait", params(("name" = String, Path),
    ("state" = String, Query), ("timeout_ms" = Option<u64>, Query)), responses(
    (status = 200, body = WaitAnswer), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn wait(
    State(api): State<Api>,
    Named(name): Named,
    query: Result<Query<Wait>, QueryRejection>,
) -> Result<Json<WaitAnswer>, Problem> {
    let Query(Wait { state, timeout_ms }) = query?;
    let state =
        state.parse().map_err(|error: frame::state::StateError| Refusal { status: 400, message: error.to_string() })?;
    Ok(Json(api.ask(|reply| Request::Wait { name, state, timeout_ms, reply }).await?))
}

/// Interrupt sources of all partitions that run, or of one.
#[utoipa::path(get, path = "/v1/interrupts", params(("partition" = Option<String>, Query)), responses(
    (status = 200, body = Vec<InterruptRow>), (status = 404, body = ErrorBody),
    (status = 500, description = "The partition's process does not answer", body = ErrorBody)))]
async fn interrupts(
    State(api): State<Api>,
    query: Result<Query<Of>, QueryRejection>,
) -> Result<Json<Vec<InterruptRow>>, Problem> {
    let name = asked(query)?;
    Ok(Json(api.ask(|reply| Request::Interrupts(name, reply)).await?))
}

/// Interrupts of the host's own devices that the frame steers: those of devices that are dedicated to a partition, and
/// those that it moved, or could not move, off CPUs that are partitions' alone. As they were when last steered.
#[utoipa::path(get, path = "/v1/interrupts/host", responses((status = 200, body = Vec<HostInterruptRow>)))]
async fn host_interrupts(State(api): State<Api>) -> Result<Json<Vec<HostInterruptRow>>, Problem> {
    Ok(Json(api.ask(Request::HostInterrupts).await?))
}

/// Devices of all partitions that run, or of one.
#[utoipa::path(get, path = "/v1/devices", params(("partition" = Option<String>, Query)), responses(
    (status = 200, body = Vec<DeviceRow>), (status = 404, body = ErrorBody),
    (status = 500, description = "The partition's process does not answer", body = ErrorBody)))]
async fn devices(
    State(api): State<Api>,
    query: Result<Query<Of>, QueryRejection>,
) -> Result<Json<Vec<DeviceRow>>, Problem> {
    let name = asked(query)?;
    Ok(Json(api.ask(|reply| Request::Devices(name, reply)).await?))
}

/// The partition that a query names, if it names one.
fn asked(query: Result<Query<Of>, QueryRejection>) -> Result<Option<Name>, Problem> {
    let Query(Of { partition }) = query?;
    let wrong = |error: frame::name::NameError| Refusal { status: 400, message: error.to_string() };
    Ok(partition.map(Name::new).transpose().map_err(wrong)?)
}

/// The frame and its manager.
#[utoipa::path(get, path = "/v1/frame", responses((status = 200, body = FrameStatus)))]
async fn frame_status(State(api): State<Api>) -> Result<Json<FrameStatus>, Problem> {
    Ok(Json(api.ask(Request::Frame).await?))
}

/// What is owned now.
#[utoipa::path(get, path = "/v1/assignment", responses((status = 200, body = FrameAssignment)))]
async fn assignment(State(api): State<Api>) -> Result<Json<FrameAssignment>, Problem> {
    Ok(Json(*api.ask(Request::Assignment).await?))
}

/// What is declared, and what of it waits.
#[utoipa::path(get, path = "/v1/declaration", responses((status = 200, body = Declaration)))]
async fn declaration(State(api): State<Api>) -> Result<Json<Declaration>, Problem> {
    Ok(Json(*api.ask(Request::Declaration).await?))
}

/// Declares the frame anew. All of it is in force when this answers, or nothing has changed.
#[utoipa::path(post, path = "/v1/apply", request_body = ApplyRequest, responses(
    (status = 200, body = ChangeAnswer),
    (status = 409, description = "Not possible while what runs is as it is; nothing has changed", body = ErrorBody)))]
async fn apply(
    State(api): State<Api>,
    body: Result<Json<ApplyRequest>, JsonRejection>,
) -> Result<Json<ChangeAnswer>, Problem> {
    let Json(request) = body?;
    Ok(Json(api.ask(|reply| Request::Apply(Box::new(request), reply)).await?))
}

/// Sets values of one partition. All of them are in force when this answers, or nothing has changed.
#[utoipa::path(post, path = "/v1/partitions/{name}/set", params(("name" = String, Path)), request_body = SetRequest,
    responses((status = 200, body = ChangeAnswer), (status = 404, body = ErrorBody),
    (status = 409, description = "Not possible at present; nothing has changed", body = ErrorBody)))]
async fn set(
    State(api): State<Api>,
    Named(name): Named,
    body: Result<Json<SetRequest>, JsonRejection>,
) -> Result<Json<ChangeAnswer>, Problem> {
    let Json(request) = body?;
    Ok(Json(api.ask(|reply| Request::Set(name, request, reply)).await?))
}

/// Ends all partitions, then the manager. Answers when the partitions have ended.
#[utoipa::path(post, path = "/v1/down", request_body = Option<DownRequest>, responses(
    (status = 200, description = "Every partition has ended; null")))]
async fn down(State(api): State<Api>, Body(request): Body<DownRequest>) -> Result<Json<()>, Problem> {
    api.ask(|reply| Request::Down(request, reply)).await?;
    Ok(Json(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_every_path() {
        let text = serde_json::to_value(Description::openapi()).unwrap();
        let paths: Vec<&String> = text["paths"].as_object().unwrap().keys().collect();
        assert_eq!(paths.len(), 17, "{paths:?}");
    }

    #[test]
    fn a_full_queue_is_an_answer() {
        let (queue, held) = crossbeam_channel::bounded(1);
        queue.send(Message::Terminate).unwrap();
        let api = Api { queue };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let problem = runtime.block_on(api.ask(Request::List)).unwrap_err();
        assert_eq!(problem.0.status, 503);
        drop(held);
        let problem = runtime.block_on(api.ask(Request::List)).unwrap_err();
        assert_eq!(problem.0.status, 503);
    }
}

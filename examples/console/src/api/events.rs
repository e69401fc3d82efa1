//! Events: the latest ones, and a stream of those that follow.

#![allow(unused_qualifications)] // in what `utoipa::path` expands to

use super::{Answer, Console};
use crate::{history::Recorded, problem::Problem};
use axum::{
    Json,
    extract::{Path, Query, State},
    http::HeaderMap,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::{Receiver, error::RecvError},
    },
    time::Instant,
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Maximum number of events in one answer.
const MAX_EVENTS: usize = 1000;
/// Number of events in an answer where none is asked for.
const USUAL_EVENTS: usize = 100;
/// Time after which a stream ends; browsers begin another one by themselves. So a session that has ended sees no more.
const STREAM_TIME: Duration = Duration::from_secs(900);

/// Events, the latest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventList {
    #[schema(value_type = Vec<EventDocument>)]
    events: Vec<Value>,
}

/// An event. The members beside these depend on its kind.
#[derive(ToSchema)]
#[schema(as = Event)]
#[expect(dead_code, reason = "describes the JSON form of the library for the document of the API")]
pub(super) struct EventDocument {
    /// Number, which grows from event to event.
    id: u64,
    /// Name of the flow; empty if the event concerns all of them.
    flow: String,
    /// Time, in milliseconds since 1970-01-01 UTC.
    at_ms: u64,
    /// Kind of the event, as in `source_lost`; `console` for a change by a person.
    #[schema(example = "source_connected")]
    event: String,
    /// The event as a sentence.
    text: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Maximum number of events (100; 1 to 1000).
    limit: Option<usize>,
    /// Number of the event before which the answer begins, for the next page.
    before: Option<u64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Following {
    /// Name of the flow; all flows if it is absent.
    flow: Option<String>,
    /// Number of the event after which the stream begins; also the header `Last-Event-ID`. Without both, it begins now.
    after: Option<u64>,
}

pub(super) fn routes() -> OpenApiRouter<Console> {
    OpenApiRouter::new().routes(routes!(all)).routes(routes!(of_flow)).routes(routes!(follow))
}

fn latest(console: &Console, flow: Option<&str>, page: &Page) -> Json<EventList> {
    let limit = page.limit.unwrap_or(USUAL_EVENTS).clamp(1, MAX_EVENTS);
    let events = console.flows.history().latest(flow, page.before.unwrap_or(u64::MAX), limit);
    Json(EventList { events: events.iter().map(|event| event.value.clone()).collect() })
}

/// Returns the latest events of all flows.
#[utoipa::path(get, path = "/events", tag = "events", params(Page), responses((status = 200, body = EventList)))]
async fn all(State(console): State<Console>, Query(page): Query<Page>) -> Answer<EventList> {
    Ok(latest(&console, None, &page))
}

/// Returns the latest events of a flow.
#[utoipa::path(get, path = "/flows/{flow}/events", tag = "events",
    params(("flow" = String, Path, description = "Name of the flow"), Page),
    responses((status = 200, body = EventList),
        (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn of_flow(
    State(console): State<Console>,
    Path(flow): Path<String>,
    Query(page): Query<Page>,
) -> Answer<EventList> {
    console.flows.get(&flow)?;
    Ok(latest(&console, Some(&flow), &page))
}

/// Stream of events, of which each holds its number as `id` and the event as JSON.
#[utoipa::path(get, path = "/events/stream", tag = "events", params(Following),
    responses((status = 200, body = String, content_type = "text/event-stream"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "too many streams")))]
async fn follow(
    State(console): State<Console>,
    Query(following): Query<Following>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let permit = console.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Problem::unavailable("there are too many event streams", 5))?;
    let header = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let history = console.flows.history();
    let after = header.or(following.after).unwrap_or_else(|| history.last());
    let (past, live) = history.follow(after);
    let events =
        Follower { past: past.into(), live, flow: following.flow, end: Instant::now() + STREAM_TIME, _permit: permit };
    let stream = stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        Some((Ok(event), events))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// Events that one stream delivers.
struct Follower {
    past: VecDeque<Arc<Recorded>>,
    live: Receiver<Arc<Recorded>>,
    flow: Option<String>,
    end: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        loop {
            let event = match self.past.pop_front() {
                Some(event) => event,
                None => match tokio::time::timeout_at(self.end, self.live.recv()).await {
                    Ok(Ok(event)) => event,
                    Ok(Err(RecvError::Lagged(count))) => {
                        let missed = json!({ "flow": "", "event": "missed", "count": count });
                        return Some(Event::default().event("missed").data(missed.to_string()));
                    }
                    Ok(Err(RecvError::Closed)) | Err(_) => return None,
                },
            };
            if self.flow.as_ref().is_none_or(|flow| *flow == event.flow) {
                return Some(Event::default().id(event.id.to_string()).data(event.value.to_string()));
            }
        }
    }
}

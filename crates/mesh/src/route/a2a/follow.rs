//! A task on its way to its end: it is listened to, and where there is nothing to listen to, asked after.

use jiff::Timestamp;
use openclaw_client::protocol::methods::agent::Outcome;
use tokio::time::{Duration, Instant, sleep};

use super::http::Remote;
use super::stream::Stream;
use super::task::{Change, Happening, Task};
use super::{A2aError, wire};
use crate::error::MeshError;
use crate::progress::{Observer, Progress};
use crate::route::{Delivery, Outgoing};

/// The pauses between two looks at a task: the first, and the longest. OpenClaw's channel allows 30 requests a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// A task that is followed to its end.
pub(super) struct Following {
    pub(super) task: Task,
    /// Where it is heard how the task goes on.
    pub(super) stream: Option<Stream>,
    /// Whether there are streams there; not known where the task was begun before.
    pub(super) streams: Option<bool>,
}

/// Follows a task until it ends, or our time does. A stream that breaks is no failure: the task is asked after, and
/// listened to again.
pub(super) async fn follow(
    remote: &Remote<'_>,
    following: Following,
    message: &Outgoing,
    delivery: &mut Delivery<'_>,
    observer: &mut dyn Observer,
) -> Result<Outcome, MeshError> {
    delivery.accepted();
    let Following { mut task, mut stream, mut streams } = following;
    let mut was_reached = streams.is_some();
    show(&task, "", observer);
    let mut pause = Duration::ZERO;
    loop {
        if let Some(stream) = stream.take() {
            listen(stream, &mut task, observer).await;
        }
        if let Some(outcome) = task.outcome() {
            return Ok(outcome);
        }
        if Instant::now() + pause >= message.deadline {
            return Err(message.give_up("no answer in time", delivery));
        }
        sleep(pause).await;
        pause = (pause * 2).clamp(FIRST_PAUSE, LAST_PAUSE);
        match remote.task(&task.id).await {
            Ok(seen) => {
                if !std::mem::replace(&mut was_reached, true) {
                    observer.progress(Progress::Reached);
                }
                observer.progress(Progress::Phase(&seen.state().to_lowercase()));
                replace(&mut task, seen, observer);
                if task.outcome().is_none() {
                    stream = subscribe(remote, &task.id, &mut streams).await;
                }
            }
            // It was restarted, and its tasks were only in its memory.
            Err(A2aError::Rpc { code: wire::TASK_NOT_FOUND, .. }) => {
                let reason = "the task is not known there any more".to_owned();
                return Ok(Outcome::Failed(reason));
            }
            Err(error) if error.is_refusal() => return Err(remote.failed(error)),
            // It was there before, and the task may be, too.
            Err(error) => tracing::debug!(%error, at = %Timestamp::now(), "looking again"),
        }
    }
}

/// Hears how a task goes on, until it is over or the stream is.
async fn listen(mut stream: Stream, task: &mut Task, observer: &mut dyn Observer) {
    while task.outcome().is_none() {
        let happening = match stream.next().await {
            Ok(Some(happening)) => happening,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, at = %Timestamp::now(), "the stream of a task broke");
                return;
            }
        };
        let state = task.state().to_owned();
        match happening {
            Happening::Task(seen) if seen.id == task.id => replace(task, seen, observer),
            Happening::Update(update) if update.task_id == task.id => match task.take(update) {
                Change::Nothing => {}
                Change::Grown(piece) => observer.progress(Progress::Text(&piece)),
                Change::Rewritten(whole) => observer.progress(Progress::Rewrite(&whole)),
            },
            // What is said of other tasks, or beside the task, is not its end.
            _ => {}
        }
        if task.state() != state {
            observer.progress(Progress::Phase(&task.state().to_lowercase()));
        }
    }
}

/// The stream of a task that was begun before, where there are streams.
async fn subscribe(remote: &Remote<'_>, id: &str, streams: &mut Option<bool>) -> Option<Stream> {
    if streams.is_none() {
        *streams = remote.card().await.ok().map(|card| card.streams());
    }
    if *streams != Some(true) {
        return None;
    }
    match remote.subscribe(id).await {
        Ok(stream) => Some(stream),
        // The task may be over by now; that is asked next. One that is only refused to us is not asked for again.
        Err(error) => {
            tracing::debug!(%error, at = %Timestamp::now(), "a task cannot be listened to");
            *streams = Some(!matches!(error, A2aError::Rpc { .. }));
            None
        }
    }
}

/// Takes a task as it is seen now. One that goes on may be shown without what it brought before.
fn replace(task: &mut Task, seen: Task, observer: &mut dyn Observer) {
    if !seen.made().is_empty() {
        show(&seen, &task.made(), observer);
    }
    *task = seen;
}

/// Shows what a task has brought, where `shown` was shown before.
fn show(task: &Task, shown: &str, observer: &mut dyn Observer) {
    let made = task.made();
    match made.strip_prefix(shown) {
        Some("") => {}
        Some(piece) => observer.progress(Progress::Text(piece)),
        None => observer.progress(Progress::Rewrite(&made)),
    }
}

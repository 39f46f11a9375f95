//! `SendStreamingMessage` and `SubscribeToTask`: a task while it goes on, as server-sent events.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use openclaw_protocol::a2a::{
    Artifact, ArtifactUpdate, Happening, Part, RpcError, SendMessage, StatusUpdate, Task, TaskQuery,
};
use openclaw_protocol::event::{ChatEvent, ChatState};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::interval;

use super::line::{Heard, Line};
use super::send::{Order, Taken};
use super::{Caller, rpc, task};
use crate::http::{self, Reply};
use crate::runs::Run;
use crate::seats::Seat;
use crate::shared::Shared;

/// So often a stream on which nothing happens shows that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// So many events wait for a slow reader; then the stream waits for him, and pieces are told together.
const QUEUE: usize = 16;

/// A stream to one client.
struct Stream {
    shared: Arc<Shared>,
    caller: Caller,
    id: Value,
    events: mpsc::Sender<Bytes>,
    /// What of the reply was told.
    told: String,
    /// Counts as one of the caller's requests at a time, as long as it goes on.
    _seat: Seat<String>,
}

/// The reader is gone. The run goes on.
struct Gone;

/// Runs a message, and tells how it goes on.
pub(super) async fn message(
    shared: &Arc<Shared>,
    caller: Caller,
    id: Value,
    request: SendMessage,
) -> Result<Reply, RpcError> {
    let order = Order::new(&caller, &request.message)?;
    let mut line = Line::open(shared, &caller);
    let taken = order.place(shared, &caller, &mut line).await?;
    let begin = match taken {
        Taken::Over(task) => Begin::Over(task),
        Taken::Running => Begin::of_run(shared, &caller, &order.id)?,
    };
    open(shared, caller, id, line, begin)
}

/// Tells how a task goes on that was begun before.
pub(super) async fn again(
    shared: &Arc<Shared>,
    caller: Caller,
    id: Value,
    query: TaskQuery,
) -> Result<Reply, RpcError> {
    let line = Line::open(shared, &caller);
    let task = task::find(shared, &caller, &query).await?;
    if task.status.state.is_over() {
        return Err(RpcError::new(RpcError::UNSUPPORTED_OPERATION, "the task is over; get it"));
    }
    let begin = Begin::of_run(shared, &caller, &query.id)?;
    open(shared, caller, id, line, begin)
}

/// What there is to tell.
enum Begin {
    Over(Box<Task>),
    Running(Arc<Run>, Box<Task>),
}

impl Begin {
    fn of_run(shared: &Shared, caller: &Caller, id: &str) -> Result<Self, RpcError> {
        let unknown = || RpcError::new(RpcError::TASK_NOT_FOUND, "no such task");
        let run = task::run(shared, caller, id).ok_or_else(unknown)?;
        let task = task::of_run(shared, caller, &run).ok_or_else(unknown)?;
        Ok(Self::Running(run, Box::new(task)))
    }
}

fn open(
    shared: &Arc<Shared>,
    caller: Caller,
    id: Value,
    line: Line,
    begin: Begin,
) -> Result<Reply, RpcError> {
    let Some(seat) = Seat::take(&shared.callers, caller.member.key.clone()) else {
        return Err(RpcError::new(RpcError::SERVER, "too many requests at a time"));
    };
    let (events, queue) = mpsc::channel(QUEUE);
    let told = String::new();
    let stream = Stream { shared: Arc::clone(shared), caller, id, events, told, _seat: seat };
    // In a task of its own: the answer begins now.
    shared.tasks.spawn(async move {
        // Whoever does not listen any more asks for the task by its id.
        let _ = stream.run(line, begin).await;
    });
    Ok(http::events(queue))
}

impl Stream {
    async fn run(mut self, mut line: Line, begin: Begin) -> Result<(), Gone> {
        let (run, task) = match begin {
            Begin::Over(task) => return self.tell(Happening::Task(*task)).await,
            Begin::Running(run, task) => (run, task),
        };
        let context_id = task.context_id.clone();
        self.tell(Happening::Task(*task)).await?;
        let mut alive = interval(KEEP_ALIVE);
        loop {
            tokio::select! {
                biased;
                // Pieces that were told before the end are passed on before it.
                heard = line.next() => match heard {
                    Some(Heard::Chat(event)) if event.run_id == run.id => self.piece(&context_id, &event).await?,
                    Some(_) => {}
                    None => return Ok(()),
                },
                done = run.wait() => {
                    if done.is_some() && let Some(task) = task::of_run(&self.shared, &self.caller, &run) {
                        self.end(task).await?;
                    }
                    return Ok(());
                }
                _ = alive.tick() => self.events.send(Bytes::from_static(b": \n\n")).await.map_err(|_| Gone)?,
                () = self.events.closed() => return Err(Gone),
            }
        }
    }

    async fn piece(&mut self, context_id: &str, event: &ChatEvent) -> Result<(), Gone> {
        let Some(text) = event.delta_text.as_ref().filter(|_| event.state == ChatState::Delta) else {
            return Ok(());
        };
        let append = !self.told.is_empty();
        self.told.push_str(text);
        self.tell(artifact(&event.run_id, context_id, text.clone(), append, false)).await
    }

    /// The rest of the reply, or all of it if it is not what the pieces were, and the state.
    async fn end(&mut self, task: Task) -> Result<(), Gone> {
        let Task { id, context_id, status, artifacts } = task;
        let reply = artifacts.into_iter().flat_map(|artifact| artifact.parts).find_map(|part| part.text);
        if let Some(reply) = reply {
            let rest = reply.strip_prefix(&*self.told).map(str::to_owned);
            let append = rest.is_some() && !self.told.is_empty();
            let text = rest.unwrap_or(reply);
            if !text.is_empty() {
                self.tell(artifact(&id, &context_id, text, append, true)).await?;
            }
        }
        self.tell(Happening::StatusUpdate(StatusUpdate { task_id: id, context_id, status })).await
    }

    async fn tell(&self, what: Happening) -> Result<(), Gone> {
        let answer = rpc::result(&self.id, &what);
        let event = Bytes::from(format!("data: {answer}\n\n"));
        self.events.send(event).await.map_err(|_| Gone)
    }
}

fn artifact(task_id: &str, context_id: &str, text: String, append: bool, last_chunk: bool) -> Happening {
    Happening::ArtifactUpdate(ArtifactUpdate {
        task_id: task_id.to_owned(),
        context_id: context_id.to_owned(),
        artifact: Artifact { artifact_id: task::REPLY.to_owned(), parts: vec![Part::text(text)] },
        append,
        last_chunk,
    })
}

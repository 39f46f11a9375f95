//! A task, and what is said of it: at once, or in a stream. Unknown fields and states are accepted.

use openclaw_client::protocol::methods::agent::Outcome;
use serde::Deserialize;
use serde_json::Value;

/// What is said of a message or its task: the answer to its sending, or one event of a stream.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Said")]
pub(super) enum Happening {
    /// A task as a whole: it goes on, or is over already.
    Task(Task),
    /// The whole answer, without a task.
    Message(String),
    /// A task goes on.
    Update(Update),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    #[serde(default)]
    task: Option<Task>,
    #[serde(default)]
    message: Option<Message>,
    #[serde(default)]
    status_update: Option<Update>,
    #[serde(default)]
    artifact_update: Option<Update>,
}

impl TryFrom<Said> for Happening {
    type Error = &'static str;

    fn try_from(said: Said) -> Result<Self, Self::Error> {
        match (said.task, said.message, said.status_update.or(said.artifact_update)) {
            (Some(task), ..) => Ok(Self::Task(task)),
            (None, Some(message), _) => Ok(Self::Message(text(&message.parts))),
            (None, None, Some(update)) => Ok(Self::Update(update)),
            (None, None, None) => Err("neither a task nor a message"),
        }
    }
}

/// A task is further, or has brought something.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Update {
    pub(super) task_id: String,
    #[serde(default)]
    status: Option<Status>,
    #[serde(default)]
    artifact: Option<Artifact>,
    /// The artifact goes on where it stood; else it is this from now on.
    #[serde(default)]
    append: bool,
}

/// What an update changed of the text that a task has brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// It grew by this.
    Grown(String),
    /// It is this now.
    Rewritten(String),
}

#[derive(Debug, Default, Deserialize)]
struct Message {
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    data: Option<Value>,
}

/// The texts of parts, and data as the JSON it is; files are left out.
fn text(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match (&part.text, &part.data) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(data)) => Some(data.to_string()),
        (None, None) => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// A task.
#[derive(Debug, Deserialize)]
pub(super) struct Task {
    pub(super) id: String,
    #[serde(default)]
    status: Status,
    #[serde(default)]
    artifacts: Vec<Artifact>,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    state: String,
    #[serde(default)]
    message: Option<Message>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    #[serde(default)]
    artifact_id: String,
    #[serde(default)]
    parts: Vec<Part>,
}

impl Artifact {
    /// Puts more behind it, and gives what its text grew by. Text that comes right behind text goes on with it: pieces of
    /// a reply end anywhere.
    fn append(&mut self, more: Vec<Part>) -> String {
        let grown = text(&more);
        let is_empty = self.parts.is_empty();
        let mut more = more.into_iter().peekable();
        let goes_on = match (self.parts.last_mut(), more.peek()) {
            (Some(Part { text: Some(last), .. }), Some(Part { text: Some(next), .. })) => {
                last.push_str(next);
                true
            }
            _ => false,
        };
        self.parts.extend(more.skip(usize::from(goes_on)));
        if is_empty || goes_on { grown } else { format!("\n{grown}") }
    }
}

impl Task {
    /// A task of which nothing but its id is known.
    pub(super) fn under_way(id: String) -> Self {
        Self { id, status: Status::default(), artifacts: Vec::new() }
    }

    /// Its state without what is the same for all: `WORKING`.
    pub(super) fn state(&self) -> &str {
        self.status.state.strip_prefix("TASK_STATE_").unwrap_or(&self.status.state)
    }

    /// The text that it has brought.
    pub(super) fn made(&self) -> String {
        let made = self.artifacts.iter().map(|artifact| text(&artifact.parts));
        made.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
    }

    /// Takes what a stream says of it.
    pub(super) fn take(&mut self, update: Update) -> Change {
        if let Some(status) = update.status {
            self.status = status;
        }
        let Some(artifact) = update.artifact else { return Change::Nothing };
        match self.artifacts.last_mut() {
            Some(last) if update.append && last.artifact_id == artifact.artifact_id => {
                Change::Grown(last.append(artifact.parts))
            }
            _ => {
                let before = self.made();
                self.put(artifact, update.append);
                let made = self.made();
                match made.strip_prefix(&before) {
                    Some("") => Change::Nothing,
                    Some(more) => Change::Grown(more.to_owned()),
                    None => Change::Rewritten(made),
                }
            }
        }
    }

    fn put(&mut self, artifact: Artifact, append: bool) {
        match self.artifacts.iter_mut().find(|known| known.artifact_id == artifact.artifact_id) {
            Some(known) if append => drop(known.append(artifact.parts)),
            Some(known) => *known = artifact,
            None => self.artifacts.push(artifact),
        }
    }

    /// How it ended; nothing while it goes on.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        let said = self.status.message.as_ref().map(|message| text(&message.parts)).unwrap_or_default();
        let reason = |what: &str| if said.is_empty() { what.to_owned() } else { said.clone() };
        Some(match self.state() {
            "COMPLETED" => {
                let made = self.made();
                match if made.is_empty() { said } else { made } {
                    reply if reply.is_empty() => Outcome::NoReply,
                    reply => Outcome::Reply(reply),
                }
            }
            // It asks back: that is its answer, and the next message in this context answers it.
            "INPUT_REQUIRED" if !said.is_empty() => Outcome::Reply(said),
            "INPUT_REQUIRED" => Outcome::NoReply,
            "FAILED" => Outcome::Failed(reason("the task failed")),
            "REJECTED" => Outcome::Failed(reason("the task was rejected")),
            "AUTH_REQUIRED" => Outcome::Failed(reason("the task wants more authentication")),
            "CANCELED" => Outcome::Aborted,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(state: &str, artifacts: &Value, said: &str) -> Option<Outcome> {
        let task = json!({
            "id": "t-1", "contextId": "c", "artifacts": artifacts,
            "status": { "state": format!("TASK_STATE_{state}"), "message": { "parts": [{ "text": said }] } },
        });
        serde_json::from_value::<Task>(task).unwrap().outcome()
    }

    #[test]
    fn states_map_onto_ours() {
        let made = json!([{ "parts": [{ "text": "one" }, { "data": { "n": 2 } }] }, { "parts": [{ "url": "x" }] }, { "parts": [{ "text": "three" }] }]);
        let none = json!([]);
        let reply = |text: &str| Some(Outcome::Reply(text.to_owned()));
        for (state, artifacts, said, outcome) in [
            ("COMPLETED", &made, "done", reply("one\n{\"n\":2}\n\nthree")),
            ("COMPLETED", &none, "done", reply("done")),
            ("COMPLETED", &none, "", Some(Outcome::NoReply)),
            ("INPUT_REQUIRED", &none, "which one?", reply("which one?")),
            ("FAILED", &none, "no quota", Some(Outcome::Failed("no quota".to_owned()))),
            ("REJECTED", &none, "", Some(Outcome::Failed("the task was rejected".to_owned()))),
            ("CANCELED", &none, "", Some(Outcome::Aborted)),
            ("WORKING", &made, "half way", None),
            ("SUBMITTED", &none, "", None),
            ("FROM_THE_FUTURE", &none, "", None),
        ] {
            assert_eq!(task(state, artifacts, said), outcome, "{state}");
        }
    }

    #[test]
    fn a_task_grows_by_what_a_stream_says_of_it() {
        let mut task = Task::under_way("t-1".to_owned());
        let mut take = |id: &str, parts: Value, append: bool| {
            let update = json!({ "artifactUpdate": { "taskId": "t-1", "append": append, "artifact": { "artifactId": id, "parts": parts } } });
            let Happening::Update(update) = serde_json::from_value(update).unwrap() else {
                panic!("no update")
            };
            let change = task.take(update);
            (change, task.made())
        };
        let grown = |by: &str, made: &str| (Change::Grown(by.to_owned()), made.to_owned());
        let one = |text: &str| json!([{ "text": text }]);
        assert_eq!(take("a", one("hel"), false), grown("hel", "hel"));
        assert_eq!(take("a", one("lo"), true), grown("lo", "hello"));
        assert_eq!(take("a", json!([{ "data": 1 }, { "text": "x" }]), true), grown("\n1\nx", "hello\n1\nx"));
        assert_eq!(take("b", one("two"), true), grown("\n\ntwo", "hello\n1\nx\n\ntwo"));
        assert_eq!(
            take("a", one("!"), true),
            (Change::Rewritten("hello\n1\nx!\n\ntwo".into()), "hello\n1\nx!\n\ntwo".into())
        );
        assert_eq!(take("b", one("two and more"), false).0, Change::Grown(" and more".into()));
        assert_eq!(take("b", one("two and more"), false).0, Change::Nothing);
        assert_eq!(take("a", one("bye"), false).0, Change::Rewritten("bye\n\ntwo and more".into()));
        let over =
            json!({ "statusUpdate": { "taskId": "t-1", "status": { "state": "TASK_STATE_COMPLETED" } } });
        let Happening::Update(over) = serde_json::from_value(over).unwrap() else { panic!("no update") };
        assert_eq!(task.take(over), Change::Nothing);
        assert_eq!(task.outcome(), Some(Outcome::Reply("bye\n\ntwo and more".to_owned())));
    }
}

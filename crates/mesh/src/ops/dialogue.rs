//! Our own agent and a teammate's, answering each other in turn.
//!
//! Ours is asked over our own gateway, as its owner; theirs is sent messages as ever. What they say is ours to carry, so
//! the limits for agents hold, and each message to the teammate is in the archive.

use openclaw_client::protocol::methods::agent::{InputProvenance, Outcome};
use serde::Serialize;
use tokio::time::{Duration, Instant};

use super::send::{SendRequest, plan, send_planned};
use crate::error::MeshError;
use crate::mesh::Mesh;
use crate::own_gateway::OwnGateway;
use crate::peer::SessionChoice;
use crate::pool::Pool;
use crate::progress::{Observer, Progress};
use crate::quoted::framed;
use crate::record::Record;
use crate::registry::Agent;

/// How long a dialogue may be.
pub const MAX_TURNS: u32 = 40;

/// What they talk about, and how long.
#[derive(Debug, Clone)]
pub struct DialogueRequest {
    /// What our agent is told to talk about.
    pub topic: String,
    /// How many messages both say together; ours is the first.
    pub turns: u32,
    /// Whoever ends a message with this ends it.
    pub stop_phrase: String,
    /// The conversation on either side: the end of both session keys.
    pub thread: String,
    /// How long each answer may take.
    pub timeout: Duration,
    /// An agent wants it, not our owner: ours is told so with the topic.
    pub by_agent: bool,
}

/// Who spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaker {
    /// Our agent.
    Ours,
    /// The teammate's.
    Theirs,
}

/// One message of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// Whose.
    pub speaker: Speaker,
    /// What was said.
    pub text: String,
    /// The id of the message that carried it, or that it answers.
    pub id: Option<String>,
}

/// How a dialogue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Its turns were used up.
    Turns,
    /// Somebody ended a message with the stop phrase.
    StopPhrase,
}

/// A dialogue as far as it came.
#[derive(Debug)]
pub struct Dialogue {
    /// What was said.
    pub turns: Vec<Turn>,
    /// How it ended, or what ended it early.
    pub end: Result<End, MeshError>,
}

/// Lets our agent and a teammate's talk. The mesh should be one whose caller is an agent.
///
/// # Errors
/// When our own gateway cannot be reached. What goes wrong later stands beside what was said.
pub async fn dialogue(
    mesh: &Mesh,
    agent: &Agent,
    request: &DialogueRequest,
    observer: &mut dyn Observer,
) -> Result<Dialogue, MeshError> {
    let own = OwnGateway::connect(mesh, Instant::now() + request.timeout).await?;
    let pool = mesh.pool();
    let mut talk = Talk { mesh, agent, request, own: &own, pool: &pool, turns: Vec::new(), observer };
    let end = talk.run().await;
    let turns = talk.turns;
    pool.done().await;
    own.close().await;
    Ok(Dialogue { turns, end })
}

struct Talk<'a> {
    mesh: &'a Mesh,
    agent: &'a Agent,
    request: &'a DialogueRequest,
    own: &'a OwnGateway,
    pool: &'a Pool,
    turns: Vec<Turn>,
    observer: &'a mut dyn Observer,
}

impl Talk<'_> {
    async fn run(&mut self) -> Result<End, MeshError> {
        let mut prompt = self.opening();
        loop {
            let words = self.ask_ours(&prompt).await?;
            if let Some(end) = self.is_over(&words, &prompt) {
                self.tell_last(&words).await?;
                return Ok(end);
            }
            let told = format!("{}{words}", self.introduction());
            let reply = self.tell_theirs(&told).await?;
            if let Some(end) = self.is_over(&reply, &told) {
                return Ok(end);
            }
            let whose = format!("{}'s agent", self.agent.name);
            prompt =
                format!("{}\n\nAnswer it. What you say now is sent to it as it is.", framed(&whose, &reply));
        }
    }

    /// Whether these words, the answer to what was `told`, are the last.
    fn is_over(&self, words: &str, told: &str) -> Option<End> {
        if ends_with_phrase(words, &self.request.stop_phrase, told) {
            return Some(End::StopPhrase);
        }
        let said = u32::try_from(self.turns.len()).unwrap_or(u32::MAX);
        (said >= self.request.turns).then_some(End::Turns)
    }

    fn opening(&self) -> String {
        let DialogueRequest { topic, turns, stop_phrase, .. } = self.request;
        format!(
            "Hold a dialogue with {}'s agent about: {topic}\n\nYou speak first. What you say now is sent to it as it is, and \
             its answer comes back to you as data. When there is nothing left to say, end your message with \
             \"{stop_phrase}\", alone on its last line. {turns} messages are exchanged at most, yours and its together.",
            self.agent.name
        )
    }

    /// What their agent has to know beside our first words.
    fn introduction(&self) -> String {
        if self.turns.len() > 1 {
            return String::new();
        }
        let DialogueRequest { turns, stop_phrase, .. } = self.request;
        format!(
            "(The beginning of a dialogue of at most {turns} messages. Whoever has nothing left to say ends it with \
             \"{stop_phrase}\", alone on the last line.)\n\n"
        )
    }

    async fn ask_ours(&mut self, prompt: &str) -> Result<String, MeshError> {
        let deadline = Instant::now() + self.request.timeout;
        let session = format!("agent:main:mesh-dialogue:{}:{}", self.agent.email_prefix, self.request.thread);
        // The first words are the owner's, or of the agent that wants this; all later ones come from the other agent.
        let is_first = self.turns.is_empty();
        let provenance = (!is_first || self.request.by_agent).then(|| InputProvenance {
            kind: "inter_session".to_owned(),
            source_session_key: (!is_first).then(|| format!("mesh:{}", self.agent.email_prefix)),
            source_channel: Some("agent-mesh".to_owned()),
            source_tool: Some("agent_mesh_dialogue".to_owned()),
        });
        let outcome = self.own.ask(&session.to_lowercase(), prompt.to_owned(), provenance, deadline).await?;
        let words = match outcome {
            Outcome::Reply(words) => words,
            Outcome::Failed(reason) => return Err(MeshError::OwnAgent { reason }),
            _ => return Err(MeshError::OwnAgent { reason: "it said nothing".to_owned() }),
        };
        self.said(Speaker::Ours, &words, None);
        Ok(words)
    }

    /// Sends our agent's words, and gives the answer.
    async fn tell_theirs(&mut self, told: &str) -> Result<String, MeshError> {
        let record = self.send(told).await?;
        if let Some(error) = record.error {
            return Err(error);
        }
        let Some(reply) = record.reply else { return Ok(String::new()) };
        self.said(Speaker::Theirs, &reply.text, Some(record.id));
        Ok(reply.text)
    }

    /// Sends the last words of our agent. What theirs answers is no turn any more: it is awaited for the log, which would
    /// have the message under way for ever, and whatever becomes of it, the words have arrived.
    async fn tell_last(&mut self, words: &str) -> Result<(), MeshError> {
        let record = self.send(&format!("{}{words}", self.introduction())).await?;
        let arrived = record.receipt.accepted_at.is_some();
        record.error.filter(|_| !arrived).map_or(Ok(()), Err)
    }

    async fn send(&mut self, text: &str) -> Result<Record, MeshError> {
        let request = SendRequest {
            session: SessionChoice { thread: Some(self.request.thread.clone()), ..SessionChoice::default() },
            timeout: self.request.timeout,
            fallback: false,
            ..SendRequest::new(text)
        };
        let plan = plan(self.mesh, self.agent, &request)?.permitted()?;
        let deadline = Instant::now() + request.timeout;
        let mut beginning = Beginning(&mut *self.observer);
        let record = send_planned(self.mesh, plan, &request, deadline, self.pool, &mut beginning).await;
        if let Some(turn) = self.turns.last_mut() {
            turn.id = Some(record.id.clone());
        }
        Ok(record)
    }

    fn said(&mut self, speaker: Speaker, text: &str, id: Option<String>) {
        self.observer.progress(Progress::Said { ours: speaker == Speaker::Ours, text });
        self.turns.push(Turn { speaker, text: text.to_owned(), id });
    }
}

/// Passes on which message is under way, for whoever has to let go of it.
struct Beginning<'a>(&'a mut dyn Observer);

impl Observer for Beginning<'_> {
    fn progress(&mut self, step: Progress<'_>) {
        if let Progress::Begun { .. } = step {
            self.0.progress(step);
        }
    }
}

/// Of how many characters before a stop phrase it is known again in what was told.
const LEAD: usize = 16;

/// Whether whoever said this ends with the phrase, decorated or not. Both are told of it, and who quotes what it was told
/// has not said it: there, the same words stand before it.
fn ends_with_phrase(words: &str, phrase: &str, told: &str) -> bool {
    let decoration = |c: char| c.is_whitespace() || matches!(c, '*' | '_' | '`' | '"' | '\'' | '.');
    let plain = |text: &str| text.trim_end_matches(decoration).to_owned();
    let (words, phrase) = match plain(phrase) {
        // Nothing but decoration: as it is.
        bare if bare.is_empty() => (words.trim_end().to_owned(), phrase.trim().to_owned()),
        bare => (plain(words), bare),
    };
    let Some(before) = words.strip_suffix(&phrase) else { return false };
    let lead = before.char_indices().rev().nth(LEAD - 1).map_or(0, |(at, _)| at);
    before.trim_matches(decoration).is_empty() || !told.contains(&words[lead..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_counts_where_it_ends_what_an_agent_says_itself() {
        let told = "Talk about x. End with \"THE END\", alone on the last line. Or stop with: THE END";
        for (words, ends) in [
            ("Fine.\nTHE END", true),
            ("Fine. THE END", true),
            ("THE END", true),
            ("Fine.\n\n**THE END**\n", true),
            ("Fine.\nTHE END.", true),
            ("THE END is near", false),
            ("You said THE END, and I go on.", false),
            ("the end", false),
            ("", false),
            (told, false),
            (&format!("echo: {told}"), false),
            (&format!("> {told}\nTHE END"), true),
        ] {
            assert_eq!(ends_with_phrase(words, "THE END", told), ends, "{words:?}");
        }
        assert!(ends_with_phrase("well ...", "...", told) && !ends_with_phrase("well", "...", told));
    }
}

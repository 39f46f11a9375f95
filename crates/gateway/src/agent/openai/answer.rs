//! What the events of a Chat Completions stream mean, and what a server says when it refuses.

use serde::Deserialize;
use serde_json::Value;

use crate::agent::AgentFailure;

/// Longest kind of an error that is shown.
const MAX_KIND: usize = 64;

/// An answer, as far as it has come.
#[derive(Debug)]
pub(super) struct Answer {
    text: String,
    over: bool,
    withheld: bool,
    max: usize,
}

/// One `data`, or a whole answer in place of a stream: both have the same fields under other names.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default, alias = "message")]
    delta: Option<Delta>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
}

impl Answer {
    /// An answer of at most so many bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { text: String::new(), over: false, withheld: false, max }
    }

    /// Takes the data of one event; gives what it adds to the text.
    pub(super) fn take(&mut self, data: &str) -> Result<String, AgentFailure> {
        if data.trim() == "[DONE]" {
            self.over = true;
            return Ok(String::new());
        }
        let chunk: Chunk = serde_json::from_str(data)
            .map_err(|_| AgentFailure::failed("the model's server sent something that is no answer"))?;
        if let Some(error) = chunk.error {
            let kind = kind(&error).map(|kind| format!(" ({kind})")).unwrap_or_default();
            return Err(AgentFailure::failed(format!("the model's server broke off with an error{kind}")));
        }
        // We ask for one choice. The last event of some servers has none: it tells what it cost.
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(String::new()) };
        if let Some(reason) = choice.finish_reason {
            self.over = true;
            self.withheld = reason == "content_filter";
        }
        let piece = choice.delta.and_then(|delta| delta.content).unwrap_or_default();
        if self.text.len() + piece.len() > self.max {
            return Err(AgentFailure::failed(format!("the model wrote more than {} bytes", self.max)));
        }
        self.text.push_str(&piece);
        Ok(piece)
    }

    /// The whole text. An answer that nobody ended is none: half a sentence can say the opposite of the whole.
    pub(super) fn finish(self) -> Result<String, AgentFailure> {
        match self {
            Self { over: false, .. } => Err(AgentFailure::failed("the model's answer broke off")),
            Self { withheld: true, .. } => {
                Err(AgentFailure::failed("the model's server withheld the answer (content_filter)"))
            }
            Self { text, .. } => Ok(text),
        }
    }
}

/// The kind of an error, such as `invalid_api_key`. Its words are left out: they quote the key, or the conversation.
pub(super) fn kind(error: &Value) -> Option<&str> {
    let is_word = |text: &&str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        (1..=MAX_KIND).contains(&text.len()) && text.chars().all(plain)
    };
    let named = ["code", "type"].into_iter().filter_map(|name| error.get(name)?.as_str());
    named.filter(is_word).find(|word| !word.starts_with("sk"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(events: &[&str]) -> Result<String, AgentFailure> {
        let mut answer = Answer::new(20);
        for event in events {
            answer.take(event)?;
        }
        answer.finish()
    }

    const HELLO: &str = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"hel"}}]}"#;
    const REST: &str = r#"{"choices":[{"delta":{"content":"lo"},"finish_reason":null}]}"#;
    const STOP: &str = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;

    #[test]
    fn an_answer_is_put_together_until_somebody_ends_it() {
        assert_eq!(read(&[HELLO, REST, STOP, "[DONE]"]).unwrap(), "hello");
        assert_eq!(read(&[HELLO, REST, "[DONE]"]).unwrap(), "hello");
        assert_eq!(read(&[HELLO, STOP, r#"{"choices":[],"usage":{"total_tokens":3}}"#]).unwrap(), "hel");
        let whole = r#"{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}"#;
        assert_eq!(read(&[whole]).unwrap(), "hi");
        let tool = r#"{"choices":[{"delta":{"content":null,"tool_calls":[]},"finish_reason":"tool_calls"}]}"#;
        assert_eq!(read(&[tool]).unwrap(), "");
    }

    #[test]
    fn what_is_no_whole_answer_is_a_failure_in_words_of_ours() {
        let words = |events: &[&str]| read(events).unwrap_err().to_string();
        assert_eq!(words(&[HELLO]), "the model's answer broke off");
        assert_eq!(words(&["<html>"]), "the model's server sent something that is no answer");
        let filtered = r#"{"choices":[{"finish_reason":"content_filter"}]}"#;
        assert_eq!(words(&[HELLO, filtered]), "the model's server withheld the answer (content_filter)");
        assert_eq!(words(&[HELLO; 8]), "the model wrote more than 20 bytes");
        let error = r#"{"error":{"message":"you sent: my secret","type":"server_error","code":null}}"#;
        assert_eq!(words(&[HELLO, error]), "the model's server broke off with an error (server_error)");
        assert_eq!(words(&[r#"{"error":"no"}"#]), "the model's server broke off with an error");
    }

    #[test]
    fn an_error_is_named_by_a_word_and_never_by_its_text() {
        assert_eq!(kind(&json!({ "code": "invalid_api_key", "type": "x" })), Some("invalid_api_key"));
        assert_eq!(kind(&json!({ "code": 7, "type": "rate_limit" })), Some("rate_limit"));
        for error in [json!({ "code": "Incorrect key: sk-123" }), json!({ "type": "sk_live_1" }), json!("x")]
        {
            assert_eq!(kind(&error), None, "{error}");
        }
    }
}

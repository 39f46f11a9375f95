//! What several sources say, and what that makes of the registry.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem;

use serde::Serialize;
use serde_json::{Map, Value};

use super::Answer;
use crate::registry::{Agent, Registry};

/// What a sync does to the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Who is new.
    pub added: Vec<Who>,
    /// Who came from a source that no longer lists them.
    pub removed: Vec<Who>,
    /// Whose entry is different now.
    pub changed: Vec<Changed>,
    /// Whose hand-made entry says something else than the sources, and stays.
    pub kept: Vec<Changed>,
}

/// A teammate, and the source of the entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Who {
    /// The name.
    pub name: String,
    /// The key.
    pub email_prefix: String,
    /// Where the entry comes, or came, from.
    pub source: String,
}

/// A teammate, and which fields differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// The name.
    pub name: String,
    /// The key.
    pub email_prefix: String,
    /// The fields that differ.
    pub fields: BTreeMap<String, Difference>,
}

/// A field that differs; null where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What the registry says.
    pub old: Value,
    /// What the sources say.
    pub new: Value,
}

impl Changes {
    /// Whether the registry is different afterwards.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.added.is_empty() || !self.removed.is_empty() || !self.changed.is_empty()
    }
}

/// Applies what all sources of a run answered, in their declared order.
///
/// An entry with a `source` is the source's: where and who follows it, and the entry goes when no source of the run lists
/// it, if its own was among them. An entry without is the user's: it stays as it is, or with `prefer_source` takes over
/// what the sources say, and is never removed.
pub(crate) fn merge(registry: &mut Registry, answers: Vec<Answer>, prefer_source: bool) -> Changes {
    let asked: HashSet<String> = answers.iter().map(|answer| answer.mark.clone()).collect();
    let mut listed = combine(answers);
    let mut changes = Changes::default();
    let mut agents = Vec::with_capacity(registry.agents.len());
    for current in mem::take(&mut registry.agents) {
        let known = listed.by_prefix.remove(&current.email_prefix.to_lowercase());
        let theirs = known.and_then(|index| listed.agents[index].take());
        agents.extend(settle(current, theirs, &asked, prefer_source, &mut changes));
    }
    for agent in listed.agents.into_iter().flatten() {
        changes.added.push(who(&agent));
        agents.push(agent);
    }
    registry.agents = agents;
    changes
}

/// What becomes of an entry of the registry; nothing, when it is removed.
fn settle(
    current: Agent,
    theirs: Option<Agent>,
    asked: &HashSet<String>,
    prefer_source: bool,
    changes: &mut Changes,
) -> Option<Agent> {
    let Some(theirs) = theirs else {
        if current.source.as_ref().is_some_and(|mark| asked.contains(mark)) {
            changes.removed.push(who(&current));
            return None;
        }
        return Some(current);
    };
    let owned = current.source.is_some();
    let new = overlay(&current, theirs, owned);
    if new == current {
        return Some(current);
    }
    let changed = Changed {
        name: new.name.clone(),
        email_prefix: new.email_prefix.clone(),
        fields: differences(&current, &new),
    };
    if owned || prefer_source {
        changes.changed.push(changed);
        return Some(new);
    }
    changes.kept.push(changed);
    Some(current)
}

/// Everybody the sources list, once, in order of first mention.
struct Listed {
    agents: Vec<Option<Agent>>,
    by_prefix: HashMap<String, usize>,
}

/// Each field comes from the first source that has it; url, ip and hostname go together, because one of them wins over
/// the others and a mixture would lead to a place that no source named.
fn combine(answers: Vec<Answer>) -> Listed {
    let mut listed = Listed { agents: Vec::new(), by_prefix: HashMap::new() };
    for Answer { mark, agents } in answers {
        for mut agent in agents {
            let prefix = agent.email_prefix.to_lowercase();
            match listed.by_prefix.get(&prefix).and_then(|index| listed.agents.get_mut(*index)) {
                Some(Some(first)) => fill(first, agent),
                _ => {
                    agent.source = Some(mark.clone());
                    listed.by_prefix.insert(prefix, listed.agents.len());
                    listed.agents.push(Some(agent));
                }
            }
        }
    }
    listed
}

/// Gives `first` what only `later` knows.
fn fill(first: &mut Agent, later: Agent) {
    // Where only a host's name was known it stands for the teammate's, until somebody knows better.
    if first.name == first.email_prefix {
        first.name = later.name;
    }
    if !has_address(first) {
        first.url = later.url;
        first.ip = later.ip;
        first.hostname = later.hostname;
        first.port = later.port;
    }
    if first.nickname().is_none() {
        first.nickname = later.nickname;
        first.red_name = later.red_name;
    }
    if first.tags.is_empty() {
        first.tags = later.tags;
    }
    first.a2a_url = first.a2a_url.take().or(later.a2a_url);
    fill_rest(first, later.note, later.agent, later.session, later.via);
    first.tls_fingerprint = first.tls_fingerprint.take().or(later.tls_fingerprint);
    first.device_id = first.device_id.take().or(later.device_id);
    for (key, value) in later.extra {
        first.extra.entry(key).or_insert(value);
    }
}

fn fill_rest(
    agent: &mut Agent,
    note: Option<String>,
    which: Option<String>,
    session: Option<String>,
    via: Option<crate::registry::Via>,
) {
    agent.note = agent.note.take().or(note);
    agent.agent = agent.agent.take().or(which);
    agent.session = agent.session.take().or(session);
    agent.via = agent.via.or(via);
}

fn has_address(agent: &Agent) -> bool {
    let given = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.trim().is_empty());
    given(&agent.url) || given(&agent.ip) || given(&agent.hostname)
}

/// The entry with what the sources say of it.
///
/// Of an entry that is theirs, the address follows them also to nowhere: an old one may be somebody else's by now. What
/// they do not speak of stays, above all a pin, which nobody takes away by leaving it out.
fn overlay(current: &Agent, theirs: Agent, owned: bool) -> Agent {
    let mut new = theirs;
    let mut ours = current.clone();
    if owned {
        (ours.url, ours.ip, ours.hostname, ours.port, ours.a2a_url) = (None, None, None, None, None);
    } else {
        new.source = None;
    }
    // Blank as an unknown ip stands in the files of the bash skill, not as a difference.
    if !has_address(&new) && !has_address(current) {
        (ours.url, ours.ip, ours.hostname, ours.port) =
            (current.url.clone(), current.ip.clone(), current.hostname.clone(), current.port);
    }
    fill(&mut new, ours);
    // The key's case is the user's; and so is a token that stands where it should not.
    new.email_prefix = current.email_prefix.clone();
    new.token = current.token.clone();
    new
}

fn who(agent: &Agent) -> Who {
    Who {
        name: agent.name.clone(),
        email_prefix: agent.email_prefix.clone(),
        source: agent.source.clone().unwrap_or_default(),
    }
}

fn differences(old: &Agent, new: &Agent) -> BTreeMap<String, Difference> {
    let (mut old, mut new) = (fields(old), fields(new));
    let keys: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    let pairs = keys.into_iter().map(|key| {
        let difference = Difference {
            old: old.remove(&key).unwrap_or_default(),
            new: new.remove(&key).unwrap_or_default(),
        };
        (key, difference)
    });
    pairs.filter(|(_, difference)| difference.old != difference.new).collect()
}

fn fields(agent: &Agent) -> Map<String, Value> {
    // An entry came from JSON, so it becomes JSON again.
    match serde_json::to_value(agent) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests;

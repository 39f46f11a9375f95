//! Guards against agents that talk each other, and their owners' money, into ruin.
//!
//! Two of them look at the *chain* a message continues, which its header carries: it may be passed on only so often, and
//! never to somebody who had a part in it. The others *count* what was said, in the archive, in the same transaction that
//! writes the message: several processes cannot slip under a limit together (`archive/ledger.rs`).
//!
//! An agent and a person are counted apart. An agent is whoever runs in an agent's shell, continues a chain, or comes
//! through MCP; everybody else is a person or a script of one. A person notices a loop and pays for it, so what nobody has
//! set is [`PEOPLE`] times as much for a person, who may also repeat a text: a script that greets a peer every minute is no
//! loop. What somebody did set holds for everybody: who says 2 means 2. A broadcast
//! counts once for each peer and once, not once a peer, in the sum over all: it is one decision to speak, and a team may be
//! large. A loop of broadcasts ends at the limit of each peer.

use std::time::Duration;

use jiff::Timestamp;
use openclaw_client::protocol::attribution::Chain;

use crate::record::To;
use crate::registry::Agent;

/// How many times as much a person may say as an agent, where nobody has set a limit: enough for a load test, and an end
/// for a script that has gone mad.
pub const PEOPLE: u32 = 1_000;

/// The longest window in which texts are compared: what was said is kept for so long.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

/// How far and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How often a message may be passed on.
    pub max_hops: u32,
    /// How many messages to one peer in an hour.
    pub peer_per_hour: u32,
    /// How many messages to all peers in an hour.
    pub total_per_hour: u32,
    /// How many messages into one session of a peer in a day.
    pub thread_per_day: u32,
    /// How often in an hour one peer may be tried in vain, since something last left for it.
    pub unreachable_per_hour: u32,
    /// For how long an agent may not say the same to the same peer again.
    pub repeat_window: Duration,
}

impl Default for Rules {
    /// One message a minute to a peer is more than two agents that get somewhere need; 100 turns a day end a slow loop of
    /// two at a few dollars, where one of three ran up 398 in a night.
    fn default() -> Self {
        Self {
            max_hops: 4,
            peer_per_hour: 60,
            total_per_hour: 240,
            thread_per_day: 100,
            unreachable_per_hour: 20,
            repeat_window: Duration::from_secs(600),
        }
    }
}

/// Whose words a message is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// A person, or a script of one.
    Person,
    /// An agent.
    Agent,
}

impl Speaker {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Agent, Self::Person];

    /// Its name in text and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Agent => "agent",
        }
    }
}

impl Rules {
    /// The same rules, with as much as this speaker may say.
    #[must_use]
    pub fn for_speaker(self, speaker: Speaker) -> Self {
        if speaker == Speaker::Agent {
            return self;
        }
        let default = Self::default();
        let wide = |set: u32, default: u32| if set == default { set.saturating_mul(PEOPLE) } else { set };
        Self {
            peer_per_hour: wide(self.peer_per_hour, default.peer_per_hour),
            total_per_hour: wide(self.total_per_hour, default.total_per_hour),
            thread_per_day: wide(self.thread_per_day, default.thread_per_day),
            unreachable_per_hour: wide(self.unreachable_per_hour, default.unreachable_per_hour),
            ..self
        }
    }

    /// For how long this speaker may not say the same to the same peer again, if that is so.
    pub(crate) fn repeat_window_of(&self, speaker: Speaker) -> Option<Duration> {
        let unset = self.repeat_window == Self::default().repeat_window;
        (speaker == Speaker::Agent || !unset).then_some(self.repeat_window)
    }
}

/// Who makes us speak, as far as we are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// An agent, whatever else is known of it.
    pub agent: bool,
    /// The kind of agent's shell that we run in.
    pub shell: Option<String>,
    /// The chain of messages that we were called in.
    pub chain: Option<Chain>,
}

impl Caller {
    /// Whether an agent speaks. One who only continues a chain is taken for one, too.
    #[must_use]
    pub fn speaker(&self) -> Speaker {
        let agent = self.agent || self.shell.is_some() || self.chain.is_some();
        if agent { Speaker::Agent } else { Speaker::Person }
    }

    /// The same caller, answering a message. Of two chains the longer one counts: naming an old message does not take
    /// anybody out of the chain it was called in.
    #[must_use]
    pub fn answering(&self, chain: Option<&Chain>) -> Self {
        let chain = chain.filter(|new| self.chain.as_ref().is_none_or(|old| old.hops <= new.hops));
        Self { chain: chain.or(self.chain.as_ref()).cloned(), ..self.clone() }
    }

    /// Whether what we were called for may be passed on at all.
    ///
    /// # Errors
    /// [`Refusal::TooFar`].
    pub(crate) fn may_pass_on(&self, rules: &Rules) -> Result<(), Refusal> {
        match &self.chain {
            Some(chain) if chain.hops >= rules.max_hops => {
                Err(Refusal::TooFar { hops: chain.hops, max: rules.max_hops })
            }
            _ => Ok(()),
        }
    }

    /// Whether somebody in the chain is known by his device alone.
    pub(crate) fn names_devices(&self) -> bool {
        self.chain.iter().flat_map(|chain| &chain.visited).any(|name| name.starts_with("dev-"))
    }

    /// Whether it may be passed on to this teammate, who has these devices as far as we know.
    ///
    /// # Errors
    /// [`Refusal::Visited`].
    pub(crate) fn may_go_to(&self, agent: &Agent, devices: &[String]) -> Result<(), Refusal> {
        let Some(chain) = &self.chain else { return Ok(()) };
        let is_theirs = |name: &String| {
            name.eq_ignore_ascii_case(&agent.email_prefix) || devices.iter().any(|id| short_name(id) == *name)
        };
        if chain.visited.iter().any(is_theirs) {
            return Err(Refusal::Visited { to: To::from(agent), visited: chain.visited.clone() });
        }
        Ok(())
    }
}

/// The name that a device goes by where nobody is identified.
pub(crate) fn short_name(device_id: &str) -> String {
    format!("dev-{}", device_id.get(..12).unwrap_or(device_id))
}

/// What there may be only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Messages to one peer in an hour.
    PeerPerHour,
    /// Messages to all peers in an hour.
    TotalPerHour,
    /// Messages into one session in a day.
    ThreadPerDay,
    /// Messages to one peer in an hour that did not leave because it could not be reached, since one last did.
    UnreachablePerHour,
}

impl Measure {
    /// How far back it counts.
    #[must_use]
    pub fn window(self) -> Duration {
        match self {
            Self::PeerPerHour | Self::TotalPerHour | Self::UnreachablePerHour => Duration::from_secs(60 * 60),
            Self::ThreadPerDay => Duration::from_secs(24 * 60 * 60),
        }
    }

    /// What it counts, in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::PeerPerHour => "messages to one teammate in an hour",
            Self::TotalPerHour => "messages to all teammates in an hour",
            Self::ThreadPerDay => "messages in one conversation in a day",
            Self::UnreachablePerHour => "tries in an hour to reach one teammate in vain",
        }
    }

    /// The setting that bounds it.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::PeerPerHour => "peer-per-hour",
            Self::TotalPerHour => "total-per-hour",
            Self::ThreadPerDay => "thread-per-day",
            Self::UnreachablePerHour => "unreachable-per-hour",
        }
    }
}

/// Why a guard let a message not go. It was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The message that we were called for was passed on too often.
    #[error("this was passed on {hops} times before, and {max} are allowed")]
    TooFar {
        /// How often it was passed on before.
        hops: u32,
        /// How often it may be.
        max: u32,
    },
    /// The recipient had a part in what we were called for.
    #[error("{} had a part in this already ({})", to.name, visited.join(" → "))]
    Visited {
        /// The recipient.
        to: To,
        /// The chain so far.
        visited: Vec<String>,
    },
    /// There was enough of it.
    #[error("not sent to {}: {limit} {} are allowed{}", to.name, measure.words(), until(*free_at))]
    Limit {
        /// The recipient.
        to: To,
        /// Of what.
        measure: Measure,
        /// How much of it may be.
        limit: u32,
        /// When the next one may be sent.
        free_at: Timestamp,
    },
    /// The same text went to the same peer a moment ago.
    #[error("the same text went to {} {} s ago", to.name, ago.as_secs())]
    Repeated {
        /// The recipient.
        to: To,
        /// How long ago.
        ago: Duration,
        /// The message that said it.
        id: String,
    },
    /// An agent may not hide that it speaks.
    #[error("a message without a header is for people: this runs for an agent")]
    Nameless,
    /// Something that only the owner may do.
    #[error("only a person may do this: this runs for an agent")]
    OwnersOnly,
}

fn until(free_at: Timestamp) -> String {
    format!(", the next one at {}", free_at.strftime("%Y-%m-%dT%H:%M:%SZ"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(hops: u32, visited: &[&str]) -> Chain {
        Chain { id: "id".into(), hops, visited: visited.iter().map(|&name| name.to_owned()).collect() }
    }

    fn called_in(chain: Chain) -> Caller {
        Caller { chain: Some(chain), ..Caller::default() }
    }

    #[test]
    fn a_chain_ends_at_its_last_hop_and_before_whoever_was_in_it() {
        let rules = Rules { max_hops: 2, ..Rules::default() };
        for (hops, ends) in [(0, false), (1, false), (2, true), (9, true)] {
            assert_eq!(called_in(chain(hops, &["alice"])).may_pass_on(&rules).is_err(), ends, "{hops}");
        }
        let caller = called_in(chain(1, &["alice", "Bob"]));
        assert!(caller.may_go_to(&Agent::new("Bob", "bob"), &[]).is_err());
        assert!(caller.may_go_to(&Agent::new("Carol", "carol"), &[]).is_ok());
        assert!(Caller::default().may_go_to(&Agent::new("Bob", "bob"), &[]).is_ok());
    }

    #[test]
    fn who_is_in_a_chain_by_his_device_alone_is_in_it() {
        let (hers, other) = ("0123456789abcdef".repeat(4), "f".repeat(64));
        let caller = called_in(chain(0, &["dev-0123456789ab"]));
        assert!(caller.names_devices() && !called_in(chain(0, &["bob"])).names_devices());
        assert!(caller.may_go_to(&Agent::new("Alice", "alice"), &[other.clone(), hers]).is_err());
        assert!(caller.may_go_to(&Agent::new("Bob", "bob"), &[other]).is_ok());
    }

    #[test]
    fn an_older_message_does_not_shorten_the_chain() {
        let caller = called_in(chain(2, &["a", "b", "c"]));
        assert_eq!(caller.answering(Some(&chain(0, &["x"]))), caller);
        assert_eq!(caller.answering(Some(&chain(3, &["x"]))).chain.unwrap().hops, 3);
        assert_eq!(Caller::default().answering(Some(&chain(0, &["x"]))).speaker(), Speaker::Agent);
        assert_eq!(Caller::default().speaker(), Speaker::Person);
    }
}

//! What one peer may do, and how what is said of it at several places comes together.

use serde::Deserialize;

/// What a peer may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Whether its messages run.
    pub mode: Mode,
    /// The agents that it may talk to.
    pub agents: Names,
    /// The sessions that it may talk in, as it names them: without `agent:<agent>:`.
    pub sessions: Names,
    /// The longest message, in bytes.
    pub message_bytes: usize,
    /// Requests of all its connections together.
    pub requests_per_minute: u32,
    /// Runs that are not over, the waiting ones among them; not those that are held.
    pub concurrent_runs: u32,
    /// Runs of one day of UTC.
    pub runs_per_day: u32,
    /// What the agent may do in its turns, in the words of OpenClaw's `permissionMode`.
    pub permission_mode: String,
    /// Whether it sees a reply while it is written.
    pub stream: bool,
}

impl Default for Rules {
    fn default() -> Self {
        RuleSet::default().complete()
    }
}

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It runs.
    Allow,
    /// It is held until the owner says yes.
    Approve,
    /// Its sender does not even come in.
    Deny,
}

/// Names, or the beginnings of names with a `*` at their end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Names(Vec<String>);

impl Names {
    /// Every name.
    #[must_use]
    pub fn all() -> Self {
        Self(vec!["*".to_owned()])
    }

    /// Whether a name is one of them. Names are in lower case, as session keys are.
    #[must_use]
    pub fn allow(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| {
            let pattern = pattern.to_lowercase();
            pattern.strip_suffix('*').map_or(pattern == name, |beginning| name.starts_with(beginning))
        })
    }
}

/// Rules of which any may be left open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RuleSet {
    pub(super) mode: Option<Mode>,
    agents: Option<Names>,
    sessions: Option<Names>,
    message_bytes: Option<usize>,
    requests_per_minute: Option<u32>,
    concurrent_runs: Option<u32>,
    runs_per_day: Option<u32>,
    permission_mode: Option<String>,
    stream: Option<bool>,
}

impl RuleSet {
    /// What is open here is as it is there.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            mode: self.mode.or(other.mode),
            agents: self.agents.or(other.agents),
            sessions: self.sessions.or(other.sessions),
            message_bytes: self.message_bytes.or(other.message_bytes),
            requests_per_minute: self.requests_per_minute.or(other.requests_per_minute),
            concurrent_runs: self.concurrent_runs.or(other.concurrent_runs),
            runs_per_day: self.runs_per_day.or(other.runs_per_day),
            permission_mode: self.permission_mode.or(other.permission_mode),
            stream: self.stream.or(other.stream),
        }
    }

    /// Key by key the stricter of the two.
    pub(super) fn stricter(self, other: Self) -> Self {
        Self {
            mode: both(self.mode, other.mode, Mode::max),
            agents: both(self.agents, other.agents, |a, b| common(&a, &b)),
            sessions: both(self.sessions, other.sessions, |a, b| common(&a, &b)),
            message_bytes: both(self.message_bytes, other.message_bytes, usize::min),
            requests_per_minute: both(self.requests_per_minute, other.requests_per_minute, u32::min),
            concurrent_runs: both(self.concurrent_runs, other.concurrent_runs, u32::min),
            runs_per_day: both(self.runs_per_day, other.runs_per_day, u32::min),
            permission_mode: both(self.permission_mode, other.permission_mode, |a, b| safer(a, &b)),
            stream: both(self.stream, other.stream, |a, b| a && b),
        }
    }

    /// With the defaults for what is open.
    pub(super) fn complete(self) -> Rules {
        Rules {
            mode: self.mode.unwrap_or(Mode::Allow),
            agents: self.agents.unwrap_or_else(Names::all),
            sessions: self.sessions.unwrap_or_else(Names::all),
            message_bytes: self.message_bytes.unwrap_or(64 * 1024),
            requests_per_minute: self.requests_per_minute.unwrap_or(600),
            concurrent_runs: self.concurrent_runs.unwrap_or(16),
            runs_per_day: self.runs_per_day.unwrap_or(1000),
            permission_mode: self.permission_mode.unwrap_or_else(|| READ_ONLY.to_owned()),
            stream: self.stream.unwrap_or(true),
        }
    }
}

/// The permission mode of peers, if nobody says otherwise.
const READ_ONLY: &str = "read-only";

fn both<T>(a: Option<T>, b: Option<T>, choose: impl FnOnce(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(choose(a, b)),
        (a, b) => a.or(b),
    }
}

/// The patterns of each that the other one allows as well.
fn common(a: &Names, b: &Names) -> Names {
    let kept = |mine: &Names, other: &Names| {
        let kept = mine.0.iter().filter(|pattern| other.allow(&pattern.to_lowercase()));
        kept.cloned().collect::<Vec<_>>()
    };
    let mut names = kept(a, b);
    names.extend(kept(b, a));
    names.dedup();
    Names(names)
}

/// The names of OpenClaw's permission modes are OpenClaw's: of two that differ, only one is known to be harmless.
fn safer(a: String, b: &str) -> String {
    if a == b { a } else { READ_ONLY.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(patterns: &[&str]) -> Names {
        Names(patterns.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_star_stands_for_any_end_and_for_nothing_else() {
        let patterns = names(&["main", "Deploy:*"]);
        for (name, allowed) in
            [("main", true), ("main:x", false), ("deploy:", true), ("deploy:prod", true), ("deploy", false)]
        {
            assert_eq!(patterns.allow(name), allowed, "{name}");
        }
        assert!(Names::all().allow("anything") && !names(&[]).allow("anything"));
        assert!(!names(&["a*b"]).allow("axb"), "a star in the middle is a letter");
    }

    #[test]
    fn what_two_lists_have_in_common_is_allowed_by_both() {
        let both = common(&names(&["*"]), &names(&["main", "deploy:*"]));
        assert!(both.allow("main") && both.allow("deploy:x") && !both.allow("other"));
        let narrow = common(&names(&["deploy:*"]), &names(&["deploy:prod", "main"]));
        assert!(narrow.allow("deploy:prod") && !narrow.allow("deploy:x") && !narrow.allow("main"));
        assert!(!common(&names(&["a"]), &names(&["b"])).allow("a"));
    }

    #[test]
    fn of_two_permission_modes_that_differ_the_harmless_one_holds() {
        let of = |mode: &str| RuleSet { permission_mode: Some(mode.into()), ..RuleSet::default() };
        assert_eq!(of("full").stricter(of("full")).complete().permission_mode, "full");
        assert_eq!(of("full").stricter(of("ask")).complete().permission_mode, "read-only");
        assert_eq!(of("full").stricter(RuleSet::default()).complete().permission_mode, "full");
    }
}

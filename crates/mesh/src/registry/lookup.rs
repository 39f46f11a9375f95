//! From what a user typed after `--to` to one teammate, or to an error that helps; never to a guess.

use std::fmt;

use serde::Serialize;

use super::{Agent, Registry};

/// How many near names an [`LookupError::Unknown`] carries at most.
const NEAR: usize = 3;

/// A teammate the user may have meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The name people see.
    pub name: String,
    /// The e-mail prefix, which is never ambiguous.
    pub email_prefix: String,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.email_prefix)
    }
}

impl From<&Agent> for Candidate {
    fn from(agent: &Agent) -> Self {
        Self { name: agent.name.clone(), email_prefix: agent.email_prefix.clone() }
    }
}

/// Why a query names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// It fits more than one teammate equally well.
    #[error("{query:?} may be {}", list(candidates))]
    Ambiguous {
        /// What was asked for.
        query: String,
        /// All it fits, in registry order.
        candidates: Vec<Candidate>,
    },
    /// It fits nobody.
    #[error("no teammate is called {query:?}")]
    Unknown {
        /// What was asked for.
        query: String,
        /// Up to three teammates with a similar name, closest first.
        near: Vec<Candidate>,
    },
}

impl Registry {
    /// The teammate with exactly this e-mail prefix, whatever its case.
    #[must_use]
    pub fn by_prefix(&self, email_prefix: &str) -> Option<&Agent> {
        self.agents.iter().find(|agent| agent.email_prefix.eq_ignore_ascii_case(email_prefix))
    }

    /// Finds the teammate a query means: by exact e-mail prefix, exact name or nickname, e-mail address, unique prefix,
    /// unique substring, in this order and whatever the case.
    ///
    /// # Errors
    /// [`LookupError`] when the first of these rules that fits anybody fits several, or none fits anybody.
    pub fn find(&self, query: &str) -> Result<&Agent, LookupError> {
        let wanted = query.trim().to_lowercase();
        let rules: [fn(&Agent, &str) -> bool; 5] = [
            |agent, wanted| agent.email_prefix.to_lowercase() == wanted,
            |agent, wanted| names(agent).any(|name| name == wanted),
            |agent, wanted| {
                wanted.split_once('@').is_some_and(|(local, _)| agent.email_prefix.to_lowercase() == local)
            },
            |agent, wanted| names(agent).any(|name| name.starts_with(wanted)),
            |agent, wanted| names(agent).any(|name| name.contains(wanted)),
        ];
        // An address elsewhere is somebody else's, whatever stands before its @.
        if wanted.is_empty() || self.is_elsewhere(&wanted) {
            return Err(LookupError::Unknown { query: query.into(), near: self.near(&wanted) });
        }
        for fits in rules {
            let found: Vec<&Agent> = self.agents.iter().filter(|agent| fits(agent, &wanted)).collect();
            match found.as_slice() {
                [] => {}
                [agent] => return Ok(agent),
                several => {
                    let candidates = several.iter().map(|agent| Candidate::from(*agent)).collect();
                    return Err(LookupError::Ambiguous { query: query.into(), candidates });
                }
            }
        }
        Err(LookupError::Unknown { query: query.into(), near: self.near(&wanted) })
    }

    /// Whether this is an e-mail address of another domain than the team's.
    fn is_elsewhere(&self, wanted: &str) -> bool {
        let Some((_, domain)) = wanted.split_once('@') else { return false };
        let mut ours = self.email_domains.iter();
        !self.email_domains.is_empty() && !ours.any(|ours| ours.eq_ignore_ascii_case(domain))
    }

    /// The teammates with a name that a typing mistake or two could have turned into `wanted`.
    fn near(&self, wanted: &str) -> Vec<Candidate> {
        let wanted = wanted.split_once('@').map_or(wanted, |(local, _)| local);
        let length = wanted.chars().count();
        let tolerated = (1 + length / 3).min(length.saturating_sub(1));
        let distance = |agent: &Agent| names(agent).map(|name| edit_distance(&name, wanted)).min();
        let mut near: Vec<(usize, &Agent)> = self
            .agents
            .iter()
            .filter_map(|agent| Some((distance(agent)?, agent)))
            .filter(|(distance, _)| *distance <= tolerated)
            .collect();
        near.sort_by_key(|(distance, _)| *distance);
        near.into_iter().take(NEAR).map(|(_, agent)| agent.into()).collect()
    }
}

/// All names of a teammate, in lower case.
fn names(agent: &Agent) -> impl Iterator<Item = String> {
    let name = Some(agent.name.as_str());
    let all = [Some(agent.email_prefix.as_str()), name, agent.nickname.as_deref(), agent.red_name.as_deref()];
    all.into_iter().flatten().map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty())
}

/// Levenshtein's distance, in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn list(candidates: &[Candidate]) -> String {
    candidates.iter().map(Candidate::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team() -> Registry {
        let agents = [
            ("Alice", "alice", Some("戴泽")),
            ("Bob", "bob", Some("Bobby")),
            ("Bobette", "rob", None),
            ("Anna", "anna", Some("那笙")),
            ("Dan", "dan", Some("🦀 crab")),
            ("Joanna Smith", "jsmith", None),
            ("Strasse", "straße", Some("ÉCOLE")),
            ("Twin", "twin1", None),
            ("Twin", "twin2", None),
        ];
        let agents = agents.map(|(name, prefix, nickname)| Agent {
            nickname: nickname.map(String::from),
            ..Agent::new(name, prefix)
        });
        Registry { agents: agents.into(), ..Registry::default() }
    }

    fn found(query: &str) -> String {
        match team().find(query) {
            Ok(agent) => agent.email_prefix.clone(),
            Err(LookupError::Ambiguous { candidates, .. }) => {
                format!(
                    "? {}",
                    candidates.iter().map(|c| c.email_prefix.as_str()).collect::<Vec<_>>().join(" ")
                )
            }
            Err(LookupError::Unknown { near, .. }) => {
                format!("! {}", near.iter().map(|c| c.email_prefix.as_str()).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn finding_a_teammate() {
        for (rule, query, expected) in [
            ("exact email prefix", "bob", "bob"),
            ("exact email prefix", " BOB ", "bob"),
            ("exact email prefix", "Straße", "straße"),
            ("exact name", "Bobette", "rob"),
            ("exact name", "anna", "anna"),
            ("exact name", "joanna smith", "jsmith"),
            ("exact name of two", "twin", "? twin1 twin2"),
            ("exact nickname", "戴泽", "alice"),
            ("exact nickname", "那笙", "anna"),
            ("exact nickname", "école", "straße"),
            ("exact nickname", "🦀 CRAB", "dan"),
            ("e-mail address", "bob@example.com", "bob"),
            ("e-mail address", "Alice@Other.org", "alice"),
            ("e-mail address, exact only", "ali@example.com", "! alice"),
            ("unique prefix", "al", "alice"),
            ("unique prefix", "戴", "alice"),
            ("unique prefix", "js", "jsmith"),
            ("ambiguous prefix", "bo", "? bob rob"),
            ("unique substring", "smith", "jsmith"),
            ("unique substring", "crab", "dan"),
            ("unique prefix before substring", "an", "anna"),
            ("ambiguous substring", "nna", "? anna jsmith"),
            ("unknown", "bbo", "! bob"),
            ("unknown", "alcie", "! alice"),
            ("unknown", "zzzzzz", "! "),
            ("unknown", "bob2@example.com", "! bob rob"),
            ("unknown", "@example.com", "! "),
            ("unknown", "x", "! "),
            ("empty", "", "! "),
            ("empty", "  ", "! "),
        ] {
            assert_eq!(found(query), expected, "{rule}: {query}");
        }
    }

    #[test]
    fn an_address_of_another_domain_is_somebody_else() {
        let team = Registry { email_domains: vec!["example.com".into()], ..team() };
        assert_eq!(team.find("Bob@Example.com").unwrap().email_prefix, "bob");
        let Err(LookupError::Unknown { near, .. }) = team.find("bob@other.com") else { panic!("found") };
        assert_eq!(near[0].email_prefix, "bob");
    }

    #[test]
    fn ambiguity_lists_the_candidates() {
        let error = team().find("bo").unwrap_err();
        assert_eq!(error.to_string(), r#""bo" may be Bob (bob), Bobette (rob)"#);
    }

    #[test]
    fn both_spellings_of_a_nickname_count() {
        let agent =
            Agent { red_name: Some("红".into()), nickname: Some("al".into()), ..Agent::new("Alice", "a") };
        let team = Registry { agents: vec![agent], ..Registry::default() };
        assert!(team.find("红").is_ok() && team.find("al").is_ok());
    }

    #[test]
    fn edit_distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("bob", "", 3),
            ("", "bob", 3),
            ("bob", "bbo", 2),
            ("戴泽", "戴", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(a, b), expected, "{a} {b}");
        }
    }
}

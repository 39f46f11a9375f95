//! From the fields of an entry to the gateway to dial.

use std::num::NonZeroU16;

use openclaw_client::protocol::DEFAULT_PORT;
use openclaw_client::{Endpoint, EndpointError};

use super::{Agent, filled};

/// Why a teammate cannot be dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoAddress {
    /// The registry knows no address (yet).
    #[error("{email_prefix} has no url, ip or hostname")]
    Unknown {
        /// Whose.
        email_prefix: String,
    },
    /// The field that wins cannot be dialled.
    #[error("the {field} of {email_prefix} cannot be dialled")]
    Invalid {
        /// Whose.
        email_prefix: String,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: EndpointError,
    },
}

impl Agent {
    /// Where to dial this teammate: `url`, else `ip`, else `hostname`.
    ///
    /// # Errors
    /// [`NoAddress`] when none of them is filled in, or the first that is cannot be dialled.
    pub fn address(&self) -> Result<Endpoint, NoAddress> {
        let (field, endpoint) = if let Some(url) = filled(&self.url) {
            ("url", url.parse())
        } else if let Some(ip) = filled(&self.ip) {
            ("ip", self.at(ip))
        } else if let Some(hostname) = filled(&self.hostname) {
            ("hostname", self.at(hostname))
        } else {
            return Err(NoAddress::Unknown { email_prefix: self.email_prefix.clone() });
        };
        endpoint.map_err(|source| NoAddress::Invalid {
            email_prefix: self.email_prefix.clone(),
            field,
            source,
        })
    }

    /// At a host that may name its port; else it is the one that stands beside, else OpenClaw's.
    fn at(&self, host: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::from_host_or(host, self.port.map_or(DEFAULT_PORT, NonZeroU16::get))
    }

    /// Where else the same gateway may be found: at the `hostname`, when the `ip` has come to lead nowhere. A `url` says
    /// exactly where, and has no second.
    #[must_use]
    pub fn alternative(&self) -> Option<Endpoint> {
        let hostname = filled(&self.hostname)?;
        let second = filled(&self.url).is_none() && filled(&self.ip).is_some();
        // People also write names there that nobody can dial.
        if second { self.at(hostname).ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(url: &str, ip: &str, hostname: &str) -> Agent {
        let field = |text: &str| Some(text.to_owned());
        Agent { url: field(url), ip: field(ip), hostname: field(hostname), ..Agent::new("Bob", "bob") }
    }

    #[test]
    fn address_is_url_else_ip_else_hostname() {
        for (url, ip, hostname, expected) in [
            ("wss://bob.example.com:18789", "10.0.0.1", "bob", "wss://bob.example.com:18789"),
            ("wss://Bob.Example.com/gw", "", "", "wss://bob.example.com:443/gw"),
            ("ws://[fd00::1]:80", "", "", "ws://[fd00::1]:80"),
            ("", "1.2.3.4", "bob", "ws://1.2.3.4:18789"),
            ("", "fd00::1", "", "ws://[fd00::1]:18789"),
            ("", "  ", "agent-bob-0", "ws://agent-bob-0:18789"),
            ("", "", "agent-bob-0:1234", "ws://agent-bob-0:1234"),
        ] {
            assert_eq!(agent(url, ip, hostname).address().unwrap().to_string(), expected);
        }
    }

    /// Port 1234 in a field of its own was passed over, and 18789 dialled.
    #[test]
    fn a_port_beside_the_host_counts_where_the_host_names_none() {
        let port = NonZeroU16::new(1234);
        for (url, ip, hostname, expected) in [
            ("", "1.2.3.4", "bob", "ws://1.2.3.4:1234"),
            ("", "fd00::1", "", "ws://[fd00::1]:1234"),
            ("", "", "bob", "ws://bob:1234"),
            ("", "1.2.3.4:99", "", "ws://1.2.3.4:99"),
            ("ws://1.2.3.4:99", "", "", "ws://1.2.3.4:99"),
        ] {
            let agent = Agent { port, ..agent(url, ip, hostname) };
            assert_eq!(agent.address().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn the_hostname_is_the_second_choice_beside_an_ip_only() {
        for (url, ip, hostname, expected) in [
            ("", "10.0.0.1", "agent-bob-0", Some("ws://agent-bob-0:18789")),
            ("", "10.0.0.1:99", "agent-bob-0:1234", Some("ws://agent-bob-0:1234")),
            ("", "10.0.0.1", "Bob's old laptop", None),
            ("", "10.0.0.1", "", None),
            ("", "", "agent-bob-0", None),
            ("wss://bob.example.com", "10.0.0.1", "agent-bob-0", None),
        ] {
            let second = agent(url, ip, hostname).alternative().map(|endpoint| endpoint.to_string());
            assert_eq!(second.as_deref(), expected);
        }
    }

    #[test]
    fn no_address() {
        let unknown = NoAddress::Unknown { email_prefix: "bob".into() };
        assert_eq!(agent("", "", " ").address(), Err(unknown.clone()));
        assert_eq!(Agent::new("Bob", "bob").address(), Err(unknown));
        for (ip, source) in [("not known", EndpointError::Host), ("1.2.3.4:0", EndpointError::Port)] {
            let expected = NoAddress::Invalid { email_prefix: "bob".into(), field: "ip", source };
            assert_eq!(agent("", ip, "bob").address(), Err(expected), "{ip}");
        }
    }

    proptest::proptest! {
        /// Here and not in the client, which has no proptest.
        #[test]
        fn an_endpoint_parses_to_itself(text in "[a-zA-Z0-9.:/@?%\\[\\]-]{0,30}", wide in ".*") {
            for text in [text.clone(), format!("wss://{text}"), wide] {
                for endpoint in [text.parse(), Endpoint::from_host(&text)].into_iter().flatten() {
                    assert_eq!(endpoint.to_string().parse(), Ok::<_, EndpointError>(endpoint));
                }
            }
        }
    }
}

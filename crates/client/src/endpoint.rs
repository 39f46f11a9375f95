//! Where a gateway is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use openclaw_protocol::DEFAULT_PORT;

/// The address of a gateway: `ws://` or `wss://`, a host, a port, perhaps a path. Known to be well-formed and to hold
/// no secret; scheme and host are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    tls: bool,
    /// Without brackets.
    host: String,
    port: u16,
    /// Empty, or from the first slash on.
    path: String,
}

/// Who may overhear a plain-text connection to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Nobody: TLS.
    Encrypted,
    /// This machine, a private network, `.local` or `*.ts.net`.
    Private,
    /// A DNS name: it depends on where it leads.
    Name,
    /// A public address.
    Public,
}

/// Why a text is no address of a gateway. It never repeats the text, which may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Another scheme, or none.
    #[error("it does not start with {0}")]
    Scheme(&'static str),
    /// No host, or one with characters that no host name has.
    #[error("it has no valid host")]
    Host,
    /// No number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// `user:password@`, which would end in logs.
    #[error("it has a user or password in it")]
    Credentials,
    /// `?…` or `#…`, where people put tokens, which would end in logs.
    #[error("it has a query or fragment")]
    Query,
    /// White space or a control character.
    #[error("it has white space or a control character in it")]
    Blank,
}

impl Endpoint {
    /// A gateway without TLS on `host` or `host:port`; the port is OpenClaw's if none is given. IPv6 goes without
    /// brackets if there is no port.
    ///
    /// # Errors
    /// [`EndpointError`] when there is no valid host or port in it.
    pub fn from_host(text: &str) -> Result<Self, EndpointError> {
        Self::from_host_or(text, DEFAULT_PORT)
    }

    /// The same with another port, where none is given.
    ///
    /// # Errors
    /// As [`Endpoint::from_host`].
    pub fn from_host_or(text: &str, port: u16) -> Result<Self, EndpointError> {
        let (host, given) = match text.parse::<Ipv6Addr>() {
            Ok(ip) => (ip.to_string(), None),
            Err(_) => split_port(text)?,
        };
        Ok(Self { tls: false, host, port: given.unwrap_or(port), path: String::new() })
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The host: a name or an IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }

    /// Who may overhear a connection.
    #[must_use]
    pub fn exposure(&self) -> Exposure {
        if self.tls {
            return Exposure::Encrypted;
        }
        match self.host.parse::<IpAddr>() {
            Ok(ip) if is_private(ip) => Exposure::Private,
            Ok(_) => Exposure::Public,
            Err(_) => {
                let name = self.host.trim_end_matches('.');
                let local = name == "localhost" || name.ends_with(".local") || name.ends_with(".ts.net");
                if local { Exposure::Private } else { Exposure::Name }
            }
        }
    }
}

/// Checks an `http://` or `https://` address that stands beside a gateway's, by the same rules.
///
/// # Errors
/// [`EndpointError`] when it is anything else, or could hold a secret.
pub fn check_http_url(url: &str) -> Result<(), EndpointError> {
    parse_url(url, ["http", "https"], "http:// or https://").map(drop)
}

/// Loopback, RFC 1918, link-local, RFC 6598 (Tailscale) and unique local addresses.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local() || is_shared(v4),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

fn is_shared(v4: Ipv4Addr) -> bool {
    let [a, b, ..] = v4.octets();
    a == 100 && (64..128).contains(&b)
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// A URL without a port means the port of its scheme, 80 or 443: that is how people write what stands behind a
    /// reverse proxy.
    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let (tls, host, port, path) = parse_url(url, ["ws", "wss"], "ws:// or wss://")?;
        let path = if path == "/" { "" } else { path }.to_owned();
        Ok(Self { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }), path })
    }
}

impl fmt::Display for Endpoint {
    /// Always with the port, so that it can be read without knowing the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}:{}{}", self.host, self.port, self.path)
    }
}

/// Whether the second scheme is used, host, port and path.
fn parse_url<'a>(
    url: &'a str,
    schemes: [&str; 2],
    names: &'static str,
) -> Result<(bool, String, Option<u16>, &'a str), EndpointError> {
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(EndpointError::Blank);
    }
    let (scheme, rest) = url.split_once("://").ok_or(EndpointError::Scheme(names))?;
    let place = schemes.iter().position(|known| scheme.eq_ignore_ascii_case(known));
    let place = place.ok_or(EndpointError::Scheme(names))?;
    if rest.contains(['?', '#']) {
        return Err(EndpointError::Query);
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(EndpointError::Credentials);
    }
    let (host, port) = split_port(authority)?;
    Ok((place == 1, host, port, path))
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`; the host comes back without brackets.
fn split_port(authority: &str) -> Result<(String, Option<u16>), EndpointError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (ip, rest) = bracketed.split_once(']').ok_or(EndpointError::Host)?;
            let ip: Ipv6Addr = ip.parse().map_err(|_| EndpointError::Host)?;
            let port =
                if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(EndpointError::Port)?) };
            (ip.to_string(), port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host_name(host)?, Some(port)),
            None => (host_name(authority)?, None),
        },
    };
    Ok((host, port.map(port_number).transpose()?))
}

fn host_name(host: &str) -> Result<String, EndpointError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let valid = !host.is_empty() && host.chars().all(allowed);
    if valid { Ok(host.to_ascii_lowercase()) } else { Err(EndpointError::Host) }
}

fn port_number(port: &str) -> Result<u16, EndpointError> {
    // `parse` would take a sign.
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    port.parse().ok().filter(|number| digits && *number != 0).ok_or(EndpointError::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_in_all_their_forms() {
        let cases = [
            ("ws://10.0.0.1", "ws://10.0.0.1:80"),
            ("wss://Bob.Example.com", "wss://bob.example.com:443"),
            ("WSS://bob.example.com:18789", "wss://bob.example.com:18789"),
            ("wss://bob.example.com/gw", "wss://bob.example.com:443/gw"),
            ("wss://bob.example.com:443/GW/x", "wss://bob.example.com:443/GW/x"),
            ("ws://[fd00::1]", "ws://[fd00::1]:80"),
            ("ws://[FD00:0::1]:99/", "ws://[fd00::1]:99"),
        ];
        for (text, shown) in cases {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn hosts_in_all_their_forms() {
        let cases = [
            ("1.2.3.4", "ws://1.2.3.4:18789"),
            ("1.2.3.4:1234", "ws://1.2.3.4:1234"),
            ("fd00::1", "ws://[fd00::1]:18789"),
            ("[fd00::1]", "ws://[fd00::1]:18789"),
            ("[fd00::1]:1", "ws://[fd00::1]:1"),
            ("Agent-Bob-0", "ws://agent-bob-0:18789"),
            ("agent_bob.local:1234", "ws://agent_bob.local:1234"),
        ];
        for (text, shown) in cases {
            assert_eq!(Endpoint::from_host(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_url_says_why() {
        use EndpointError::{Blank, Credentials, Host, Port, Query, Scheme};
        let scheme = Scheme("ws:// or wss://");
        for (url, expected) in [
            ("10.0.0.1", scheme),
            ("bob.example.com", scheme),
            ("http://bob", scheme),
            ("ftp://x", scheme),
            ("ws://", Host),
            ("ws:///path", Host),
            ("ws://:18789", Host),
            ("ws://[zz]:1", Host),
            ("ws://bob%41", Host),
            ("ws://b ob", Blank),
            ("ws://bob\u{7}", Blank),
            ("ws://bob:port", Port),
            ("ws://h:99999", Port),
            ("ws://h:0", Port),
            ("ws://h:", Port),
            ("ws://user:hunter2@bob", Credentials),
            ("ws://bob/?token=hunter2", Query),
            ("ws://bob#x", Query),
        ] {
            let error = url.parse::<Endpoint>().unwrap_err();
            assert_eq!(error, expected, "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "a secret must not be repeated");
        }
    }

    #[test]
    fn what_is_no_host_says_why() {
        use EndpointError::{Host, Port};
        for (text, expected) in [
            ("", Host),
            ("not known", Host),
            ("1.2.3.4:", Port),
            ("1.2.3.4:0", Port),
            ("1.2.3.4:+80", Port),
            ("1.2.3.4:65536", Port),
            ("[fd00::1", Host),
            ("[fd00::1]80", Port),
            ("fd00::1::2", Port),
        ] {
            assert_eq!(Endpoint::from_host(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn http_urls_follow_the_same_rules() {
        assert_eq!(check_http_url("https://bob.example.com/a2a/v1"), Ok(()));
        assert_eq!(check_http_url("HTTP://bob"), Ok(()));
        assert_eq!(check_http_url("ws://bob"), Err(EndpointError::Scheme("http:// or https://")));
        assert_eq!(check_http_url("https://u:p@bob"), Err(EndpointError::Credentials));
        assert_eq!(check_http_url("https://bob/?key=1"), Err(EndpointError::Query));
    }

    #[test]
    fn exposure_follows_the_contract() {
        let cases = [
            ("wss://8.8.8.8", Exposure::Encrypted),
            ("ws://127.0.0.1", Exposure::Private),
            ("ws://LOCALHOST", Exposure::Private),
            ("ws://192.168.1.2", Exposure::Private),
            ("ws://100.64.0.9", Exposure::Private),
            ("ws://[fd00::1]", Exposure::Private),
            ("ws://[::ffff:10.0.0.1]", Exposure::Private),
            ("ws://bob.local", Exposure::Private),
            ("ws://bob.tail1234.ts.net", Exposure::Private),
            ("ws://bob.internal.example.com", Exposure::Name),
            // Some resolvers read this as 8.8.8.8: then the address it leads to decides.
            ("ws://134744072", Exposure::Name),
            ("ws://203.0.113.9", Exposure::Public),
            ("ws://[2001:db8::1]", Exposure::Public),
        ];
        for (text, exposure) in cases {
            assert_eq!(text.parse::<Endpoint>().unwrap().exposure(), exposure, "{text}");
        }
    }
}

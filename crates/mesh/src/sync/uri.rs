//! The address of a source: `file:team.csv`, `https://…`, `git+ssh://…?path=registry.json`, `exec:…`, `dns:…`, `k8s:…`.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use reqwest::Url;
use sha2::{Digest, Sha256};

use super::words::{self, QuoteError};

/// Where a list of teammates comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum SourceUri {
    /// A file of this machine.
    File(PathBuf),
    /// A document behind `https://`, or behind `http://` on this machine.
    Http(Url),
    /// A file in a git repository.
    Git(GitUri),
    /// What a command prints: program and arguments.
    Exec(Vec<String>),
    /// What the name service says.
    Dns(DnsUri),
    /// What a Kubernetes cluster says.
    K8s(K8sUri),
}

/// A file in a git repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitUri {
    /// What `git fetch` is told.
    pub remote: String,
    /// The file in the repository.
    pub path: String,
    /// The branch or tag; `HEAD` when nobody said.
    pub reference: String,
}

/// A name of the name service: with a leading underscore its SRV records, else its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsUri {
    /// The name to ask for.
    pub name: String,
    /// What a host's name begins with before the e-mail prefix, such as `agent-`.
    pub prefix: String,
    /// `IP:PORT` of the server to ask, in place of the system's.
    pub server: Option<std::net::SocketAddr>,
}

/// The agents in a namespace of a Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sUri {
    /// The namespace.
    pub namespace: String,
    /// Which labels, as `kubectl get -l` takes them.
    pub selector: String,
    /// What to look at.
    pub kind: K8sKind,
    /// What a host's name begins with before the e-mail prefix, such as `agent-`.
    pub prefix: String,
}

/// What in a cluster stands for an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum K8sKind {
    /// One pod an agent.
    #[default]
    Pods,
    /// The endpoints of services.
    EndpointSlices,
}

/// What is wrong with the URI of a source. Its text is not repeated: it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// It begins with none of the schemes.
    #[error(
        "it begins with none of file:, https://, git+https://, git+ssh://, git+file://, exec:, dns:, k8s:"
    )]
    Scheme,
    /// Nothing follows the scheme.
    #[error("nothing follows {0}")]
    Nothing(&'static str),
    /// It is no URL.
    #[error("it is no URL")]
    Url,
    /// A secret would stand in files and process lists.
    #[error("it has a user or password in it")]
    Password,
    /// It would be overheard, and could be changed on its way.
    #[error("http:// is only for this machine; a source elsewhere needs https://")]
    PlainHttp,
    /// There is an option it does not have.
    #[error("{0:?} is no option of such a source")]
    Option(String),
    /// An option has a value it cannot have.
    #[error("its {0} is not valid")]
    Value(&'static str),
    /// A command line that cannot be taken apart.
    #[error(transparent)]
    Quotes(#[from] QuoteError),
}

impl SourceUri {
    /// The source's name in files, documents and errors: the URI without anything that may be a secret.
    ///
    /// A query, or the arguments of a command, are replaced by a piece of their hash, so that two sources that differ
    /// only there keep two names: what one of them no longer lists must not be removed on the word of the other.
    #[must_use]
    pub fn mark(&self) -> String {
        match self {
            Self::File(path) => format!("file:{}", path.display()),
            Self::Http(url) => {
                let mut shown = url.clone();
                shown.set_query(None);
                shown.set_fragment(None);
                format!("{shown}{}", url.query().map(|query| short_hash(&[query])).unwrap_or_default())
            }
            Self::Git(git) => format!("git+{}?path={}&ref={}", git.remote, git.path, git.reference),
            Self::Exec(words) => match words.split_first() {
                Some((program, [])) => format!("exec:{program}"),
                Some((program, arguments)) => format!("exec:{program}{}", short_hash(arguments)),
                None => "exec:".to_owned(),
            },
            Self::Dns(dns) => format!("dns:{}", dns.name),
            Self::K8s(k8s) => {
                let kind = if k8s.kind == K8sKind::Pods { "" } else { "&kind=endpointslices" };
                format!("k8s:{}?selector={}{kind}", k8s.namespace, k8s.selector)
            }
        }
    }
}

fn short_hash(texts: &[impl AsRef<str>]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.as_ref());
        hash.update([0]);
    }
    hash.finalize().iter().take(4).fold("~".to_owned(), |shown, byte| format!("{shown}{byte:02x}"))
}

impl fmt::Display for SourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mark())
    }
}

impl fmt::Debug for SourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceUri({})", self.mark())
    }
}

impl FromStr for SourceUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let text = text.trim();
        let (scheme, rest) = text.split_once(':').ok_or(UriError::Scheme)?;
        match scheme {
            "file" => file(rest),
            "https" | "http" => http(text),
            "git+https" | "git+ssh" | "git+file" => git(text.trim_start_matches("git+")),
            "exec" => exec(rest),
            "dns" => dns(rest),
            "k8s" => k8s(rest),
            _ => Err(UriError::Scheme),
        }
    }
}

fn file(rest: &str) -> Result<SourceUri, UriError> {
    let path = match rest.strip_prefix("//") {
        // `file:///etc/team.csv` as browsers write it; a host in between is somebody else's machine.
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err(UriError::Url),
        None => rest,
    };
    if path.is_empty() { Err(UriError::Nothing("file:")) } else { Ok(SourceUri::File(path.into())) }
}

fn http(text: &str) -> Result<SourceUri, UriError> {
    let url = Url::parse(text).map_err(|_| UriError::Url)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UriError::Password);
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err(UriError::PlainHttp);
    }
    Ok(SourceUri::Http(url))
}

/// Whether a URL leads to this machine, going by its text alone.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn git(text: &str) -> Result<SourceUri, UriError> {
    let (remote, query) = text.split_once('?').unwrap_or((text, ""));
    let url = Url::parse(remote).map_err(|_| UriError::Url)?;
    // The user of ssh is part of the address; that of https is where people put tokens.
    let user_allowed = url.scheme() == "ssh";
    if url.password().is_some() || (!user_allowed && !url.username().is_empty()) {
        return Err(UriError::Password);
    }
    // ssh would take such a host or user for an option.
    if url.host_str().is_some_and(|host| host.starts_with('-')) || url.username().starts_with('-') {
        return Err(UriError::Url);
    }
    let mut git =
        GitUri { remote: remote.to_owned(), path: "registry.json".to_owned(), reference: "HEAD".to_owned() };
    for (key, value) in options(query)? {
        match key.as_str() {
            "path" if is_git_path(&value) => git.path = value,
            "path" => return Err(UriError::Value("path")),
            "ref" if is_git_ref(&value) => git.reference = value,
            "ref" => return Err(UriError::Value("ref")),
            _ => return Err(UriError::Option(key)),
        }
    }
    Ok(SourceUri::Git(git))
}

fn is_git_path(path: &str) -> bool {
    !path.is_empty() && !path.starts_with(['-', '/']) && !path.contains(char::is_control)
}

/// A branch, a tag or a commit: nothing that git would read as an option, a range, or a refspec that writes.
fn is_git_ref(name: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !":+^~?*[\\".contains(c);
    !name.is_empty() && !name.starts_with('-') && !name.contains("..") && name.chars().all(plain)
}

fn exec(rest: &str) -> Result<SourceUri, UriError> {
    let words = if rest.trim_start().starts_with('[') {
        serde_json::from_str::<Vec<String>>(rest).map_err(|_| UriError::Value("JSON array"))?
    } else {
        words::split(rest)?
    };
    match words.first() {
        Some(program) if !program.is_empty() => Ok(SourceUri::Exec(words)),
        _ => Err(UriError::Nothing("exec:")),
    }
}

fn dns(rest: &str) -> Result<SourceUri, UriError> {
    let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() {
        return Err(UriError::Nothing("dns:"));
    }
    if !name.chars().all(valid) {
        return Err(UriError::Value("name"));
    }
    let mut dns = DnsUri { name: name.to_owned(), prefix: String::new(), server: None };
    for (key, value) in options(query)? {
        match key.as_str() {
            "prefix" => dns.prefix = value,
            "server" => dns.server = Some(value.parse().map_err(|_| UriError::Value("server"))?),
            _ => return Err(UriError::Option(key)),
        }
    }
    Ok(SourceUri::Dns(dns))
}

fn k8s(rest: &str) -> Result<SourceUri, UriError> {
    let (namespace, query) = rest.split_once('?').unwrap_or((rest, ""));
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if namespace.is_empty() {
        return Err(UriError::Nothing("k8s:"));
    }
    if !namespace.chars().all(valid) {
        return Err(UriError::Value("namespace"));
    }
    let mut k8s = K8sUri {
        namespace: namespace.to_owned(),
        selector: String::new(),
        kind: K8sKind::default(),
        prefix: String::new(),
    };
    for (key, value) in options(query)? {
        match (key.as_str(), value.as_str()) {
            ("selector", _) => k8s.selector = value,
            ("prefix", _) => k8s.prefix = value,
            ("kind", "pods") => k8s.kind = K8sKind::Pods,
            ("kind", "endpointslices") => k8s.kind = K8sKind::EndpointSlices,
            ("kind", _) => return Err(UriError::Value("kind")),
            _ => return Err(UriError::Option(key)),
        }
    }
    Ok(SourceUri::K8s(k8s))
}

/// `a=1&b=2`, percent-decoded.
fn options(query: &str) -> Result<Vec<(String, String)>, UriError> {
    // Borrowed from the URL parser, which wants a whole URL.
    let url = Url::parse(&format!("x:?{query}")).map_err(|_| UriError::Url)?;
    Ok(url.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SourceUri, UriError> {
        text.parse()
    }

    #[test]
    fn each_scheme_is_read() {
        for (text, mark) in [
            ("file:team.csv", "file:team.csv"),
            ("file:///etc/team.json", "file:/etc/team.json"),
            ("https://example.com/team.json", "https://example.com/team.json"),
            ("http://127.0.0.1:80/x", "http://127.0.0.1/x"),
            ("http://[::1]:8080/x", "http://[::1]:8080/x"),
            ("http://localhost/x", "http://localhost/x"),
            ("git+https://h/r.git", "git+https://h/r.git?path=registry.json&ref=HEAD"),
            ("git+ssh://git@h/r.git?ref=main&path=a/b.csv", "git+ssh://git@h/r.git?path=a/b.csv&ref=main"),
            ("git+file:///srv/r.git?path=a%20b.json", "git+file:///srv/r.git?path=a b.json&ref=HEAD"),
            ("exec:list-team", "exec:list-team"),
            ("dns:_gw._tcp.agents.team.svc?prefix=agent-", "dns:_gw._tcp.agents.team.svc"),
            ("k8s:team?selector=app=agent,tier!=x", "k8s:team?selector=app=agent,tier!=x"),
            ("k8s:team?kind=endpointslices", "k8s:team?selector=&kind=endpointslices"),
        ] {
            assert_eq!(parse(text).unwrap().mark(), mark, "{text}");
        }
    }

    #[test]
    fn what_git_or_ssh_could_take_for_an_option_is_refused() {
        // CVE-2017-1000117 and its kin: `ssh://-oProxyCommand=…` ran a command.
        for text in [
            "git+ssh://-oProxyCommand=id/r",
            "git+ssh://-x@h/r",
            "git+https://h/r?ref=--upload-pack=id",
            "git+https://h/r?ref=-x",
            "git+https://h/r?ref=a:refs/heads/b",
            "git+https://h/r?ref=%2Ba",
            "git+https://h/r?ref=",
            "git+https://h/r?path=-x",
            "git+https://h/r?path=/etc/passwd",
            "git+ext://sh",
            "ext::sh -c id",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_uri_holds_no_secret_and_goes_nowhere_in_plain_text() {
        for (text, error) in [
            ("https://me:pw@example.com/x", UriError::Password),
            ("https://ghp_token@example.com/x", UriError::Password),
            ("git+https://ghp_token@example.com/x", UriError::Password),
            ("git+ssh://git:pw@example.com/x", UriError::Password),
            ("http://example.com/x", UriError::PlainHttp),
            ("http://127.0.0.1.example.com/x", UriError::PlainHttp),
            ("http://10.0.0.1/x", UriError::PlainHttp),
            ("file://host/x", UriError::Url),
            ("team.csv", UriError::Scheme),
            ("ftp://x", UriError::Scheme),
            ("exec:", UriError::Nothing("exec:")),
            ("k8s:Team", UriError::Value("namespace")),
            ("k8s:team?label=x", UriError::Option("label".into())),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn marks_tell_two_sources_apart_without_showing_what_differs() {
        let mark = |text: &str| parse(text).unwrap().mark();
        let [one, two] = ["1", "2"].map(|n| mark(&format!("https://h/export?key=hunter{n}")));
        assert!(one != two && one.starts_with("https://h/export~") && !one.contains("hunter"), "{one}");
        let [one, two] = ["1", "2"].map(|n| mark(&format!("exec:get --key hunter{n}")));
        assert!(one != two && one.starts_with("exec:get~") && !one.contains("hunter"), "{one}");
        assert_ne!(mark("exec:get a b"), mark("exec:get ab"));
        assert!(!format!("{:?}", parse("exec:get --key hunter2").unwrap()).contains("hunter"));
    }

    #[test]
    fn a_command_is_text_or_a_json_array() {
        let expected = SourceUri::Exec(vec!["get".into(), "a b".into()]);
        assert_eq!(parse("exec:get 'a b'"), Ok(expected.clone()));
        assert_eq!(parse(r#"exec:["get", "a b"]"#), Ok(expected));
        assert_eq!(parse("exec:[1]"), Err(UriError::Value("JSON array")));
    }
}

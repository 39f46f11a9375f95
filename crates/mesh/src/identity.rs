//! Who we are: the e-mail address our teammates know us by, from the first source that names one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Everywhere an identity may come from, strongest first.
#[derive(Clone, Debug, Default)]
pub struct IdentitySources {
    /// `--me`: an address, or the prefix alone.
    pub flag: Option<String>,
    /// `MESH_MY_EMAIL`: the same; blank counts as unset, as it does in the bash skill.
    pub env: Option<String>,
    /// `me` of the settings file: the same.
    pub config: Option<Configured>,
    /// The places of `USER.md`. Only the first that exists is read.
    pub user_md: Vec<PathBuf>,
    /// `~/sso.json`, when there is a home folder to look in.
    pub sso: Option<PathBuf>,
    /// The domain that completes a prefix given alone.
    pub domain: String,
}

/// What a settings file says we are.
#[derive(Clone, Debug)]
pub struct Configured {
    /// An address, or the prefix alone.
    pub value: String,
    /// The settings file.
    pub path: PathBuf,
}

/// Who we are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The local part of the address, lower-case: the key of the registry.
    pub email_prefix: String,
    /// The address, lower-case.
    pub email: String,
    /// What named it.
    pub source: IdentitySource,
    /// The file it was read from, if it was one.
    pub path: Option<PathBuf>,
}

/// What named our identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentitySource {
    /// `--me`.
    Flag,
    /// `MESH_MY_EMAIL`.
    Env,
    /// `me` of `config.toml`.
    Config,
    /// An `email:` line of a `USER.md`.
    UserMd,
    /// `user.email` of `sso.json`.
    SsoJson,
}

/// Why a source that should name us cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A value given on purpose is no address and no prefix.
    #[error("{place} is not an e-mail address: {value:?}")]
    NotAnAddress {
        /// Where it was given: a flag, a variable, or a file.
        place: String,
        /// What was given.
        value: String,
    },
    /// A file is there but cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// `sso.json` is no JSON, or `user.email` is no string. The parser's own words are left out: they quote the file.
    #[error("{path}:{line}:{column}: not JSON of the shape {{\"user\": {{\"email\": \"…\"}}}}")]
    MalformedSso {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
}

/// Finds out who we are; `None` when no source says.
///
/// # Errors
/// [`IdentityError`] when a source that is there cannot be read or understood: a mistake must not turn us into somebody else.
pub fn resolve(sources: &IdentitySources) -> Result<Option<Identity>, IdentityError> {
    if let Some(value) = &sources.flag {
        return given(value, FLAG, (IdentitySource::Flag, None), &sources.domain).map(Some);
    }
    if let Some(value) = sources.env.as_deref().filter(|value| !value.trim().is_empty()) {
        return given(value, ENV, (IdentitySource::Env, None), &sources.domain).map(Some);
    }
    if let Some(Configured { value, path }) = &sources.config {
        let (place, source) =
            (format!("me in {}", path.display()), (IdentitySource::Config, Some(path.as_path())));
        return given(value, &place, source, &sources.domain).map(Some);
    }
    if let Some(found) = from_user_md(&sources.user_md)? {
        return Ok(Some(found));
    }
    sources.sso.as_deref().map_or(Ok(None), from_sso)
}

/// Every place [`resolve`] looks at, in order, for the error that says nobody is identified.
pub fn searched(sources: &IdentitySources) -> Vec<String> {
    let files = sources.user_md.iter().chain(&sources.sso).map(|path| path.display().to_string());
    [FLAG, ENV].into_iter().map(String::from).chain(files).collect()
}

const FLAG: &str = "--me";
const ENV: &str = "MESH_MY_EMAIL";

fn given(
    value: &str,
    place: &str,
    (source, path): (IdentitySource, Option<&Path>),
    domain: &str,
) -> Result<Identity, IdentityError> {
    let trimmed = value.trim();
    let address = if trimmed.contains('@') { trimmed.to_owned() } else { format!("{trimmed}@{domain}") };
    identity(&address, source, path)
        .ok_or_else(|| IdentityError::NotAnAddress { place: place.into(), value: value.into() })
}

fn from_user_md(places: &[PathBuf]) -> Result<Option<Identity>, IdentityError> {
    for path in places {
        if let Some(bytes) = read(path)? {
            let address = String::from_utf8_lossy(&bytes).lines().find_map(address_in_line);
            return Ok(address.and_then(|address| identity(&address, IdentitySource::UserMd, Some(path))));
        }
    }
    Ok(None)
}

fn from_sso(path: &Path) -> Result<Option<Identity>, IdentityError> {
    #[derive(Deserialize)]
    struct Sso {
        user: Option<User>,
    }
    #[derive(Deserialize)]
    struct User {
        email: Option<String>,
    }

    let Some(bytes) = read(path)? else { return Ok(None) };
    let sso: Sso = serde_json::from_slice(&bytes).map_err(|error| IdentityError::MalformedSso {
        path: path.into(),
        line: error.line(),
        column: error.column(),
    })?;
    let email = sso.user.and_then(|user| user.email).filter(|email| !email.trim().is_empty());
    let Some(email) = email else { return Ok(None) };
    match identity(email.trim(), IdentitySource::SsoJson, Some(path)) {
        Some(found) => Ok(Some(found)),
        None => Err(IdentityError::NotAnAddress {
            place: format!("user.email of {}", path.display()),
            value: email,
        }),
    }
}

/// `None` when there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(source) => Err(IdentityError::Unreadable { path: path.into(), source }),
    }
}

/// The address of an `email:` line, however it is decorated: `- **Email:** <alice@example.com>`.
fn address_in_line(line: &str) -> Option<String> {
    if line.trim_start().starts_with("<!--") {
        return None; // the placeholder of a template
    }
    let line = line.to_lowercase();
    let label = line.trim_start_matches(|c: char| !c.is_alphabetic());
    let rest = label.strip_prefix("email").or_else(|| label.strip_prefix("e-mail"))?;
    let value = rest.trim_start_matches(['*', '_', '`', ' ', '\t']).strip_prefix([':', '：'])?;
    // Splitting at the colon also takes `mailto:` off.
    let words = value.split(|c: char| c.is_whitespace() || "<>[](){}\"*`,;:：|，；".contains(c));
    words.map(undecorated).find(|word| split(word).is_some()).map(String::from)
}

/// The word without a full stop after it or underscores around it; one that begins with an underscore may mean it.
fn undecorated(word: &str) -> &str {
    let word = word.trim_end_matches(['.', '。']);
    match word.trim_end_matches('_') {
        inner if inner.len() < word.len() => inner.trim_start_matches('_'),
        _ => word,
    }
}

fn identity(address: &str, source: IdentitySource, path: Option<&Path>) -> Option<Identity> {
    let email = address.to_lowercase();
    let email_prefix = split(&email)?.0.to_owned();
    Some(Identity { email_prefix, email, source, path: path.map(Path::to_path_buf) })
}

/// Local part and domain of an address. A domain without a dot is fine: teams have internal ones.
fn split(address: &str) -> Option<(&str, &str)> {
    let (local, domain) = address.split_once('@')?;
    let is_local = |c: char| c.is_alphanumeric() || "!#$%&'+-/=?^_~.".contains(c);
    let is_domain = |c: char| c.is_alphanumeric() || "-.".contains(c);
    let valid = !local.is_empty()
        && !domain.is_empty()
        && local.chars().all(is_local)
        && domain.chars().all(is_domain);
    valid.then_some((local, domain))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn sources(&self) -> IdentitySources {
            IdentitySources {
                user_md: ["workspace/USER.md", "config/USER.md", "USER.md"]
                    .map(|name| self.path(name))
                    .to_vec(),
                sso: Some(self.path("sso.json")),
                domain: "example.com".into(),
                ..IdentitySources::default()
            }
        }

        fn resolve(&self) -> Option<Identity> {
            resolve(&self.sources()).unwrap()
        }
    }

    #[test]
    fn first_hit_wins() {
        let home = Home::new();
        assert_eq!(home.resolve(), None);

        let sso = home.file("sso.json", r#"{"user": {"email": "sso@example.com"}, "token": "x"}"#);
        let found = home.resolve().unwrap();
        assert_eq!((found.email_prefix.as_str(), found.source), ("sso", IdentitySource::SsoJson));
        assert_eq!(found.path, Some(sso));

        let last = home.file("USER.md", "email: here@example.com");
        assert_eq!(home.resolve().unwrap().path, Some(last));
        let first = home.file("workspace/USER.md", "email: workspace@example.com");
        let found = home.resolve().unwrap();
        assert_eq!((found.email_prefix.as_str(), found.path), ("workspace", Some(first)));

        let env = IdentitySources { env: Some("env@example.com".into()), ..home.sources() };
        let found = resolve(&env).unwrap().unwrap();
        assert_eq!(
            (found.email_prefix.as_str(), found.source, found.path),
            ("env", IdentitySource::Env, None)
        );
        let flag = IdentitySources { flag: Some("flag@example.com".into()), ..env };
        assert_eq!(resolve(&flag).unwrap().unwrap().source, IdentitySource::Flag);
    }

    #[test]
    fn only_the_first_existing_user_md_is_read() {
        let home = Home::new();
        home.file("config/USER.md", "# About me\n- **Name:** Alice\n- **Email:**\n");
        home.file("USER.md", "email: here@example.com");
        assert_eq!(home.resolve(), None);
    }

    #[test]
    fn user_md_without_an_email_falls_through_to_sso_json() {
        let home = Home::new();
        home.file("workspace/USER.md", "I read my email: daily\nNo address here.\n");
        home.file("sso.json", r#"{"user": {"email": "Sso@Example.com"}}"#);
        assert_eq!(home.resolve().unwrap().email, "sso@example.com");
    }

    #[test]
    fn decorated_email_lines() {
        for (line, expected) in [
            ("email: alice@example.com", Some("alice@example.com")),
            ("- **Email:** alice@example.com", Some("alice@example.com")),
            ("* **Email**: alice@example.com", Some("alice@example.com")),
            ("  - __E-Mail__ : alice@example.com", Some("alice@example.com")),
            ("Email： alice@example.com", Some("alice@example.com")),
            ("Email：alice@example.com。", Some("alice@example.com")),
            ("EMAIL: ALICE@EXAMPLE.COM", Some("alice@example.com")),
            ("1. Email: `alice@example.com`", Some("alice@example.com")),
            ("> 📧 Email: <alice@example.com>", Some("alice@example.com")),
            ("Email: [Alice](mailto:alice@example.com)", Some("alice@example.com")),
            ("- Email: [alice@x](mailto:alice@x)", Some("alice@x")),
            ("Email: mailto:alice@example.com", Some("alice@example.com")),
            ("Email: Alice Liddell <alice@example.com>, work", Some("alice@example.com")),
            ("email: alice+bot@example.com", Some("alice+bot@example.com")),
            ("email: alice_b.c@example.com.", Some("alice_b.c@example.com")),
            ("## Email: *alice@example.com*", Some("alice@example.com")),
            ("Email: _alice@example.com_", Some("alice@example.com")),
            ("Email: _alice@example.com", Some("_alice@example.com")),
            ("\u{feff}email: alice@example.com", Some("alice@example.com")),
            ("| Email: | alice@example.com |", Some("alice@example.com")),
            ("Email:", None),
            ("Email: TBD", None),
            ("Email: @example.com alice@", None),
            ("<!-- Email: you@example.com -->", None),
            ("My manager's email: bob@example.com", None),
            ("Emails: bob@example.com", None),
            ("alice@example.com", None),
        ] {
            assert_eq!(address_in_line(line).as_deref(), expected, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read_without_panic(line in ".{0,4}(email|E-Mail)[:：].*") {
            if let Some(address) = address_in_line(&line) {
                assert!(split(&address).is_some(), "{address}");
            }
        }
    }

    #[test]
    fn flag_and_env_take_a_prefix_or_an_address() {
        for (value, expected) in [
            ("alice", Some(("alice", "alice@example.com"))),
            (" Alice ", Some(("alice", "alice@example.com"))),
            ("alice@other.org", Some(("alice", "alice@other.org"))),
            ("alice+bot@x", Some(("alice+bot", "alice+bot@x"))),
            ("", None),
            ("a b", None),
            ("@example.com", None),
            ("alice@", None),
            ("a@b@c", None),
        ] {
            let sources = IdentitySources {
                flag: Some(value.into()),
                domain: "example.com".into(),
                ..IdentitySources::default()
            };
            match (resolve(&sources), expected) {
                (Ok(Some(found)), Some((prefix, email))) => {
                    assert_eq!((found.email_prefix.as_str(), found.email.as_str()), (prefix, email));
                }
                (Err(error), None) => assert!(error.to_string().starts_with("--me is not"), "{error}"),
                (other, _) => panic!("{value:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_env_that_does_not_parse_names_the_variable() {
        let env = |value: &str| IdentitySources { env: Some(value.into()), ..Home::new().sources() };
        let error = resolve(&env("not an address")).unwrap_err();
        assert_eq!(error.to_string(), "MESH_MY_EMAIL is not an e-mail address: \"not an address\"");
        assert_eq!(resolve(&env(" ")).unwrap(), None);
    }

    #[test]
    fn malformed_sso_json_is_named() {
        let home = Home::new();
        let path = home.path("sso.json");
        for (text, position) in [
            ("{\n  \"user\": {\"email\": hunter2}}", "2:21"),
            ("{\"user\": \"hunter2\"}", "1:18"),
            ("", "1:0"),
        ] {
            fs::write(&path, text).unwrap();
            let error = resolve(&home.sources()).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{}:{position}: ", path.display())), "{error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        for (text, ok) in
            [("{}", true), (r#"{"user": {"email": null}}"#, true), (r#"{"user": {"email": "a b"}}"#, false)]
        {
            fs::write(&path, text).unwrap();
            assert_eq!(resolve(&home.sources()).is_ok(), ok, "{text}");
        }
    }

    #[test]
    fn an_unreadable_user_md_is_an_error() {
        let home = Home::new();
        let path = home.file("workspace/USER.md", "email: alice@example.com");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        // Root reads everything; a folder of that name is unreadable for all.
        let path =
            if fs::read(&path).is_ok() { home.file("config/x", "").parent().unwrap().into() } else { path };
        let sources = IdentitySources { user_md: vec![path], ..home.sources() };
        assert!(matches!(resolve(&sources), Err(IdentityError::Unreadable { .. })));
    }

    #[test]
    fn all_places_looked_at_are_named() {
        let home = Home::new();
        let sources = home.sources();
        let places = searched(&sources);
        assert_eq!(places[..2], ["--me", "MESH_MY_EMAIL"]);
        assert_eq!(places.len(), 6);
        assert!(places[2].ends_with("workspace/USER.md") && places[5].ends_with("sso.json"));
    }

    #[test]
    fn source_serialises_kebab_case() {
        let names =
            [IdentitySource::Flag, IdentitySource::Env, IdentitySource::UserMd, IdentitySource::SsoJson]
                .map(|source| serde_json::to_value(source).unwrap());
        assert_eq!(names, ["flag", "env", "user-md", "sso-json"]);
    }
}

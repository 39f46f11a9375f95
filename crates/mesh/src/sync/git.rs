//! `git+…:` - a file in a repository. The user's `git` does it, with their keys, credential helpers and proxies.

use std::{path::Path, time::Duration};

use tokio::process::Command;

use super::{Broken, command, uri::GitUri};

pub(super) async fn fetch(uri: &GitUri, limit: Duration) -> Result<Vec<u8>, Broken> {
    let repository = tempfile::tempdir().map_err(Broken::Unreadable)?;
    let path = repository.path();
    // No template: it could bring hooks along.
    git(path, &["init", "--quiet", "--bare", "--template="], limit).await?;
    let fetch = ["fetch", "--quiet", "--depth", "1", "--no-tags", "--", &uri.remote, &uri.reference];
    git(path, &fetch, limit).await?;
    // The file's bytes as they are stored; `show` would run filters that the user's settings name.
    git(path, &["cat-file", "blob", &format!("FETCH_HEAD:{}", uri.path)], limit).await
}

async fn git(repository: &Path, arguments: &[&str], limit: Duration) -> Result<Vec<u8>, Broken> {
    let mut git = Command::new("git");
    // Set while git runs a hook, these would make it work on another repository.
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"] {
        git.env_remove(variable);
    }
    git.env("GIT_TERMINAL_PROMPT", "0")
        // Nobody is there to answer: a password or an unknown host key is a failure, not a question.
        .env("SSH_ASKPASS", "false")
        .env("SSH_ASKPASS_REQUIRE", "force")
        .env("LC_ALL", "C")
        .arg("-C")
        .arg(repository)
        // `url.….insteadOf` in somebody's settings must not turn an address into a command.
        .args(["-c", "protocol.ext.allow=never", "-c", "gc.auto=0"])
        .args(arguments);
    command::output("git", &mut git, limit).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A repository with two commits, of which `old` is a tag of the first.
    fn repository() -> Option<tempfile::TempDir> {
        let dir = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| {
            let mut git = std::process::Command::new("git");
            git.arg("-C").arg(dir.path()).args(["-c", "user.name=t", "-c", "user.email=t@x"]);
            git.args(arguments).output().map(|output| assert!(output.status.success(), "{output:?}"))
        };
        if run(&["init", "--quiet", "-b", "main"]).is_err() {
            println!("SKIPPED: there is no git here, so the git source was not tested");
            return None;
        }
        std::fs::create_dir(dir.path().join("a b")).unwrap();
        for (text, tag) in [("[1]", "old"), ("[2]", "new")] {
            std::fs::write(dir.path().join("registry.json"), text).unwrap();
            std::fs::write(dir.path().join("a b/team.csv"), text).unwrap();
            run(&["add", "."]).unwrap();
            run(&["commit", "--quiet", "-m", text]).unwrap();
            run(&["tag", tag]).unwrap();
        }
        Some(dir)
    }

    fn uri(dir: &tempfile::TempDir, query: &str) -> GitUri {
        match format!("git+file://{}{query}", dir.path().display()).parse() {
            Ok(crate::sync::SourceUri::Git(uri)) => uri,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_file_of_a_branch_or_tag_is_read() {
        let Some(dir) = repository() else { return };
        for (query, expected) in [
            ("", "[2]"),
            ("?ref=main", "[2]"),
            ("?ref=old", "[1]"),
            ("?ref=refs/tags/old&path=a%20b/team.csv", "[1]"),
        ] {
            assert_eq!(fetch(&uri(&dir, query), LONG).await.unwrap(), expected.as_bytes(), "{query}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_said_in_gits_words() {
        let Some(dir) = repository() else { return };
        for (query, words) in [
            ("?ref=nope", "couldn't find remote ref nope"),
            ("?path=nope.json", "nope.json"),
            ("?path=a%20b", "bad file"),
        ] {
            match fetch(&uri(&dir, query), LONG).await {
                Err(Broken::Failed { stderr, .. }) => assert!(stderr.contains(words), "{query}: {stderr}"),
                other => panic!("{query}: {other:?}"),
            }
        }
        let gone = GitUri { remote: "file:///no/such".into(), ..uri(&dir, "") };
        assert!(matches!(fetch(&gone, LONG).await, Err(Broken::Failed { .. })));
    }

    #[tokio::test]
    async fn an_address_never_becomes_a_command() {
        // `ext::sh -c …` is a transport of git's that runs a command.
        let Some(dir) = repository() else { return };
        let touched = dir.path().join("touched");
        let remote = format!("ext::touch {}", touched.display());
        assert!(fetch(&GitUri { remote, ..uri(&dir, "") }, LONG).await.is_err());
        assert!(!touched.exists());
    }
}

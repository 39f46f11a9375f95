//! `exec:` - what a command prints: the hook for every list that has no source of its own here.

use std::time::Duration;

use tokio::process::Command;

use super::{Broken, command};

pub(super) async fn fetch(words: &[String], limit: Duration) -> Result<Vec<u8>, Broken> {
    let (program, arguments) = words.split_first().ok_or(Broken::NoList)?;
    command::output(program, Command::new(program).args(arguments), limit).await
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sync::MAX_ANSWER;

    const LONG: Duration = Duration::from_secs(20);

    async fn shell(script: &str, limit: Duration) -> Result<Vec<u8>, Broken> {
        fetch(&["sh".into(), "-c".into(), script.into()], limit).await
    }

    #[tokio::test]
    async fn prints_without_a_shell_in_between() {
        let words = ["printf", "%s|", "$HOME", "a b"].map(str::to_owned);
        assert_eq!(fetch(&words, LONG).await.unwrap(), b"$HOME|a b|");
    }

    #[tokio::test]
    async fn a_failure_shows_the_end_of_stderr_and_no_output_counts() {
        let script = "echo '[]'; yes line | head -c 100000 >&2; echo the end >&2; exit 3";
        match shell(script, LONG).await {
            Err(Broken::Failed { program, status, stderr }) => {
                assert_eq!((&*program, &*status), ("sh", "exit status: 3"));
                assert!(stderr.ends_with("the end") && stderr.len() <= 1024);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(shell("kill -9 $$", LONG).await, Err(Broken::Failed { .. })));
        assert!(matches!(fetch(&["/no/such".into()], LONG).await, Err(Broken::Spawn { .. })));
    }

    #[tokio::test]
    async fn a_command_that_is_slow_or_endless_is_killed_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let survivor = dir.path().join("survivor");
        let script = format!("(sleep 2; echo > {}) & sleep 60", survivor.display());
        let started = Instant::now();
        assert!(matches!(shell(&script, Duration::from_millis(300)).await, Err(Broken::Slow(_))));
        assert!(matches!(shell("yes", LONG).await, Err(Broken::TooLarge(MAX_ANSWER))));
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert!(!survivor.exists());
    }
}

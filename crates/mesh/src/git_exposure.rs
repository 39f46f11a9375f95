//! Files with secrets that a careless `git add .` would publish.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::private_file::{folder_of, shell_word};

/// A file that lies in a git work tree which does not ignore it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitExposure {
    /// The file, which need not exist yet.
    pub path: PathBuf,
    /// The work tree.
    pub work_tree: PathBuf,
    /// The command that helps, ready for a shell.
    pub fix: String,
}

/// Whether git would publish this file. Where `git` itself cannot be asked, any work tree counts as careless.
#[must_use]
pub fn git_exposure(path: &Path) -> Option<GitExposure> {
    let work_tree = work_tree(path)?;
    let file = settled(path)?;
    if asked(&work_tree, &["-q"], &file) {
        return None;
    }
    // Ignored by the rules, but not by git, because it is in the index already: then rules are of no use.
    let fix = if asked(&work_tree, &["-q", "--no-index"], &file) {
        format!("git -C {} rm --cached -- {}", shell_word(&work_tree), shell_word(&file))
    } else {
        let name = Path::new(file.file_name()?);
        format!("echo {} >> {}", shell_word(name), shell_word(&folder_of(&file).join(".gitignore")))
    };
    Some(GitExposure { path: path.to_owned(), work_tree, fix })
}

/// The git work tree a file lies in, or would lie in.
#[must_use]
pub fn work_tree(path: &Path) -> Option<PathBuf> {
    // `.git` is a file in submodules and linked work trees.
    let file = settled(path)?;
    file.ancestors().skip(1).find(|folder| folder.join(".git").exists()).map(Path::to_path_buf)
}

/// The path without links or dots in its folders, as git names it; some of them need not exist.
fn settled(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let folder = path.ancestors().skip(1).find(|folder| folder.exists())?;
    Some(folder.canonicalize().ok()?.join(path.strip_prefix(folder).ok()?))
}

/// Whether `git check-ignore` says yes.
fn asked(work_tree: &Path, options: &[&str], file: &Path) -> bool {
    let mut git = Command::new("git");
    // Set while git runs a hook, these would make it look at another repository.
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(variable);
    }
    // A file system monitor is a program that the repository names: none of its programs is run for this.
    git.arg("-C").arg(work_tree).args(["-c", "core.fsmonitor=false", "check-ignore"]).args(options);
    git.arg("--").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    git.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn git(folder: &Path, args: &[&str]) -> bool {
        let mut command = Command::new("git");
        command.arg("-C").arg(folder).args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    #[test]
    fn outside_of_git_nothing_is_exposed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(git_exposure(&dir.path().join("not/made/tokens.json")), None);
    }

    #[test]
    fn only_an_ignored_file_is_safe() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        // Not every machine has git.
        if !git(&root, &["init"]) {
            return;
        }
        let path = root.join("not yet/tokens.json");
        let exposure = git_exposure(&path).unwrap();
        let gitignore = root.join("not yet/.gitignore");
        assert_eq!(exposure.work_tree, root);
        assert_eq!(exposure.fix, format!("echo tokens.json >> '{}'", gitignore.display()));

        fs::create_dir(root.join("not yet")).unwrap();
        fs::write(&gitignore, "tokens.json\n").unwrap();
        assert_eq!(git_exposure(&path), None);

        fs::write(&path, "{}").unwrap();
        assert!(git(&root, &["add", "-f", "not yet/tokens.json"]));
        let fix = git_exposure(&path).unwrap().fix;
        assert!(fix.starts_with("git -C ") && fix.contains(" rm --cached -- '"), "{fix}");
    }

    #[test]
    fn without_an_answer_of_git_any_work_tree_counts() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".git"), "gitdir: /nowhere").unwrap();
        assert!(git_exposure(&dir.path().join("tokens.json")).is_some());
    }
}

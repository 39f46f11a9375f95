use std::{os::unix::fs::symlink, process::Command, thread};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod_to(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn missing_file_is_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(read(&dir.path().join("absent")).unwrap().is_none());
    assert!(read(&dir.path().join("no/such/folder")).unwrap().is_none());
}

#[test]
fn file_mode_wider_than_0600_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.json");
    write(&path, b"{}").unwrap();
    for (bits, accepted) in [
        (0o600, true),
        (0o400, true),
        (0o640, false),
        (0o604, false),
        (0o700, false),
        (0o4600, false),
        (0o644, false),
    ] {
        chmod_to(&path, bits);
        match read(&path) {
            Ok(Some(_)) => assert!(accepted, "{bits:o} was read"),
            Err(PrivateFileError::WideMode { path: named, mode, fix }) => {
                assert!(!accepted, "{bits:o} was refused");
                assert_eq!((named.as_path(), mode), (path.as_path(), bits));
                assert_eq!(fix, format!("chmod 600 {}", path.display()));
            }
            other => panic!("{bits:o}: {other:?}"),
        }
    }
}

#[test]
fn symlinks_folders_and_pipes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [real, link, pipe] = ["real", "link", "pipe"].map(|name| dir.path().join(name));
    write(&real, b"secret").unwrap();
    symlink(&real, &link).unwrap();
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap().success());

    assert!(matches!(read(&link), Err(PrivateFileError::Symlink { .. })));
    assert!(matches!(write(&link, b"x"), Err(PrivateFileError::Symlink { .. })));
    assert!(matches!(read(dir.path()), Err(PrivateFileError::NotAFile { .. })));
    assert!(matches!(read(&pipe), Err(PrivateFileError::NotAFile { .. })));
    assert_eq!(read(&real).unwrap().unwrap().as_slice(), b"secret");
}

#[test]
fn foreign_owner_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.json");
    write(&path, b"{}").unwrap();
    // Only root can give a file away; elsewhere the other tests stand alone.
    if std::os::unix::fs::chown(&path, Some(12345), None).is_ok() {
        let error = read(&path).unwrap_err();
        assert!(matches!(error, PrivateFileError::ForeignOwner { owner: 12345, .. }), "{error}");
    }
}

#[test]
fn files_are_0600_in_0700_folders() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/mesh/device.pem");
    write(&path, b"one").unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&dir.path().join("state")), 0o700);
    assert_eq!(mode(&dir.path().join("state/mesh")), 0o700);

    chmod_to(&path, 0o644);
    write(&path, b"two").unwrap();
    assert_eq!(mode(&path), 0o600, "a rewrite narrows the mode");
    assert_eq!(read(&path).unwrap().unwrap().as_slice(), b"two");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn wider_folder_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.json");
    write(&path, b"{}").unwrap();
    chmod_to(dir.path(), 0o700);
    assert_eq!(wide_folder(&path), None);
    chmod_to(dir.path(), 0o755);
    let warning = wide_folder(&path).unwrap();
    assert_eq!((warning.mode, warning.fix), (0o755, format!("chmod 700 {}", dir.path().display())));
    assert!(read(&path).is_ok());
}

#[test]
fn chmod_line_survives_a_shell() {
    for (path, line) in [
        ("/home/a/tokens.json", "chmod 600 /home/a/tokens.json"),
        ("/home/a b/tokens.json", "chmod 600 -- '/home/a b/tokens.json'"),
        ("/it's/t", r"chmod 600 -- '/it'\''s/t'"),
        ("-rf", "chmod 600 -- '-rf'"),
    ] {
        assert_eq!(chmod(FILE_MODE, Path::new(path)), line);
    }
}

#[test]
fn plain_files_keep_mode_and_link() {
    let dir = tempfile::tempdir().unwrap();
    let [real, link, new] = ["real", "link", "new"].map(|name| dir.path().join(name));
    fs::write(&real, "old").unwrap();
    chmod_to(&real, 0o664);
    symlink(&real, &link).unwrap();

    write_keeping_mode(&link, b"text").unwrap();
    assert!(link.is_symlink());
    assert_eq!((fs::read_to_string(&real).unwrap().as_str(), mode(&real)), ("text", 0o664));
    write_keeping_mode(&new, b"text").unwrap();
    assert_eq!(mode(&new), 0o600);
}

#[test]
fn a_failed_edit_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.json");
    write(&path, b"old").unwrap();
    let refused = || PrivateFileError::NotAFile { path: path.clone() };
    update(&path, |_| Err(refused())).unwrap_err();
    update(&path, |_| Ok::<_, PrivateFileError>(None)).unwrap();
    assert_eq!(read(&path).unwrap().unwrap().as_slice(), b"old");
}

fn add_line(path: &Path) {
    update(path, |old| {
        let mut new = Zeroizing::new(old.unwrap_or_default().to_vec());
        new.extend_from_slice(b"line\n");
        Ok::<_, PrivateFileError>(Some(new))
    })
    .unwrap();
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn concurrent_edits_of_threads_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lines");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..10).for_each(|_| add_line(&path)));
        }
    });
    assert_eq!(lines(&path), 80);
    assert_eq!(mode(&dir.path().join("lines.lock")), 0o600);
}

#[test]
fn concurrent_edits_of_processes_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("child-of-a-test"), "").unwrap();
    let child = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "private_file::tests::child_process_edits"])
            .current_dir(dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut children: Vec<_> = (0..4).map(|_| child()).collect();
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    assert_eq!(lines(&dir.path().join("lines")), 40);
}

#[test]
#[ignore = "the child process of concurrent_edits_of_processes_lose_nothing"]
fn child_process_edits() {
    if Path::new("child-of-a-test").exists() {
        (0..10).for_each(|_| add_line(Path::new("lines")));
    }
}

#[test]
fn create_never_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let [new, link] = ["new", "link"].map(|name| dir.path().join("made").join(name));
    assert!(create(&new, b"first").unwrap());
    assert!(!create(&new, b"second").unwrap());
    assert_eq!((fs::read(&new).unwrap().as_slice(), mode(&new)), (&b"first"[..], 0o600));
    symlink("nowhere", &link).unwrap();
    assert!(!create(&link, b"x").unwrap(), "a link that leads nowhere has the name all the same");
    assert_eq!(fs::read_dir(new.parent().unwrap()).unwrap().count(), 2, "no temporary file stays");
}

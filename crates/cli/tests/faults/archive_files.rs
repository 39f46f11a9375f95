//! An archive that cannot be used: a clear error, the old file as it was, and nothing sent that is not in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use agent_mesh_testkit::{FakeGateway, Script};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::home::{HANGS, Home, Ran, ended};

const SEND: &[&str] = &["send", "--to", "bob", "--message", "this must not leave", "--no-header"];

/// A sender whose archive holds one message, and Bob.
struct Scene {
    gateway: FakeGateway,
    home: Home,
    file: PathBuf,
}

impl Scene {
    async fn new() -> Self {
        let gateway = FakeGateway::start(Script::new()).await;
        let home = Home::of("alice", &gateway.url());
        let sent = home.run(&["send", "--to", "bob", "--message", "the old one"]).await;
        assert_eq!(sent.code, 0, "{sent:#?}");
        let file = home.state().join("archive.db");
        // What our process left in the write-ahead log is brought into the file itself, which is then all there is.
        let (mut child, _) = python(&file, "db.execute('PRAGMA wal_checkpoint(TRUNCATE)'); db.close()");
        assert!(child.wait().await.unwrap().success());
        assert!(!file.with_extension("db-wal").exists());
        Self { gateway, home, file }
    }

    /// Nothing left, and the error says why.
    fn refused(&self, sent: &Ran, code: &str) {
        let error = &sent.document["error"];
        assert_ne!(sent.code, 0, "{sent:#?}");
        assert_eq!(error["code"], code, "{sent:#?}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("archive.db")), "{sent:#?}");
        assert_eq!(self.gateway.requests("agent").len(), 1, "nothing was sent but the old one");
        assert_eq!(self.gateway.ledger().runs_of_text("this must not leave"), 0);
    }

    /// The archive is changed in this way; then a send is refused, and the file is as it was before.
    async fn with_file(change: impl FnOnce(&mut Vec<u8>), code: &str) {
        let scene = Self::new().await;
        let mut bytes = fs::read(&scene.file).unwrap();
        change(&mut bytes);
        fs::write(&scene.file, &bytes).unwrap();
        let sent = scene.home.run(SEND).await;
        scene.refused(&sent, code);
        assert!(fs::read(&scene.file).unwrap() == bytes, "{code}: the file was changed");
        let log = scene.home.run(&["log"]).await;
        assert_eq!(log.document["error"]["code"], code, "{log:#?}");
    }
}

/// Another program that has the archive open as `db`, and what it says.
fn python(file: &Path, what: &str) -> (Child, BufReader<ChildStdout>) {
    let program =
        format!("import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); {what}");
    let mut command = Command::new("python3");
    command.args(["-c", &program]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("python3, whose sqlite3 stands for another program");
    let stdout = child.stdout.take().unwrap();
    (child, BufReader::new(stdout))
}

#[tokio::test]
async fn a_file_that_is_no_database() {
    Scene::with_file(|bytes| bytes[..64].fill(b'x'), "archive-damaged").await;
}

#[tokio::test]
async fn a_file_that_was_cut_short() {
    Scene::with_file(|bytes| bytes.truncate(bytes.len() / 2 + 100), "archive-damaged").await;
}

#[tokio::test]
async fn a_file_whose_tables_were_scribbled_over() {
    Scene::with_file(|bytes| bytes[100..].fill(0xA5), "archive-damaged").await;
}

#[tokio::test]
async fn a_file_from_a_newer_version() {
    // Where SQLite's header holds `user_version`.
    Scene::with_file(|bytes| bytes[60..64].copy_from_slice(&4711_u32.to_be_bytes()), "archive-too-new").await;
}

#[tokio::test]
async fn a_file_that_another_process_holds() {
    let scene = Scene::new().await;
    let hold = "db.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.read()";
    let (mut holder, mut lines) = python(&scene.file, hold);
    let mut said = String::new();
    tokio::time::timeout(HANGS, lines.read_line(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, "held\n");
    let before = fs::read(&scene.file).unwrap();
    let sent = scene.home.run(SEND).await;
    scene.refused(&sent, "archive-locked");
    assert_eq!(sent.code, 75, "{sent:#?}");
    assert!(fs::read(&scene.file).unwrap() == before);
    // The lock ends with its holder, and the next send goes through.
    drop(holder.stdin.take());
    holder.wait().await.unwrap();
    let sent = scene.home.run(SEND).await;
    assert_eq!(sent.code, 0, "{sent:#?}");
}

/// A small disk of its own for the state folder, on which SQLite finds room for its side files and not for a message.
/// The namespace takes it along when it ends.
const SMALL_DISK: &str = r#"
    mount -t tmpfs -o size=256k,mode=700 tmpfs "$STATE" || exit 99
    cp -p "$SAVED"/* "$STATE"/ || exit 98
    head -c 36k /dev/zero >"$STATE/room" || exit 97
    cat /dev/zero >"$STATE/filler" 2>/dev/null
    rm "$STATE/room"
    "$0" "$@"
    code=$?
    cp "$STATE/archive.db" "$AFTER"
    exit $code"#;

/// Where mounting is not permitted: no file may grow, and SQLite's side files are empty.
const NO_GROWTH: &str = r#"
    trap '' XFSZ
    ulimit -f 1
    "$0" "$@"
    code=$?
    ulimit -f unlimited 2>/dev/null
    cat "$STATE/archive.db" >/dev/null
    exit $code"#;

#[tokio::test]
async fn a_disk_that_is_full() {
    let scene = Scene::new().await;
    let before = fs::read(&scene.file).unwrap();
    let saved = scene.home.write("saved/archive.db", &before).with_file_name("");
    fs::copy(scene.home.state().join("device.pem"), saved.join("device.pem")).unwrap();
    let namespace = ["--user", "--map-root-user", "--mount"];
    let mut probe = Command::new("unshare");
    probe.args(namespace).args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]).stderr(Stdio::null());
    let permitted = probe.status().await.is_ok_and(|status| status.success());
    let (mut command, after) = if permitted {
        let mut command = Command::new("unshare");
        command.args(namespace).args(["/bin/sh", "-c", SMALL_DISK]);
        (command, saved.join("after"))
    } else {
        println!("mounting is not permitted: a limit on file sizes stands in for a full disk");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", NO_GROWTH]);
        (command, scene.file.clone())
    };
    command.arg(env!("CARGO_BIN_EXE_agent-mesh")).args(SEND).arg("--json");
    let mut command = scene.home.equip(command);
    command.env("PATH", "/usr/bin:/bin").env("STATE", scene.home.state());
    command.env("SAVED", &saved).env("AFTER", saved.join("after"));
    let sent = ended(command.spawn().unwrap(), SEND).await.unwrap();
    scene.refused(&sent, if permitted { "disk-full" } else { "archive" });
    assert!(fs::read(after).unwrap() == before, "the file was changed");
}

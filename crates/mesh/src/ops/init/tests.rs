use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use openclaw_client::Secret;
use serde_json::{Value, json};

use super::*;
use crate::config::MeshConfig;
use crate::identity::IdentitySources;
use crate::private_file::{self, PrivateFileError};
use crate::secrets::SecretsError;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: &Value) -> PathBuf {
        let path = self.path(name);
        private_file::write(&path, content.to_string().as_bytes()).unwrap();
        path
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// Everything in the home folder, to see that nothing was written.
    fn listing(&self) -> Vec<String> {
        let mut found: Vec<String> = walk(self.0.path());
        found.sort();
        found
    }

    fn mesh(&self, me: Option<&str>) -> Mesh {
        let (registry, tokens) = (self.path("config/registry.json"), self.path("config/tokens.json"));
        let own = "ws://127.0.0.1:1".parse().unwrap();
        Mesh::new(MeshConfig {
            identity: IdentitySources {
                flag: me.map(str::to_owned),
                domain: "example.com".into(),
                ..IdentitySources::default()
            },
            connect_timeout: Duration::from_secs(1),
            ..MeshConfig::new(registry, tokens, self.path("state"), own)
        })
    }

    fn init(&self, me: Option<&str>, options: &InitOptions) -> Result<InitReport, MeshError> {
        init(&self.mesh(me), options)
    }
}

fn walk(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path.display().to_string()] })
        .collect()
}

fn statuses(report: &InitReport) -> Vec<(&'static str, FileStatus)> {
    report.files.iter().map(|file| (file.file, file.status)).collect()
}

fn from(home: &Home, overwrite: bool) -> InitOptions {
    InitOptions { from: Some(home.path("skill")), overwrite }
}

/// A skill with two teammates, one of them with a token in the wrong place.
fn skill() -> Home {
    let home = Home::new();
    home.file(
        "skill/references/registry.json",
        &json!({"registryDocUrl": "https://example.com/doc", "_comment": "team", "agents": [
            {"name": "Alice", "emailPrefix": "alice", "ip": "10.0.0.1", "redName": "戴泽"},
            {"name": "Bob", "emailPrefix": "Bob", "ip": "10.0.0.2", "shoeSize": 44, "token": "hunter2"},
        ]}),
    );
    home.file("skill/references/tokens.json", &json!({"tokens": {"alice": "tok-a", "bob": "tok-b"}}));
    home
}

#[test]
fn a_new_user_gets_all_files_once() {
    use FileStatus::{Created, Kept};
    let home = Home::new();
    let report = home.init(Some("Alice"), &InitOptions::default()).unwrap();
    let names = ["registry", "schema", "tokens", "device-key"];
    assert_eq!(statuses(&report), names.map(|name| (name, Created)));
    assert_eq!(report.warnings, []);
    assert_eq!(report.device_id.len(), 64);
    assert_eq!(
        home.json("config/registry.json"),
        json!({"$schema": "./registry.schema.json", "agents": [{"name": "Alice", "emailPrefix": "alice", "ip": ""}]})
    );
    assert_eq!(home.json("config/registry.schema.json"), registry_schema());
    assert_eq!(home.json("config/tokens.json"), json!({"tokens": {}}));
    for file in &report.files {
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }

    home.file("config/registry.json", &json!({"agents": [{"name": "X", "emailPrefix": "x"}]}));
    let again = home.init(Some("Alice"), &InitOptions::default()).unwrap();
    assert_eq!(statuses(&again), ["registry", "tokens", "device-key"].map(|name| (name, Kept)));
    assert_eq!(again.device_id, report.device_id);
    assert_eq!(home.json("config/registry.json")["agents"][0]["name"], "X");
}

#[test]
fn nobody_known_means_an_empty_team() {
    let home = Home::new();
    home.init(None, &InitOptions::default()).unwrap();
    assert_eq!(home.json("config/registry.json")["agents"], json!([]));
}

#[test]
fn a_broken_file_of_ours_stops_everything_before_anything_is_written() {
    for (name, content, words) in [
        ("config/registry.json", json!({"agents": 1}), "malformed at agents"),
        ("config/tokens.json", json!({"tokens": {"bob": ["hunter2"]}}), "not of the shape"),
        ("state/device.pem", json!("no key"), "is not an Ed25519 private key"),
    ] {
        let home = Home::new();
        home.file(name, &content);
        let before = home.listing();
        let error = home.init(Some("alice"), &InitOptions::default()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
        assert_eq!(home.listing(), before);
    }
}

#[test]
fn the_bash_skill_is_taken_over() {
    let home = skill();
    let report = home.init(Some("alice"), &from(&home, false)).unwrap();
    let imported = report.imported.unwrap();
    assert_eq!((imported.agents.added, imported.tokens.added), (both(), both()));
    let registry = home.json("config/registry.json");
    assert_eq!(registry["$schema"], "./registry.schema.json");
    assert_eq!(
        (&registry["_comment"], &registry["registryDocUrl"]),
        (&json!("team"), &json!("https://example.com/doc"))
    );
    assert_eq!(
        (&registry["agents"][0]["redName"], &registry["agents"][1]["shoeSize"]),
        (&json!("戴泽"), &json!(44))
    );
    assert_eq!(home.json("config/tokens.json"), json!({"tokens": {"alice": "tok-a", "bob": "tok-b"}}));

    assert!(!registry.to_string().contains("hunter2"), "a token in the registry is not spread");
    let [warning] = report.warnings.as_slice() else { panic!("{:?}", report.warnings) };
    assert_eq!(warning.fix.as_deref(), Some("agent-mesh token set Bob < FILE"));
}

fn both() -> Vec<String> {
    ["alice", "bob"].map(str::to_owned).to_vec()
}

#[test]
fn ours_win_unless_told_otherwise() {
    let home = skill();
    let ours = home.path("config/registry.json");
    home.file("config/registry.json", &json!({"agents": [{"name": "Robert", "emailPrefix": "bob"}]}));
    let store = home.mesh(None).token_store();
    store.set("bob", &Secret::new("ours".into())).unwrap();

    let report = home.init(None, &from(&home, false)).unwrap();
    let imported = report.imported.unwrap();
    assert_eq!(
        (&imported.agents.added[..], &imported.agents.kept[..]),
        (&["alice".into()][..], &["bob".into()][..])
    );
    assert_eq!(
        statuses(&report_of(&home, false))[0],
        ("registry", FileStatus::Kept),
        "twice changes nothing"
    );
    let names =
        |path: &Path| Registry::load(path).unwrap().agents.into_iter().map(|a| a.name).collect::<Vec<_>>();
    assert_eq!(names(&ours), ["Robert", "Alice"]);
    assert_eq!(store.get("bob").unwrap().unwrap().expose(), "ours");

    let report = report_of(&home, true);
    assert_eq!(statuses(&report)[0], ("registry", FileStatus::Updated));
    assert_eq!(report.imported.unwrap().tokens.replaced, ["bob"]);
    assert_eq!(names(&ours), ["Bob", "Alice"]);
    assert_eq!(store.get("bob").unwrap().unwrap().expose(), "tok-b");
}

fn report_of(home: &Home, overwrite: bool) -> InitReport {
    home.init(None, &from(home, overwrite)).unwrap()
}

#[test]
fn a_broken_skill_stops_everything_before_anything_is_written() {
    let home = skill();
    fs::set_permissions(home.path("skill/references/tokens.json"), fs::Permissions::from_mode(0o644))
        .unwrap();
    let before = home.listing();
    let error = home.init(None, &from(&home, false)).unwrap_err();
    let MeshError::Secrets(SecretsError::File(PrivateFileError::WideMode { fix, .. })) = &error else {
        panic!("{error:?}")
    };
    assert!(fix.starts_with("chmod 600 /"), "{fix}");
    assert_eq!(home.listing(), before);

    let empty = InitOptions { from: Some(home.path("elsewhere")), overwrite: false };
    assert!(matches!(home.init(None, &empty), Err(MeshError::NothingToImport { .. })));
    assert_eq!(home.listing(), before);
}

#[test]
fn a_skill_whose_files_are_already_ours_is_left_alone() {
    let home = skill();
    fs::create_dir(home.path("config")).unwrap();
    fs::rename(home.path("skill/references/registry.json"), home.path("skill/registry.json")).unwrap();
    let mut config = home.mesh(None).config().clone();
    config.registry = home.path("skill/registry.json");
    config.tokens = home.path("skill/references/tokens.json");
    let before = fs::read(&config.registry).unwrap();
    let report = init(&Mesh::new(config.clone()), &from(&home, true)).unwrap();
    assert!(!report.imported.unwrap().agents.changes());
    assert_eq!(fs::read(&config.registry).unwrap(), before);
}

#[test]
fn a_skills_tokens_are_kept_out_of_git() {
    let home = skill();
    fs::write(home.path("skill/SKILL.md"), "# skill").unwrap();
    let mut config = home.mesh(None).config().clone();
    config.tokens = home.path("skill/references/tokens.json");
    let report = init(&Mesh::new(config.clone()), &InitOptions::default()).unwrap();
    assert!(statuses(&report).contains(&("gitignore", FileStatus::Created)));
    let written = fs::read_to_string(home.path("skill/references/.gitignore")).unwrap();
    assert_eq!(written, "tokens.json\n*.pem\ndevice-tokens.json\n");

    // A .gitignore that is there is the user's; that it does not help is said.
    fs::write(home.path("skill/references/.gitignore"), "").unwrap();
    fs::write(home.path("skill/.git"), "gitdir: /nowhere").unwrap();
    let report = init(&Mesh::new(config), &InitOptions::default()).unwrap();
    assert!(statuses(&report).contains(&("gitignore", FileStatus::Kept)));
    assert!(report.warnings[0].message.starts_with("git would publish "), "{:?}", report.warnings);
}

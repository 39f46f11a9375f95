use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::error::chain;

struct Home(tempfile::TempDir);

impl Home {
    /// With a registry of one hand-made entry, one of a source, and fields of others; group-readable.
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        let registry = json!({
            "registryDocUrl": "https://doc", "_comment": "Ω",
            "agents": [
                {"name": "Me", "emailPrefix": "me", "ip": "10.0.0.1", "shoeSize": 44},
                {"name": "Bob", "emailPrefix": "bob", "ip": "10.0.0.2", "source": home.mark("team.json")},
            ],
        });
        fs::write(home.registry(), format!("{registry:#}")).unwrap();
        fs::set_permissions(home.registry(), fs::Permissions::from_mode(0o640)).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn registry(&self) -> PathBuf {
        self.path("registry.json")
    }

    fn mark(&self, name: &str) -> String {
        format!("file:{}", self.path(name).display())
    }

    fn source(&self, name: &str, content: impl AsRef<[u8]>) -> SyncOptions {
        fs::write(self.path(name), content).unwrap();
        self.options(&[&self.mark(name)])
    }

    fn options(&self, uris: &[&str]) -> SyncOptions {
        let source = |uri: &&str| Source { uri: uri.parse().unwrap(), bearer_file: None };
        SyncOptions {
            sources: uris.iter().map(source).collect(),
            prefer_source: false,
            allow_empty: false,
            dry_run: false,
            timeout: Duration::from_secs(20),
        }
    }

    async fn sync(&self, options: &SyncOptions) -> Result<SyncPlan, MeshError> {
        let how = Fetch {
            memory: self.path("state/sync"),
            connect_timeout: Duration::from_secs(5),
            timeout: options.timeout,
            allow_empty: options.allow_empty,
            remember: !options.dry_run,
        };
        ask(&self.registry(), options, &how).await
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&fs::read(self.registry()).unwrap()).unwrap()
    }

    /// Which file it is and what is in it: an atomic write makes another file.
    fn state(&self) -> (u64, Vec<u8>) {
        (fs::metadata(self.registry()).unwrap().ino(), fs::read(self.registry()).unwrap())
    }
}

#[tokio::test]
async fn the_registry_follows_its_sources_and_keeps_what_is_not_theirs() {
    let home = Home::new();
    let list = json!({"agents": [{"name": "Cid", "emailPrefix": "cid", "ip": "10.0.0.3"}]});
    let options = home.source("team.json", list.to_string());
    let before = home.state();
    let plan = home.sync(&options).await.unwrap();
    assert_eq!(home.state(), before, "written before it could be shown");
    assert!(plan.write().unwrap());

    let mut after = home.json();
    let synced: Timestamp = after["syncedAt"].as_str().unwrap().parse().unwrap();
    assert!(Timestamp::now().duration_since(synced).as_secs() < 60);
    after.as_object_mut().unwrap().remove("syncedAt");
    assert_eq!(
        after,
        json!({"registryDocUrl": "https://doc", "_comment": "Ω", "agents": [
            {"name": "Me", "emailPrefix": "me", "ip": "10.0.0.1", "shoeSize": 44},
            {"name": "Cid", "emailPrefix": "cid", "ip": "10.0.0.3", "source": home.mark("team.json")},
        ]})
    );
    assert_eq!(fs::metadata(home.registry()).unwrap().mode() & 0o777, 0o640);

    let settled = home.state();
    let plan = home.sync(&options).await.unwrap();
    assert!(!plan.changes.any() && !plan.write().unwrap());
    assert_eq!(home.state(), settled, "written although nothing changed");
}

#[tokio::test]
async fn a_broken_source_changes_nothing() {
    let good = r#"[{"name": "Dee", "emailPrefix": "dee"}]"#;
    for (story, content) in [
        ("empty", ""),
        ("lists nobody", "[]"),
        ("a header and no rows", "name,email\n"),
        ("cut off", r#"{"agents": [{"name": "Cid", "emailPr"#),
        ("a login page", "<html>sign in</html>"),
        ("an entry that cannot be", r#"[{"name": "Cid", "emailPrefix": "cid", "url": "ws://a b"}]"#),
        ("one prefix twice", r#"[{"name": "A", "emailPrefix": "a"}, {"name": "B", "emailPrefix": "A"}]"#),
    ] {
        let home = Home::new();
        let before = home.state();
        let mut options = home.source("team.json", content);
        home.sync(&options).await.expect_err(story);
        // One broken source spoils the others': who is listed there only would seem to be gone.
        options.sources.insert(0, home.source("good.json", good).sources.remove(0));
        home.sync(&options).await.expect_err(story);
        assert_eq!(home.state(), before, "{story}");
    }
    let home = Home::new();
    let before = home.state();
    for uri in
        ["exec:false", "exec:/no/such/command", "exec:true", "file:/no/such/file", "http://127.0.0.1:1/"]
    {
        home.sync(&home.options(&[uri])).await.expect_err(uri);
    }
    assert_eq!(home.state(), before);
}

#[tokio::test]
async fn an_empty_list_is_believed_only_when_told_to() {
    let home = Home::new();
    let options = home.source("team.json", "[]");
    let error = home.sync(&options).await.unwrap_err();
    assert_eq!(chain(&error), format!("{} lists nobody", home.mark("team.json")));
    let options = SyncOptions { allow_empty: true, ..options };
    let plan = home.sync(&options).await.unwrap();
    assert_eq!(plan.changes.removed[0].email_prefix, "bob");
    assert!(plan.write().unwrap());
    assert_eq!(home.json()["agents"].as_array().unwrap().len(), 1, "the hand-made entry stays");
}

#[tokio::test]
async fn a_dry_run_leaves_nothing_behind() {
    let home = Home::new();
    let before = home.state();
    let options = SyncOptions {
        dry_run: true,
        ..home.source("team.json", r#"[{"name": "Cid", "emailPrefix": "cid"}]"#)
    };
    let plan = home.sync(&options).await.unwrap();
    assert!(plan.changes.any() && !plan.write().unwrap());
    assert_eq!(home.state(), before);
    assert!(!home.path("state").exists());
}

#[tokio::test]
async fn without_a_registry_one_is_made_and_a_link_stays_a_link() {
    let home = Home::new();
    let options = home.source("team.json", r#"[{"name": "Cid", "emailPrefix": "cid"}]"#);
    fs::remove_file(home.registry()).unwrap();
    assert!(home.sync(&options).await.unwrap().write().unwrap());
    assert_eq!(fs::metadata(home.registry()).unwrap().mode() & 0o777, 0o600);

    fs::rename(home.registry(), home.path("real.json")).unwrap();
    std::os::unix::fs::symlink("real.json", home.registry()).unwrap();
    let options = home.source("team.json", r#"[{"name": "Dee", "emailPrefix": "dee"}]"#);
    assert!(home.sync(&options).await.unwrap().write().unwrap());
    assert!(home.registry().is_symlink());
    assert_eq!(home.json()["agents"][0]["name"], "Dee");
}

#[tokio::test]
async fn no_source_and_a_malformed_registry_are_errors() {
    let home = Home::new();
    let error = home.sync(&home.options(&[])).await.unwrap_err();
    assert!(matches!(error, MeshError::Sync(SyncError::NoSources)));
    fs::write(home.registry(), "{").unwrap();
    let options = home.source("team.json", r#"[{"name": "Cid", "emailPrefix": "cid"}]"#);
    assert!(matches!(home.sync(&options).await, Err(MeshError::Registry(_))));
    assert_eq!(fs::read(home.registry()).unwrap(), b"{");
}

#[cfg(not(feature = "k8s"))]
#[tokio::test]
async fn a_source_this_build_has_not_names_its_feature() {
    let home = Home::new();
    let error = home.sync(&home.options(&["k8s:team"])).await.unwrap_err();
    assert!(matches!(error, MeshError::Sync(SyncError::FeatureAbsent { feature: "k8s" })));
}

/// How long it takes is `benches`' to say (sync-cost). No assertion on time: the machines that run this are busy.
#[tokio::test]
async fn five_thousand_teammates() {
    const TEAM: usize = 5_000;
    let home = Home::new();
    let list = |shift: usize, skipped: usize| {
        let entry = |n: usize| {
            let ip = format!("10.{}.{}.{}", shift, n / 250, n % 250);
            json!({"name": format!("Teammate {n}"), "emailPrefix": format!("user.{n}"), "ip": ip,
                "hostname": format!("agent-{n}.agents.team.svc"), "note": "a word or two", "tags": {"team": "infra"}})
        };
        Value::from((skipped..TEAM + skipped).map(entry).collect::<Vec<_>>()).to_string()
    };
    home.sync(&home.source("team.json", list(0, 0))).await.unwrap().write().unwrap();
    // Every address rolled, ten teammates left and ten came.
    let options = home.source("team.json", list(1, 10));
    let started = Instant::now();
    let plan = home.sync(&options).await.unwrap();
    let planned = started.elapsed();
    let changes = plan.changes.clone();
    assert!(plan.write().unwrap());
    println!("5,000 teammates: fetch, merge and diff {planned:?}, with the write {:?}", started.elapsed());
    assert_eq!((changes.added.len(), changes.removed.len(), changes.changed.len()), (10, 10, TEAM - 10));
    assert_eq!(home.json()["agents"].as_array().unwrap().len(), TEAM + 1);
}

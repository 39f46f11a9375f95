//! `doctor` finds what is wrong, names the command that helps, and changes nothing.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;

use agent_mesh_testkit::{FakeGateway, Refusal, Script};
use agent_team_mesh::client::Secret;
use agent_team_mesh::ops::doctor::{Check, Report, Scope, Side, Status, doctor};
use agent_team_mesh::{Mesh, MeshConfig};

use crate::team::{SOON, TOKEN, Team, nobody};

fn peer_checks(report: &Report) -> Vec<(&'static str, Status)> {
    report.checks.iter().filter(|c| c.scope == Scope::Peer).map(|c| (c.name, c.status)).collect()
}

fn check<'a>(report: &'a Report, name: &str) -> &'a Check {
    report.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name}: {report:?}"))
}

fn fix(check: &Check) -> Option<(Side, &str)> {
    check.fix.as_ref().map(|fix| (fix.side, fix.command.as_str()))
}

async fn examine_bob(team: &Team) -> Report {
    doctor(&team.mesh, Some(team.agent("bob")), SOON).await
}

const ANSWERS: [(&str, Status); 5] = [
    ("resolve", Status::Ok),
    ("tcp", Status::Ok),
    ("tls", Status::Ok),
    ("websocket", Status::Ok),
    ("challenge", Status::Ok),
];

#[tokio::test]
async fn a_paired_peer_is_healthy_to_the_end() {
    let (team, bob) = Team::with_bob(Script::new().device_token("tok-device")).await;
    team.device_token_for("bob", "tok-device");
    let report = examine_bob(&team).await;
    let rest = ["auth", "pairing", "scope", "identity", "ready"].map(|name| (name, Status::Ok));
    assert_eq!(peer_checks(&report), [&ANSWERS[..], &rest].concat());
    let ours: Vec<_> = report.checks.iter().filter(|c| c.scope == Scope::Local).map(|c| c.name).collect();
    let expected = [
        "identity",
        "registry",
        "own-entry",
        "registry-tokens",
        "tokens",
        "tokens-folder",
        "tokens-git",
        "device-key",
        "device-tokens",
        "pins",
        "state-folder",
        "state-git",
        "own-gateway",
        "clock",
    ];
    assert_eq!(ours, expected);
    for name in &expected[..11] {
        assert_eq!(check(&report, name).status, Status::Ok, "{:?}", check(&report, name));
    }
    assert_eq!(bob.connects(), 1);
}

#[tokio::test]
async fn each_failure_names_the_command_that_helps() {
    let id = "d".repeat(64);
    let pairing = Refusal::pairing_required("req-9; reboot", &id, "scope-upgrade");
    let pair = "agent-mesh pair --to bob";
    let set = "agent-mesh token set bob < FILE";
    let invite = "agent-mesh invite alice";
    let cases = [
        (Refusal::token_mismatch(), "auth", Some((Side::Ours, set))),
        (Refusal::scope_mismatch(), "auth", Some((Side::Ours, pair))),
        (Refusal::rate_limited(), "auth", None),
        (Refusal::starting_up(), "auth", None),
        (Refusal::token_missing(), "auth", Some((Side::Theirs, invite))),
        (Refusal::device_identity_required(), "pairing", Some((Side::Ours, pair))),
        (pairing, "pairing", Some((Side::Theirs, "openclaw devices approve 'req-9; reboot'"))),
    ];
    for (refusal, name, expected) in cases {
        let (team, bob) = Team::with_bob(Script::new().refuse(refusal)).await;
        let report = examine_bob(&team).await;
        let failed = check(&report, name);
        assert_eq!((failed.status, fix(failed)), (Status::Fail, expected), "{failed:?}");
        assert_eq!(
            report.checks.last().map(|check| check.name),
            Some(name),
            "the first that fails is the last"
        );
        assert_eq!(bob.connects(), 1);
    }
}

/// It once said `pair --to bob`, which threw the good token away, when somebody else's gateway had Bob's address.
#[tokio::test]
async fn a_refused_device_token_may_be_for_another_gateway_so_the_address_comes_first() {
    let (team, bob) = Team::with_bob(Script::new().refuse(Refusal::device_token_mismatch())).await;
    team.device_token_for("bob", "tok-device");
    let fixed = |report: &Report| check(report, "auth").fix.clone().unwrap();
    let address = fixed(&examine_bob(&team).await);
    assert_eq!(address.command, format!("$EDITOR {}", team.mesh.config().registry.display()));
    assert_eq!(address.when, Some(format!("if {} is not Bob's address any more", bob.url())));
    let [invite] = &address.also[..] else { panic!("{address:?}") };
    assert_eq!((invite.side, &*invite.command), (Side::Theirs, "agent-mesh invite alice"));
    assert_eq!(invite.also[0].command, "agent-mesh join -");

    team.device_token_from("bob", "tok-device", "ws://10.0.0.11:18789");
    let team = team.next_run(|_| {});
    let when = fixed(&examine_bob(&team).await).when.unwrap();
    assert!(when.contains("ws://10.0.0.11:18789") && when.contains(&bob.url()), "{when}");
}

#[tokio::test]
async fn an_unpaired_peer_is_not_asked_to_approve_anything() {
    let (team, bob) = Team::with_bob(Script::new().shared_token(TOKEN).pairing_required()).await;
    let report = examine_bob(&team).await;
    let rest = [("auth", Status::Ok), ("pairing", Status::Fail), ("scope", Status::Fail)];
    assert_eq!(peer_checks(&report), [&ANSWERS[..], &rest].concat());
    assert_eq!(fix(check(&report, "pairing")), Some((Side::Ours, "agent-mesh pair --to bob")));
    assert!(bob.pending_pairings().is_empty() && !report.is_healthy());
}

#[tokio::test]
async fn all_peers_are_looked_at_and_each_has_its_name() {
    let bob = FakeGateway::start(Script::new()).await;
    let team = Team::new([("Bob", bob.url()), ("Dead", nobody()), ("Pending", String::new())]);
    let report = doctor(&team.mesh, None, SOON).await;
    let of = |name: &str| -> Vec<&Check> {
        report.checks.iter().filter(|c| c.to.as_ref().is_some_and(|to| to.name == name)).collect()
    };
    assert_eq!(
        of("Bob").last().map(|c| (c.name, c.status)),
        Some(("auth", Status::Fail)),
        "no token for Bob"
    );
    let dead = of("Dead");
    assert_eq!((dead[1].name, dead[1].status), ("tcp", Status::Fail));
    assert_eq!(dead[1].fix.as_ref().unwrap().side, Side::Theirs);
    assert_eq!(
        of("Pending").iter().map(|c| (c.name, c.status)).collect::<Vec<_>>(),
        [("address", Status::Warn)]
    );
    let fix = of("Bob").last().unwrap().fix.clone().unwrap();
    assert_eq!(
        (fix.side, &*fix.command, &*fix.also[0].command),
        (Side::Theirs, "agent-mesh invite alice", "agent-mesh join -")
    );
    assert!(of("Alice").is_empty(), "we are no peer of ours");
}

#[tokio::test]
async fn files_that_are_wrong_come_with_their_command() {
    let team = Team::new([]);
    team.token_for("bob", TOKEN);
    set_permissions(&team.mesh.config().tokens, Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&team.mesh.config().registry, "{").unwrap();
    let report = doctor(&team.mesh, None, SOON).await;
    let tokens = check(&report, "tokens");
    let expected = format!("chmod 600 {}", team.mesh.config().tokens.display());
    assert_eq!((tokens.status, fix(tokens)), (Status::Fail, Some((Side::Ours, expected.as_str()))));
    assert!(check(&report, "registry").detail.contains("registry.json:1:"), "{report:?}");

    std::fs::remove_file(&team.mesh.config().registry).unwrap();
    let team = team.next_run(|_| {});
    let report = doctor(&team.mesh, None, SOON).await;
    assert_eq!(fix(check(&report, "registry")), Some((Side::Ours, "agent-mesh init")));
    assert!(!team.mesh.device_key_path().exists(), "a doctor makes no key");
}

#[tokio::test]
async fn our_own_gateway_is_asked_once() {
    let right = FakeGateway::start(Script::new().shared_token("tok-own")).await;
    let token = |config: &mut agent_team_mesh::MeshConfig, url: String, token: &str| {
        config.gateway.endpoint = url.parse().unwrap();
        config.gateway.token = Some(Secret::new(token.into()));
    };
    let team = Team::new([]).next_run(|config| token(config, right.url(), "tok-own"));
    assert_eq!(check(&doctor(&team.mesh, None, SOON).await, "own-gateway").status, Status::Ok);
    assert_eq!(right.connects(), 1);

    let team = team.next_run(|config| token(config, right.url(), "tok-wrong"));
    let report = doctor(&team.mesh, None, SOON).await;
    assert_eq!(check(&report, "own-gateway").status, Status::Fail);
    assert!(!format!("{report:?}").contains("tok-wrong"));
    assert_eq!(right.connects(), 2);

    let team = team.next_run(|config| token(config, nobody(), "tok-own"));
    let report = doctor(&team.mesh, None, SOON).await;
    let own = check(&report, "own-gateway");
    assert_eq!(
        (own.status, fix(own)),
        (Status::Warn, Some((Side::Ours, "agent-mesh serve"))),
        "no OpenClaw here"
    );
    let settings = team.mesh.config().state_dir.join("openclaw.json");
    agent_team_mesh::private_file::write(&settings, b"{}").unwrap();
    let team = team.next_run(|config| config.gateway.openclaw_json = Some(settings.clone()));
    let report = doctor(&team.mesh, None, SOON).await;
    assert_eq!(fix(check(&report, "own-gateway")), Some((Side::Ours, "openclaw gateway status")));
}

/// A disk without room once looked healthy: the folder's mode was all that was asked for.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_state_folder_that_takes_no_file_is_found() {
    let team = Team::new([]);
    for (folder, command) in [("/proc/self/agent-mesh", "/proc/self"), ("/sys/agent-mesh", "/sys")] {
        let config = MeshConfig { state_dir: folder.into(), ..team.mesh.config().clone() };
        let report = doctor(&Mesh::new(config), None, SOON).await;
        let state = check(&report, "state-folder");
        assert_eq!(state.status, Status::Fail, "{state:?}");
        assert!(state.detail.contains("cannot be written to"), "{state:?}");
        assert!(fix(state).unwrap().1.ends_with(command), "{state:?}");
    }
    let report = doctor(&team.mesh, None, SOON).await;
    assert_eq!(check(&report, "state-folder").status, Status::Ok);
    assert!(!team.mesh.config().state_dir.exists(), "a doctor leaves nothing behind");
}

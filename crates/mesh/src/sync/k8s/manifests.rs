//! What `deploy/` promises, without a cluster: every manifest is of its kind and has no field that its kind lacks, the Role
//! allows what this source asks and no more, and the source finds the pods that the manifests make.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Namespace, Pod, PodCondition, PodSpec, PodStatus, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::*;
use crate::sync::SourceUri;

const TEAM: &str = include_str!("../../../../../deploy/kubernetes/team.yaml");
const BOB: &str = include_str!("../../../../../deploy/kubernetes/agent-bob.yaml");
const DOCKERFILE: &str = include_str!("../../../../../deploy/Dockerfile");

fn documents(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).unwrap()
}

/// What of `given` is not in `back`.
fn lost(given: &Value, back: &Value, place: &str) -> Vec<String> {
    match (given, back) {
        (Value::Object(given), Value::Object(back)) => {
            let missing = |key: &String| back.get(key).cloned().unwrap_or_default();
            given
                .iter()
                .flat_map(|(key, value)| lost(value, &missing(key), &format!("{place}.{key}")))
                .collect()
        }
        (Value::Array(given), Value::Array(back)) if given.len() == back.len() => {
            given.iter().zip(back).flat_map(|(given, back)| lost(given, back, place)).collect()
        }
        _ if given == back => Vec::new(),
        _ => vec![place.to_owned()],
    }
}

/// The one of this kind. What comes back from the type must be all that went in: a misspelt field does not.
fn only<K: Resource<DynamicType = ()> + Serialize + DeserializeOwned>(yaml: &str) -> K {
    let all = documents(yaml);
    let mut of_kind = all.iter().filter(|document| document["kind"] == K::kind(&()).as_ref());
    let (Some(document), None) = (of_kind.next(), of_kind.next()) else { panic!("one {}", K::kind(&())) };
    assert_eq!(document["apiVersion"], K::api_version(&()).as_ref());
    let typed: K = serde_json::from_value(document.clone()).unwrap();
    let back = serde_json::to_value(&typed).unwrap();
    assert_eq!(lost(document, &back, ""), [""; 0], "{} has no such field", K::kind(&()));
    typed
}

fn source() -> K8sUri {
    let config = only::<ConfigMap>(TEAM).data.unwrap().remove("config.toml").unwrap();
    let from = config.lines().find_map(|line| line.strip_prefix("from = ")).unwrap();
    match from.trim_matches('"').parse() {
        Ok(SourceUri::K8s(uri)) => uri,
        other => panic!("{other:?}"),
    }
}

fn agent() -> (StatefulSetSpec, PodSpec) {
    let spec = only::<StatefulSet>(BOB).spec;
    let pod = spec.template.spec.clone().unwrap();
    (spec, pod)
}

/// The pod that the StatefulSet makes, once it is ready.
fn running() -> Pod {
    let template = agent().0.template;
    let mut metadata = template.metadata.unwrap();
    metadata.name = Some("agent-bob-0".into());
    let ready = PodCondition { type_: "Ready".into(), status: "True".into(), ..PodCondition::default() };
    let status =
        PodStatus { pod_ip: Some("10.0.0.2".into()), conditions: Some(vec![ready]), ..PodStatus::default() };
    Pod { metadata, spec: template.spec, status: Some(status) }
}

fn named<'a>(pod: &'a PodSpec, name: &str) -> &'a Container {
    pod.containers.iter().find(|container| container.name == name).unwrap()
}

#[test]
fn every_manifest_is_what_it_says() {
    only::<Namespace>(TEAM);
    only::<Service>(TEAM);
    only::<NetworkPolicy>(TEAM);
    assert_eq!((documents(TEAM).len(), documents(BOB).len()), (7, 1), "each is looked at here");
    for document in documents(TEAM).iter().chain(&documents(BOB)).filter(|one| one["kind"] != "Namespace") {
        assert_eq!(document["metadata"]["namespace"], source().namespace, "{}", document["kind"]);
    }
}

/// `list` and `watch` of one collection is all that is ever asked: see `a_source_asks_for_collections_only`.
#[test]
fn the_role_is_exactly_what_the_source_needs() {
    let uri = source();
    assert_eq!(uri.kind, K8sKind::Pods);
    let [rule] = only::<Role>(TEAM).rules.unwrap().try_into().unwrap();
    assert_eq!(rule.api_groups, Some(vec![Pod::group(&()).into_owned()]));
    assert_eq!(rule.resources, Some(vec![Pod::plural(&()).into_owned()]));
    assert_eq!(rule.verbs, ["list", "watch"]);
    let binding = only::<RoleBinding>(TEAM);
    assert_eq!(
        (binding.role_ref.kind.as_str(), &binding.role_ref.name),
        ("Role", &"agent-mesh-sync".to_owned())
    );
    let [subject] = binding.subjects.unwrap().try_into().unwrap();
    let account = only::<ServiceAccount>(TEAM);
    assert_eq!((Some(subject.name), subject.namespace), (account.metadata.name, account.metadata.namespace));
    assert_eq!(agent().1.service_account_name.as_deref(), Some("agent-mesh"));
}

/// An agent with a shell reads every file of its container.
#[test]
fn only_the_container_that_syncs_has_the_clusters_token() {
    let (_, pod) = agent();
    assert_eq!(only::<ServiceAccount>(TEAM).automount_service_account_token, Some(false));
    assert_eq!(pod.automount_service_account_token, Some(false));
    let place = "/var/run/secrets/kubernetes.io/serviceaccount";
    let volumes: Vec<_> = pod.volumes.iter().flatten().filter(|volume| volume.projected.is_some()).collect();
    let [token] = volumes.as_slice() else { panic!("{volumes:?}") };
    for container in &pod.containers {
        let mounts = container.volume_mounts.as_deref().unwrap();
        let held = mounts.iter().any(|mount| mount.name == token.name && mount.mount_path == place);
        assert_eq!(held, container.name == "sync", "{}", container.name);
    }
}

#[test]
fn containers_run_as_nobody_and_change_nothing_but_their_volumes() {
    let (set, pod) = agent();
    let of_pod = pod.security_context.clone().unwrap();
    assert_eq!((of_pod.run_as_non_root, of_pod.run_as_user), (Some(true), Some(65532)));
    assert_eq!(of_pod.fs_group_change_policy.as_deref(), Some("OnRootMismatch"), "else 0600 becomes 0660");
    for container in &pod.containers {
        let context = container.security_context.clone().unwrap();
        assert_eq!(
            (context.allow_privilege_escalation, context.read_only_root_filesystem),
            (Some(false), Some(true))
        );
        assert_eq!(context.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
        let of_pod = pod.volumes.iter().flatten().map(|volume| Some(&volume.name));
        let claimed = set.volume_claim_templates.iter().flatten().map(|claim| claim.metadata.name.as_ref());
        let there: Vec<_> = of_pod.chain(claimed).collect();
        let mounts = container.volume_mounts.iter().flatten();
        assert!(mounts.into_iter().all(|mount| there.contains(&Some(&mount.name))), "{}", container.name);
    }
    assert_eq!(set.replicas, Some(1), "one identity, one gateway");
    let last_stage = DOCKERFILE.rsplit("\nFROM ").next().unwrap();
    assert!(last_stage.starts_with("gcr.io/distroless/") && last_stage.contains("\nUSER 65532:65532\n"));
    assert!(!last_stage.contains("\nRUN "), "there is no shell that could run anything");
}

#[test]
fn the_probes_ask_what_serve_answers() {
    let (_, pod) = agent();
    let serve = named(&pod, "serve");
    let path = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
        let http = probe.clone().unwrap().http_get.unwrap();
        (http.path.unwrap(), serde_json::to_value(http.port).unwrap())
    };
    let expected = |path: &str| (path.to_owned(), Value::from("gateway"));
    assert_eq!(path(&serve.liveness_probe), expected("/healthz"));
    assert_eq!(path(&serve.startup_probe), expected("/healthz"));
    assert_eq!(path(&serve.readiness_probe), expected("/readyz"));
    assert!(
        serve.args.as_ref().unwrap().contains(&"0.0.0.0:18789".to_owned()),
        "the kubelet is not on loopback"
    );
}

#[test]
fn the_source_finds_the_pod_and_the_selectors_fit_it() {
    let (uri, pod) = (source(), running());
    let labels = pod.metadata.labels.clone().unwrap();
    let (key, value) = uri.selector.split_once('=').unwrap();
    assert_eq!(labels.get(key).map(String::as_str), Some(value));
    let chosen = [
        only::<Service>(TEAM).spec.unwrap().selector.unwrap(),
        only::<NetworkPolicy>(TEAM).spec.unwrap().pod_selector.unwrap().match_labels.unwrap(),
        agent().0.selector.match_labels.unwrap(),
    ];
    for selector in chosen {
        assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)), "{selector:?}");
    }
    let found = candidate::settle(pods::candidates(&[pod], &uri)).unwrap();
    let bob = Agent { name: "Bob".into(), ip: Some("10.0.0.2".into()), ..Agent::new("bob", "bob") };
    assert_eq!(found, [bob]);
}

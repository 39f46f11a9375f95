use serde_json::json;

use super::*;

fn agents(entries: Value) -> Vec<Agent> {
    serde_json::from_value(entries).unwrap()
}

fn answer(mark: &str, entries: Value) -> Answer {
    Answer { mark: mark.into(), agents: agents(entries) }
}

struct Case {
    story: &'static str,
    registry: Value,
    sources: Vec<(&'static str, Value)>,
    prefer_source: bool,
    expected: Value,
    /// added, removed, changed, kept
    told: [&'static str; 4],
}

fn check(case: Case) {
    let mut registry = Registry { agents: agents(case.registry), ..Registry::default() };
    let answers: Vec<Answer> = case.sources.iter().map(|(mark, list)| answer(mark, list.clone())).collect();
    let changes = merge(&mut registry, answers.clone(), case.prefer_source);
    assert_eq!(serde_json::to_value(&registry.agents).unwrap(), case.expected, "{}", case.story);
    let names = |list: &[Who]| list.iter().map(|who| who.email_prefix.clone()).collect::<Vec<_>>().join(" ");
    let fields = |list: &[Changed]| {
        let shown = list.iter().map(|changed| {
            let fields: Vec<_> = changed.fields.keys().map(String::as_str).collect();
            format!("{}:{}", changed.email_prefix, fields.join(","))
        });
        shown.collect::<Vec<_>>().join(" ")
    };
    let told =
        [names(&changes.added), names(&changes.removed), fields(&changes.changed), fields(&changes.kept)];
    assert_eq!(told, case.told, "{}", case.story);
    let again = merge(&mut registry, answers, case.prefer_source);
    assert!(!again.any(), "{}: a second sync changes something: {again:?}", case.story);
}

#[test]
fn merging() {
    let cases = [
        Case {
            story: "who is new comes last, in the order of the source, and is marked",
            registry: json!([{"name": "Me", "emailPrefix": "me"}]),
            sources: vec![(
                "A",
                json!([{"name": "Zoe", "emailPrefix": "zoe"}, {"name": "Bob", "emailPrefix": "bob"}]),
            )],
            prefer_source: false,
            expected: json!([
                {"name": "Me", "emailPrefix": "me"},
                {"name": "Zoe", "emailPrefix": "zoe", "source": "A"},
                {"name": "Bob", "emailPrefix": "bob", "source": "A"},
            ]),
            told: ["zoe bob", "", "", ""],
        },
        Case {
            story: "a hand-made entry stays as it is, whatever the case of its prefix",
            registry: json!([{"name": "Bob", "emailPrefix": "Bob", "ip": "1.1.1.1"}]),
            sources: vec![("A", json!([{"name": "Robert", "emailPrefix": "bob", "ip": "2.2.2.2"}]))],
            prefer_source: false,
            expected: json!([{"name": "Bob", "emailPrefix": "Bob", "ip": "1.1.1.1"}]),
            told: ["", "", "", "Bob:ip,name"],
        },
        Case {
            story: "--prefer-source: the source wins field by field, and the entry stays the user's",
            registry: json!([{"name": "Bob", "emailPrefix": "Bob", "ip": "1.1.1.1", "note": "mine", "shoeSize": 44}]),
            sources: vec![(
                "A",
                json!([{"name": "Robert", "emailPrefix": "bob", "ip": "2.2.2.2", "color": "red"}]),
            )],
            prefer_source: true,
            expected: json!([{"name": "Robert", "emailPrefix": "Bob", "ip": "2.2.2.2", "note": "mine", "color": "red", "shoeSize": 44}]),
            told: ["", "", "Bob:color,ip,name", ""],
        },
        Case {
            story: "--prefer-source: a source that knows no address takes none away",
            registry: json!([{"name": "Bob", "emailPrefix": "bob", "ip": "1.1.1.1"}]),
            sources: vec![("A", json!([{"name": "Bob", "emailPrefix": "bob"}]))],
            prefer_source: true,
            expected: json!([{"name": "Bob", "emailPrefix": "bob", "ip": "1.1.1.1"}]),
            told: ["", "", "", ""],
        },
        Case {
            story: "--prefer-source: a url of ours does not outweigh the ip that the source names",
            registry: json!([{"name": "Bob", "emailPrefix": "bob", "url": "ws://old:1"}]),
            sources: vec![("A", json!([{"name": "Bob", "emailPrefix": "bob", "ip": "2.2.2.2"}]))],
            prefer_source: true,
            expected: json!([{"name": "Bob", "emailPrefix": "bob", "ip": "2.2.2.2"}]),
            told: ["", "", "bob:ip,url", ""],
        },
        Case {
            story: "who is gone from their source goes; hand-made ones and those of sources not asked stay",
            registry: json!([
                {"name": "Me", "emailPrefix": "me"},
                {"name": "Bob", "emailPrefix": "bob", "source": "A"},
                {"name": "Cid", "emailPrefix": "cid", "source": "B"},
            ]),
            sources: vec![("A", json!([{"name": "Dee", "emailPrefix": "dee"}]))],
            prefer_source: false,
            expected: json!([
                {"name": "Me", "emailPrefix": "me"},
                {"name": "Cid", "emailPrefix": "cid", "source": "B"},
                {"name": "Dee", "emailPrefix": "dee", "source": "A"},
            ]),
            told: ["dee", "bob", "", ""],
        },
        Case {
            story: "--prefer-source does not make a hand-made entry removable",
            registry: json!([{"name": "Me", "emailPrefix": "me"}]),
            sources: vec![("A", json!([]))],
            prefer_source: true,
            expected: json!([{"name": "Me", "emailPrefix": "me"}]),
            told: ["", "", "", ""],
        },
        Case {
            story: "who moved from one source to another stays, under the other's name",
            registry: json!([{"name": "Bob", "emailPrefix": "bob", "source": "A"}]),
            sources: vec![("A", json!([])), ("B", json!([{"name": "Bob", "emailPrefix": "bob"}]))],
            prefer_source: false,
            expected: json!([{"name": "Bob", "emailPrefix": "bob", "source": "B"}]),
            told: ["", "", "bob:source", ""],
        },
        Case {
            story: "an address follows its source, also to nowhere: the old one may be another's by now",
            registry: json!([{"name": "Bob", "emailPrefix": "bob", "url": "ws://x:1", "hostname": "h", "source": "A"},
                             {"name": "Cid", "emailPrefix": "cid", "ip": "1.1.1.1", "source": "A"}]),
            sources: vec![(
                "A",
                json!([{"name": "Bob", "emailPrefix": "bob", "ip": "2.2.2.2"}, {"name": "Cid", "emailPrefix": "cid"}]),
            )],
            prefer_source: false,
            expected: json!([{"name": "Bob", "emailPrefix": "bob", "ip": "2.2.2.2", "source": "A"},
                             {"name": "Cid", "emailPrefix": "cid", "source": "A"}]),
            told: ["", "", "bob:hostname,ip,url cid:ip", ""],
        },
        Case {
            story: "what the source does not speak of stays: a pin above all, and the user's own notes",
            registry: json!([{"name": "Bob", "redName": "红", "emailPrefix": "bob", "ip": "1.1.1.1", "note": "n", "tlsFingerprint": "f",
                "deviceId": "d", "session": "main", "via": "chat", "tags": {"a": "b"}, "shoeSize": 44, "token": "t", "source": "A"}]),
            sources: vec![("A", json!([{"name": "Bob", "emailPrefix": "bob", "ip": "1.1.1.1"}]))],
            prefer_source: false,
            expected: json!([{"name": "Bob", "redName": "红", "emailPrefix": "bob", "ip": "1.1.1.1", "note": "n", "tlsFingerprint": "f",
                "deviceId": "d", "session": "main", "via": "chat", "tags": {"a": "b"}, "shoeSize": 44, "token": "t", "source": "A"}]),
            told: ["", "", "", ""],
        },
        Case {
            story: "nickname and redName are one field: the old one does not hide the new",
            registry: json!([{"name": "Bob", "nickname": "old", "emailPrefix": "bob", "source": "A"}]),
            sources: vec![("A", json!([{"name": "Bob", "redName": "new", "emailPrefix": "bob"}]))],
            prefer_source: false,
            expected: json!([{"name": "Bob", "redName": "new", "emailPrefix": "bob", "source": "A"}]),
            told: ["", "", "bob:nickname,redName", ""],
        },
        Case {
            story: "several sources: each field from the first that has it, an address never mixed",
            registry: json!([]),
            sources: vec![
                (
                    "sheet",
                    json!([{"name": "Bob", "emailPrefix": "bob", "note": "n"}, {"name": "Cid", "emailPrefix": "cid", "ip": "1.1.1.1"}]),
                ),
                (
                    "k8s",
                    json!([{"name": "bob-0", "emailPrefix": "BOB", "ip": "3.3.3.3", "note": "x"},
                               {"name": "cid-0", "emailPrefix": "cid", "url": "ws://y:1", "tags": {"a": "b"}}]),
                ),
            ],
            prefer_source: false,
            expected: json!([
                {"name": "Bob", "emailPrefix": "bob", "ip": "3.3.3.3", "note": "n", "source": "sheet"},
                {"name": "Cid", "emailPrefix": "cid", "ip": "1.1.1.1", "tags": {"a": "b"}, "source": "sheet"},
            ]),
            told: ["bob cid", "", "", ""],
        },
        Case {
            story: "a name that only repeats the prefix gives way to a real one, from a source or from here",
            registry: json!([{"name": "Cid Real", "emailPrefix": "cid", "source": "dns"}]),
            sources: vec![
                (
                    "dns",
                    json!([{"name": "bob", "emailPrefix": "bob", "ip": "1.1.1.1"}, {"name": "cid", "emailPrefix": "cid"}]),
                ),
                ("sheet", json!([{"name": "Bob Real", "emailPrefix": "bob"}])),
            ],
            prefer_source: false,
            expected: json!([
                {"name": "Cid Real", "emailPrefix": "cid", "source": "dns"},
                {"name": "Bob Real", "emailPrefix": "bob", "ip": "1.1.1.1", "source": "dns"},
            ]),
            told: ["bob", "", "", ""],
        },
        Case {
            story: "the bash skill's blank ip is no difference to none",
            registry: json!([{"name": "Bob", "emailPrefix": "bob", "ip": "", "source": "A"}]),
            sources: vec![("A", json!([{"name": "Bob", "emailPrefix": "bob"}]))],
            prefer_source: false,
            expected: json!([{"name": "Bob", "emailPrefix": "bob", "ip": "", "source": "A"}]),
            told: ["", "", "", ""],
        },
    ];
    for case in cases {
        check(case);
    }
}

#[test]
fn a_difference_shows_old_and_new() {
    let mut registry = Registry {
        agents: agents(json!([{"name": "Bob", "emailPrefix": "bob", "ip": "1.1.1.1", "source": "A"}])),
        ..Registry::default()
    };
    let list = json!([{"name": "Bob", "emailPrefix": "bob", "hostname": "h"}]);
    let changes = merge(&mut registry, vec![answer("A", list)], false);
    assert_eq!(
        serde_json::to_value(&changes.changed).unwrap(),
        json!([{"name": "Bob", "emailPrefix": "bob", "fields": {
            "ip": {"old": "1.1.1.1", "new": null}, "hostname": {"old": null, "new": "h"} }}])
    );
}

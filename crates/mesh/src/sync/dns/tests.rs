use std::net::{Ipv4Addr, UdpSocket};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, PTR, SRV};
use hickory_resolver::proto::rr::{Name, Record, RecordType};

use super::*;

fn name(text: &str) -> Name {
    Name::from_utf8(format!("{text}.")).unwrap()
}

/// A name server that knows a small cluster: two agents and a database behind a headless service.
fn answers(asked: &str, kind: RecordType) -> Result<Vec<RData>, ResponseCode> {
    let srv = |host: &str, port| RData::SRV(SRV::new(0, 10, port, name(&format!("{host}.agents.team.svc"))));
    let ptr = |host: &str| RData::PTR(PTR(name(&format!("{host}.agents.team.svc"))));
    let a = |last| RData::A(A(Ipv4Addr::new(10, 0, 0, last)));
    let found = match (asked.trim_end_matches('.'), kind) {
        ("_gateway._tcp.agents.team.svc", RecordType::SRV) => {
            vec![srv("agent-zoe-0", 18789), srv("agent-bob-0", 1234), srv("db-0", 5432)]
        }
        ("agents.team.svc", RecordType::A) => vec![a(3), a(2), a(9)],
        ("agents.team.svc", RecordType::AAAA) => {
            vec![RData::AAAA(AAAA("fd00::2".parse().unwrap()))]
        }
        ("agent-bob-0.agents.team.svc", RecordType::A) | ("loner.team.svc", RecordType::A) => vec![a(2)],
        ("agent-zoe-0.agents.team.svc", RecordType::A) => vec![a(3)],
        ("2.0.0.10.in-addr.arpa", RecordType::PTR) => vec![ptr("agent-bob-0")],
        ("3.0.0.10.in-addr.arpa", RecordType::PTR) => vec![ptr("agent-zoe-0")],
        ("9.0.0.10.in-addr.arpa", RecordType::PTR) => vec![ptr("db-0")],
        (ip6, RecordType::PTR) if ip6.ends_with("ip6.arpa") => vec![ptr("agent-bob-0")],
        ("nameless.team.svc", RecordType::A) => vec![a(77)],
        ("broken.team.svc", _) => return Err(ResponseCode::ServFail),
        ("_empty._tcp.team.svc" | "empty.team.svc", _) => vec![],
        (known, _) if known.ends_with("agents.team.svc") || known.starts_with("loner") => vec![],
        ("nameless.team.svc", _) => vec![],
        _ => return Err(ResponseCode::NXDomain),
    };
    Ok(found)
}

/// Starts it, and gives its `IP:PORT`.
fn server() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let (count, from) = socket.recv_from(&mut buffer).unwrap();
            let mut message = Message::from_vec(&buffer[..count]).unwrap().into_response();
            let query = message.queries[0].clone();
            match answers(&query.name().to_utf8().to_lowercase(), query.query_type()) {
                Ok(found) => {
                    for data in found {
                        message.add_answer(Record::from_rdata(query.name().clone(), 30, data));
                    }
                }
                Err(code) => message.metadata.response_code = code,
            }
            let _ = socket.send_to(&message.to_vec().unwrap(), from);
        }
    });
    address
}

async fn asked(query: &str) -> Result<Vec<Agent>, Broken> {
    let uri = format!("dns:{query}server={}", server());
    match uri.parse() {
        Ok(crate::sync::SourceUri::Dns(uri)) => fetch(&uri, Duration::from_secs(20)).await,
        other => panic!("{other:?}"),
    }
}

fn agent(prefix: &str, ip: &str, hostname: &str) -> Agent {
    Agent { ip: Some(ip.into()), hostname: Some(hostname.into()), ..Agent::new(prefix, prefix) }
}

#[tokio::test]
async fn srv_records_name_hosts_and_ports() {
    let agents = asked("_gateway._tcp.agents.team.svc?prefix=agent-&").await.unwrap();
    let expected = [
        agent("bob", "10.0.0.2:1234", "agent-bob-0.agents.team.svc:1234"),
        agent("zoe", "10.0.0.3", "agent-zoe-0.agents.team.svc"),
    ];
    assert_eq!(agents, expected, "and the database is nobody's agent");
}

#[tokio::test]
async fn addresses_are_told_apart_by_their_names() {
    let agents = asked("agents.team.svc?prefix=agent-&").await.unwrap();
    let expected = [
        agent("bob", "10.0.0.2", "agent-bob-0.agents.team.svc"),
        agent("zoe", "10.0.0.3", "agent-zoe-0.agents.team.svc"),
    ];
    assert_eq!(agents, expected, "bob has two addresses and is one teammate");
}

#[tokio::test]
async fn a_service_without_agents_lists_nobody_and_the_rest_is_broken() {
    assert_eq!(asked("_empty._tcp.team.svc?").await.unwrap(), []);
    assert_eq!(asked("empty.team.svc?").await.unwrap(), []);
    for (query, expected) in [
        ("gone.team.svc?", "there is no name gone.team.svc"),
        ("_gw._tcp.gone.team.svc?", "there is no name _gw._tcp.gone.team.svc"),
        ("nameless.team.svc?", "there is no name 10.0.0.77"),
        ("broken.team.svc?", "cannot look up broken.team.svc"),
    ] {
        let error = asked(query).await.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{query}: {error}");
    }
}

//! The door under attack, and what it must still do afterwards.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use agent_mesh_gateway::{Access, Agent, Config, EchoAgent, Member, Policy, Reload, Roster, TokenHash};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, timeout};

use crate::support::*;

/// Where the peers come from.
pub const ALICE: &str = "10.0.0.2:50000";
pub const MALLORY: &str = "10.0.0.66:50000";
/// Alice's and Bob's devices, which the registry names; and one that nobody knows.
pub const ALICES: u8 = 1;
pub const BOBS: u8 = 2;
pub const STRANGE: u8 = 66;
/// Carol has no device, but a token of her own.
pub const CAROLS_TOKEN: &str = "carols-own-token-carols-own-token";
/// What nobody but the owner and his agent may ever see.
pub const SECRET: &str = "the-owners-secret-words";

pub type Peer = Client<TcpStream>;

pub struct Door {
    pub gateway: Fixture,
    pub reload: Reload,
    ways: Mutex<HashMap<String, SocketAddr>>,
}

/// Attacks a door that has the default rules, and looks whether it stands.
pub async fn assault(attack: impl AsyncFnOnce(&Door)) {
    assault_with("", |_| {}, attack).await;
}

/// Attacks a door with rules of its own.
pub async fn assault_on(rules: &str, attack: impl AsyncFnOnce(&Door)) {
    assault_with(rules, |_| {}, attack).await;
}

pub async fn assault_with(rules: &str, change: impl FnOnce(&mut Config), attack: impl AsyncFnOnce(&Door)) {
    let fight = async {
        let door = Door::open(Arc::new(EchoAgent::new()), rules, change).await;
        attack(&door).await;
        door.stands().await;
    };
    // A door that hangs has fallen, too.
    timeout(Duration::from_secs(30), fight).await.expect("the door hangs");
}

/// The team, and a policy that begins with Carol's token.
pub fn access(rules: &str) -> Access {
    let member = |key: &str, seed: Option<u8>| Member {
        key: key.into(),
        name: key.to_uppercase(),
        device_id: seed.map(device_id),
        tags: [("team".to_owned(), "infra".to_owned())].into(),
    };
    let roster =
        Roster::new([member("alice", Some(ALICES)), member("bob", Some(BOBS)), member("carol", None)]);
    let default = if rules.contains("[default]") { "" } else { "[default]\nmode = \"allow\"\n" };
    let token = TokenHash::of(CAROLS_TOKEN);
    let text = format!("{default}[peers.carol]\ntoken = \"{token}\"\n{rules}");
    Access { policy: Policy::parse(&text).unwrap(), roster }
}

impl Door {
    pub async fn open(agent: Arc<dyn Agent>, rules: &str, change: impl FnOnce(&mut Config)) -> Self {
        let access = access(rules);
        let mut reload = None;
        let gateway = Fixture::start_with(
            agent,
            |config| {
                config.access = access;
                change(config);
            },
            |gateway| reload = Some(gateway.reload()),
        );
        let gateway = gateway.await;
        Self { gateway, reload: reload.unwrap(), ways: Mutex::default() }
    }

    /// A real socket that comes to the gateway as from this address.
    pub async fn tcp(&self, from: &str) -> TcpStream {
        if from.starts_with("127.") {
            return TcpStream::connect(self.gateway.address).await.unwrap();
        }
        let known = self.ways.lock().unwrap().get(from).copied();
        let way = match known {
            Some(way) => way,
            None => self.make_way(from).await,
        };
        TcpStream::connect(way).await.unwrap()
    }

    async fn make_way(&self, from: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = listener.local_addr().unwrap();
        self.ways.lock().unwrap().insert(from.to_owned(), way);
        let (seam, from) = (self.gateway.seam.clone(), from.parse().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let seam = seam.clone();
                tokio::spawn(async move { seam.serve_stream(stream, from).await });
            }
        });
        way
    }

    /// A WebSocket that has its challenge.
    pub async fn dial(&self, from: &str) -> Peer {
        Client::upgrade(self.tcp(from).await).await.unwrap()
    }

    /// What a connect is answered.
    pub async fn knock(&self, hello: &Hello, from: &str) -> Value {
        self.dial(from).await.connect(hello).await
    }

    pub async fn enter(&self, hello: &Hello, from: &str) -> Peer {
        let mut peer = self.dial(from).await;
        let answer = peer.connect(hello).await;
        assert_eq!(answer["ok"], true, "{answer}");
        peer
    }

    pub async fn alice(&self) -> Peer {
        self.enter(&by_device(ALICES), ALICE).await
    }

    pub async fn bob(&self) -> Peer {
        self.enter(&by_device(BOBS), BOB).await
    }

    pub async fn carol(&self) -> Peer {
        self.enter(&Hello::token(CAROLS_TOKEN), CAROL).await
    }

    pub async fn owner(&self) -> Peer {
        self.enter(&Hello::token(TOKEN).scopes(&OWNER), LOCAL).await
    }

    /// The owner talks in his main session and in one that is called like a peer's.
    pub async fn with_secrets(&self) -> Peer {
        let mut owner = self.owner().await;
        for session in ["main", "private"] {
            owner.turn(session, SECRET, &format!("owners-{session}")).await;
        }
        owner
    }

    /// Sends bytes and reads until the other side closes, or says nothing for a while.
    pub async fn raw(&self, from: &str, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.tcp(from).await;
        // The other side may have seen enough before it has read all.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_millis(400), stream.read_to_end(&mut answer)).await;
        answer
    }

    /// The status of the first answer to raw bytes; 0 for none.
    pub async fn status(&self, from: &str, bytes: &[u8]) -> u16 {
        status(&self.raw(from, bytes).await)
    }

    /// It serves everybody as before.
    pub async fn stands(&self) {
        let mut owner = self.owner().await;
        assert_eq!(owner.ok("health", json!({})).await["ok"], true);
        assert_eq!(reply(&owner.turn("the-door-stands", "hi", "the-door-stands").await.1), "echo: hi");
    }
}

pub fn status(answer: &[u8]) -> u16 {
    let head = String::from_utf8_lossy(answer);
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// A device that proves itself and shows no token.
pub fn by_device(seed: u8) -> Hello {
    Hello::auth(json!({})).device(seed)
}

/// The finest code of a refused connect.
pub fn code(answer: &Value) -> &str {
    assert_eq!(answer["ok"], false, "{answer}");
    let error = &answer["error"];
    error["details"]["code"].as_str().or(error["code"].as_str()).unwrap_or_else(|| panic!("{answer}"))
}

/// The parameters of a turn.
pub fn say(session: &str, message: &str, key: &str) -> Value {
    json!({ "sessionKey": session, "message": message, "idempotencyKey": key })
}

/// The reply in the second answer of a run.
pub fn reply(answer: &Value) -> &str {
    answer["payload"]["result"]["payloads"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

/// The rule that a denial names.
pub fn rule(error: &Value) -> &str {
    assert_eq!(error["details"]["code"], "POLICY_DENIED", "{error}");
    error["details"]["rule"].as_str().unwrap()
}

/// That something that others may read says nothing of the owner's.
pub fn keeps_quiet(answer: &Value) {
    let text = answer.to_string();
    assert!(!text.contains(SECRET) && !text.contains(TOKEN) && !text.contains("owners-"), "{text}");
}

/// Nothing of this name comes within a moment.
pub async fn hears_nothing(peer: &mut Peer, name: &str) {
    // An answer to a later request shows that all before it was sent.
    peer.ok("health", json!({})).await;
    assert!(!peer.events.iter().any(|event| event["event"] == name), "{:?}", peer.events);
}

//! Files and variables that are not as they should be.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use super::{HI, Row, put};
use crate::support::{Host, SECRET, strict};

pub fn rows() -> Vec<Row> {
    let invalid = |name, env, says| Row::new(name, HI, 2, "usage").env(env).says(says);
    vec![
        Row::new("registry missing", HI, 2, "registry-missing")
            .host(|host| fs::remove_file(host.config("registry.json")).unwrap())
            .says(&["registry.json", "agent-mesh init", "--registry"]),
        Row::new("registry missing, for list", &["list"], 2, "registry-missing")
            .host(|host| fs::remove_file(host.config("registry.json")).unwrap()),
        Row::new("registry named and missing", HI, 2, "registry-missing")
            .env(&[("MESH_REGISTRY", "elsewhere.json")])
            .says(&["elsewhere.json"]),
        Row::new("registry malformed", HI, 2, "registry-malformed")
            .host(|host| put(host, host.config("registry.json"), "{\n  \"agents\": [,]\n}"))
            .says(&["registry.json:2:14", "agent-mesh init"]),
        Row::new("registry that is a list", HI, 2, "registry-malformed")
            .host(|host| put(host, host.config("registry.json"), "[]"))
            .says(&["registry.json:1:", "a list `agents`"]),
        Row::new("registry of another shape", HI, 2, "registry-malformed")
            .host(|host| put(host, host.config("registry.json"), "{\"agents\": [\n{\"name\": 7}]}"))
            .says(&["registry.json:2:", "agents[0].name"]),
        Row::new("registry that is a folder", HI, 2, "registry-unreadable").host(|host| {
            fs::remove_file(host.config("registry.json")).unwrap();
            fs::create_dir(host.config("registry.json")).unwrap();
        }),
        Row::new("one emailPrefix twice", HI, 2, "registry-duplicate")
            .host(|host| {
                host.registry(
                    &json!([{"name": "Bob", "emailPrefix": "bob"}, {"name": "Rob", "emailPrefix": "BOB"}]),
                );
            })
            .says(&["agents[0] (Bob)", "agents[1] (Rob)", "bob"]),
        Row::new("a field that cannot be", HI, 2, "registry-invalid")
            .host(|host| host.registry(&json!([{"name": "Bob", "emailPrefix": "bob@example.com"}])))
            .says(&["agents[0] (Bob)", "emailPrefix"]),
        Row::new("tokens malformed", HI, 2, "tokens-malformed")
            .host(|host| {
                put(host, host.config("tokens.json"), format!("{{\n\"tokens\": {{\"bob\": {SECRET}}}}}"));
            })
            .says(&["tokens.json:2:"]),
        Row::new("tokens of another shape", &["list"], 2, "tokens-malformed")
            .host(|host| {
                put(host, host.config("tokens.json"), format!("{{\"tokens\": [\"{SECRET}\"]}}"));
            })
            .says(&["tokens.json:1:"]),
        Row::new("tokens that everybody may read", HI, 7, "unsafe-file")
            .host(|host| chmod(host, 0o644))
            .says(&["0644", "chmod 600", "tokens.json"])
            .once(&["chmod 600"]),
        Row::new("tokens that the group may read, for whoami", &["whoami"], 7, "unsafe-file")
            .host(|host| chmod(host, 0o640))
            .says(&["chmod 600"]),
        Row::new("tokens behind a symbolic link", HI, 7, "unsafe-file")
            .host(|host| {
                fs::rename(host.config("tokens.json"), host.path("elsewhere")).unwrap();
                symlink(host.path("elsewhere"), host.config("tokens.json")).unwrap();
            })
            .says(&["symbolic link", "tokens.json"]),
        Row::new("config named and missing", HI, 2, "config-malformed")
            .env(&[("MESH_CONFIG", "nowhere.toml")])
            .says(&["nowhere.toml"]),
        Row::new("config malformed", HI, 2, "config-malformed")
            .host(|host| put(host, host.config("config.toml"), "me = \"a@b.c\"\ntimeout = = 3\n"))
            .says(&["config.toml:2:11"]),
        Row::new("config with an unknown key", HI, 2, "config-malformed")
            .host(|host| put(host, host.config("config.toml"), "tokns = \"x\"\n"))
            .says(&["config.toml:1:1", "tokns"]),
        Row::new("config with a time that is none", HI, 2, "config-malformed")
            .host(|host| put(host, host.config("config.toml"), "timeout = \"soon\"\n"))
            .says(&["config.toml", "timeout"]),
        Row::new("sso.json malformed", &["whoami"], 2, "identity-malformed")
            .host(|host| put(host, "sso.json", "{\n  nope"))
            .env(&[("MESH_MY_EMAIL", "")])
            .says(&["sso.json:2:"]),
        Row::new("--me that is no address", &["whoami", "--me", "a b@c"], 2, "identity-invalid")
            .says(&["--me"]),
        Row::new(
            "serve, with a token that could be guessed",
            &["serve", "--token-file", "short"],
            2,
            "usage",
        )
        .host(|host| put(host, "short", "hunter2"))
        .says(&["short:", "16 characters", "/dev/urandom"]),
        Row::new("serve, with a variable that could be guessed", &["serve"], 2, "usage")
            .env(&[("MESH_GATEWAY_TOKEN", "hunter2")])
            .says(&["MESH_GATEWAY_TOKEN:"]),
        Row::new("nobody identified", &["whoami"], 7, "identity-unknown")
            .env(&[("MESH_MY_EMAIL", "")])
            .says(&["MESH_MY_EMAIL", "USER.md", "sso.json"]),
        Row::new(
            "nobody identified, for broadcast",
            &["broadcast", "--message", "hi"],
            7,
            "identity-unknown",
        )
        .env(&[("MESH_MY_EMAIL", "")])
        .says(&["MESH_MY_EMAIL", "USER.md", "sso.json"]),
        Row::new("device key malformed", HI, 2, "device-key-malformed")
            .host(|host| put(host, host.state("device.pem"), "no key"))
            .gateway(strict),
        Row::new("device key that everybody may read", HI, 7, "unsafe-file")
            .host(|host| {
                let path = host.write(host.state("device.pem"), "no key");
                fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
            })
            .gateway(strict)
            .says(&["chmod 600", "device.pem"]),
        invalid("MESH_MSG_SOFT_LIMIT", &[("MESH_MSG_SOFT_LIMIT", "4k")], &["MESH_MSG_SOFT_LIMIT"]),
        invalid("MESH_MSG_HARD_LIMIT", &[("MESH_MSG_HARD_LIMIT", "-1")], &["MESH_MSG_HARD_LIMIT"]),
        invalid(
            "soft over hard",
            &[("MESH_MSG_SOFT_LIMIT", "9"), ("MESH_MSG_HARD_LIMIT", "8")],
            &["MESH_MSG_SOFT_LIMIT", "MESH_MSG_HARD_LIMIT"],
        ),
        invalid("MESH_TIMEOUT", &[("MESH_TIMEOUT", "soon")], &["correct MESH_TIMEOUT", "90s"]),
        invalid("MESH_CONNECT_TIMEOUT", &[("MESH_CONNECT_TIMEOUT", "0")], &["MESH_CONNECT_TIMEOUT"]),
        invalid("MESH_GATEWAY_URL", &[("MESH_GATEWAY_URL", "10.0.0.1")], &["MESH_GATEWAY_URL"]),
        invalid("MESH_JSON", &[("MESH_JSON", "maybe")], &["MESH_JSON"]),
        invalid(
            "OPENCLAW_ALLOW_INSECURE_PRIVATE_WS",
            &[("OPENCLAW_ALLOW_INSECURE_PRIVATE_WS", "y")],
            &["OPENCLAW_ALLOW_INSECURE_PRIVATE_WS"],
        ),
        Row::new("MESH_MY_EMAIL", HI, 2, "identity-invalid")
            .env(&[("MESH_MY_EMAIL", "a b@c")])
            .says(&["MESH_MY_EMAIL"]),
        Row::new("init from nothing", &["init", "--from", "."], 2, "usage")
            .says(&["registry.json", "tokens.json"]),
    ]
}

fn chmod(host: &Host, mode: u32) {
    fs::set_permissions(host.config("tokens.json"), fs::Permissions::from_mode(mode)).unwrap();
}

// The skill in the real OpenClaw: it is found and eligible, and what it teaches works from inside the agent's exec tool,
// between two real gateways. OpenClaw's own CLI refuses to send from there.
import assert from "node:assert/strict";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { marker, replyTo, toolCall } from "../lib/markers.mjs";
import { Person, teammate } from "../lib/mesh.mjs";
import { notIsolated } from "../lib/netns.mjs";
import { agentMesh, interop } from "../lib/places.mjs";
import { startRealGateway } from "../lib/real-gateway.mjs";

/** The agent's shell finds the binary as a user's does. */
const PATH = `${path.dirname(agentMesh)}:${process.env.PATH}`;

describe("the skill in OpenClaw", { skip: notIsolated }, () => {
  let alice, bob, person, owner;

  before(async () => {
    bob = await startRealGateway({ name: "bob" });
    person = new Person("alice", {
      agents: [teammate("alice"), { ...teammate("bob", bob.url), nickname: "戴泽" }],
      tokens: { bob: bob.token },
      env: { PATH },
    });
    await person.expect(0, "skill", "install");
    alice = await startRealGateway({ name: "alice", home: person.home, env: { PATH, MESH_MY_EMAIL: "alice@example.com" } });
    owner = new Person("owner", { agents: [teammate("alice", alice.url)], tokens: { alice: alice.token } });
  });
  after(() => Promise.all([alice?.stop(), bob?.stop()]));

  const skills = async (...args) => {
    const listed = await alice.cli("skills", "list", "--json", ...args);
    assert.equal(listed.code, 0, listed.stdout + listed.stderr);
    return JSON.parse(listed.stdout).skills.filter((skill) => skill.name.startsWith("agent-team-mesh"));
  };

  /** What the agent's exec tool gave for a command. */
  async function exec(command) {
    const name = marker("call");
    const sent = await owner.expect(0, "send", "--to", "alice", "--timeout", "90s", "--message", `${name} ${toolCall("exec", { command })}`);
    return { text: sent.json.reply.text, calls: alice.calls(name) };
  }

  test("is listed and eligible, with what it is for", async () => {
    const [skill] = await skills("--eligible");
    assert.equal(skill?.eligible, true, JSON.stringify(skill));
    assert.match(skill.description, /message my teammate's agent.*群发 mesh/);
  });

  test("`openclaw skills install` takes its folder, too", async () => {
    const installed = await alice.cli("skills", "install", path.join(interop, "../skill"), "--as", "agent-team-mesh-copy");
    assert.equal(installed.code, 0, installed.stdout + installed.stderr);
  });

  test("the agent's exec tool sends, and gets the reply of the other gateway", async () => {
    const name = marker();
    const { text, calls } = await exec(`agent-mesh send --to 戴泽 --message "${name}"`);
    assert.ok(text.includes(replyTo(name)), text);
    assert.ok(calls[0].prompt.includes("agent-team-mesh"), "the model is told of the skill");
    const [turn] = bob.calls(name);
    assert.match(turn.prompt, /\[agent-mesh\/1 from=alice id=\S+ hops=0 via-shell=exec reply=this-turn\]/);
    assert.equal(bob.calls(name).length, 1);
  });

  test("the old script works, and a loop is refused with what to do", async () => {
    const name = marker();
    const script = ".openclaw/workspace/skills/agent-team-mesh/scripts/agent-mesh.sh";
    const header = "[agent-mesh/1 from=bob id=0197d3f0-8c5e-7cc1-b1a4-0c8f5d4e2a11 hops=0 reply=this-turn]";
    const { text } = await exec(`sh "$HOME/${script}" send --to bob --in-reply-to '${header}' --message ${name}; echo "exit $?"`);
    assert.match(text, /exit 7/);
    assert.match(text, /stop here/);
    assert.equal(bob.calls(name).length, 0);
  });
});

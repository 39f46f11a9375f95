// Pods roll and take each other's addresses. A message for Bob reaches Bob, after one sync, or nobody: never the gateway that
// has his old address now. Bob and Carol are `agent-mesh serve`, Dave is the real OpenClaw; each is on a host of their own.
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { marker, replyTo } from "../lib/markers.mjs";
import { Person, startServe } from "../lib/mesh.mjs";
import { makeNetwork, notIsolated, swapAddresses } from "../lib/netns.mjs";
import { tempDir } from "../lib/places.mjs";
import { startRealGateway } from "../lib/real-gateway.mjs";

const state = ".local/state/agent-team-mesh";

/** `agent-mesh serve` on a host, and its owner. */
async function startGateway(name, network, home) {
  const token = `example-serve-token-of-${name}-0123456789`;
  const serve = await startServe({ host: network[name], listen: "0.0.0.0:18789", token, home, args: ["--agent", "echo"] });
  const owner = new Person(name, { host: network[name], home: serve.home, agents: [], env: { MESH_GATEWAY_TOKEN: token } });
  owner.secrets.push(token);
  return {
    ...serve,
    approve: (requestId) => owner.expect(0, "pair", "approve", requestId),
    /** Whether a message with this text ever reached it. */
    heard: async (text) => (await owner.expect(0, "log")).json.messages.some(({ message }) => message.includes(text)),
  };
}

describe("addresses that are taken over", { skip: notIsolated }, () => {
  let network, bob, carol, dave, alice, list;

  /** What the team's list says: the addresses as they are now. */
  const entries = () =>
    ["bob", "carol", "dave"].map((name) => ({ name: name[0].toUpperCase() + name.slice(1), emailPrefix: name, ip: network[name].address }));
  const publish = () => writeFileSync(list, JSON.stringify({ agents: entries() }));
  const send = (to, text) => ["send", "--to", to, "--message", `say ${text}`];

  /** Alice asks, the owner approves, and Alice fetches her device token. */
  const pair = async (name, approve) => {
    const { json } = await alice.expect(0, "pair", "--to", name);
    await approve(json.requestId);
    assert.equal((await alice.expect(0, "pair", "--to", name)).json.status, "approved");
  };

  before(async () => {
    network = makeNetwork("alice", "bob", "carol", "dave");
    list = path.join(tempDir("list"), "team.json");
    [bob, carol, dave] = await Promise.all([
      startGateway("bob", network),
      startGateway("carol", network),
      startRealGateway({ name: "dave", host: network.dave }),
    ]);
    const tokens = { bob: bob.token, carol: carol.token, dave: dave.token };
    alice = new Person("alice", { host: network.alice, agents: [], tokens });
    publish();
    assert.equal((await alice.expect(0, "sync", "--from", `file:${list}`)).json.added.length, 3);
    await pair("bob", bob.approve);
    await pair("carol", carol.approve);
    await pair("dave", async (requestId) => {
      const approved = await dave.cli("devices", "approve", requestId);
      assert.equal(approved.code, 0, approved.stderr);
    });
  });
  after(() => Promise.all([bob, carol, dave].map((gateway) => gateway?.stop())));

  test("each gateway was met and is known by an identity of its own", async () => {
    for (const name of ["bob", "carol", "dave"]) await alice.expect(0, ...send(name, marker()));
    const { peers } = (await alice.expect(0, "trust", "list")).json;
    assert.equal(new Set(peers.map(({ identity }) => identity.deviceId)).size, 3);
  });

  test("with a device token, the gateway at the old address gets no message, and one sync leads to the right one", async () => {
    swapAddresses(network, "bob", "carol");
    const lost = marker();
    const refused = await alice.expect(5, ...send("bob", lost));
    assert.equal(refused.json.error.code, "device-token-invalid");
    publish();
    const { changed } = (await alice.expect(0, "sync", "--from", `exec:cat ${list}`)).json;
    const moved = changed.filter(({ fields }) => fields.ip).map(({ emailPrefix }) => emailPrefix);
    assert.deepEqual(moved, ["bob", "carol"]);
    const found = marker();
    for (const name of ["bob", "carol"]) {
      const { json } = await alice.expect(0, ...send(name, `${found} for ${name}`));
      assert.match(json.reply.text, new RegExp(`${found} for ${name}`));
    }
    assert.deepEqual([await bob.heard(`${found} for bob`), await carol.heard(`${found} for carol`)], [true, true]);
    for (const gateway of [bob, carol]) assert.equal(await gateway.heard(lost), false);
    assert.deepEqual([await bob.heard("for carol"), await carol.heard("for bob")], [false, false]);
  });

  test("a gateway that lets us in all the same, a copy of Bob's devices, is told from his by its identity", async () => {
    // Two pods made from one volume: each accepts what the other issued.
    await carol.stop();
    const home = tempDir("home-copy");
    mkdirSync(path.join(home, state), { recursive: true, mode: 0o700 });
    copyFileSync(path.join(bob.home, state, "gateway-devices.json"), path.join(home, state, "gateway-devices.json"));
    carol = await startGateway("carol", network, home);
    swapAddresses(network, "bob", "carol");
    const lost = marker();
    const known = (await alice.expect(0, "trust", "show", "bob")).json.identity.deviceId;
    for (const args of [send("bob", lost), [...send("bob", lost), "--via", "chat"], [...send("bob", lost), "--queue"]]) {
      const { json } = await alice.expect(5, ...args);
      assert.equal(json.error.code, "identity-changed");
      assert.ok(json.error.message.includes(known), json.error.message);
      assert.match(json.error.hint, /agent-mesh trust reset bob/);
    }
    const ping = (await alice.expect(0, "ping", "--to", "bob")).json;
    assert.equal(ping.identity.status, "changed");
    publish();
    await alice.expect(0, "sync", "--from", `file:${list}`);
    const found = marker();
    assert.match((await alice.expect(0, ...send("bob", found))).json.reply.text, new RegExp(found));
    assert.deepEqual([await carol.heard(lost), await bob.heard(lost), await bob.heard(found)], [false, false, true]);
  });

  test("Bob's pod that comes back as a new process at a new address is the gateway we know", async () => {
    await bob.stop();
    swapAddresses(network, "bob", "carol");
    bob = await startGateway("bob", network, bob.home);
    publish();
    await alice.expect(0, "sync", "--from", `file:${list}`);
    const found = marker();
    assert.match((await alice.expect(0, ...send("bob", found))).json.reply.text, new RegExp(found));
    assert.equal((await alice.expect(0, "ping", "--to", "bob")).json.identity.status, "known");
  });

  test("the real OpenClaw and Bob's gateway swap: nothing for one reaches the other, and one sync finds both", async () => {
    swapAddresses(network, "bob", "dave");
    const lost = marker();
    for (const name of ["bob", "dave"]) {
      const { json } = await alice.expect(5, ...send(name, lost));
      assert.match(json.error.code, /^(device-token-invalid|identity-changed)$/);
    }
    publish();
    await alice.expect(0, "sync", "--from", `file:${list}`);
    const found = marker();
    assert.equal((await alice.expect(0, ...send("dave", found))).json.reply.text, replyTo(found));
    assert.match((await alice.expect(0, ...send("bob", found))).json.reply.text, new RegExp(found));
    assert.deepEqual([dave.calls(lost).length, await bob.heard(lost)], [0, false]);
    assert.equal((await alice.expect(0, "ping", "--to", "dave")).json.identity.status, "known");
  });
});

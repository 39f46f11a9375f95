// Invites between hosts: one line from Bob's host to Alice's, and she talks to his agent, with no token of his gateway on
// her disk. First at the real gateway, then the same at `agent-mesh serve`; then TLS, where the pin travels in the invite.
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { marker, replyTo } from "../lib/markers.mjs";
import { Person, startServe, teammate } from "../lib/mesh.mjs";
import { makeNetwork, notIsolated } from "../lib/netns.mjs";
import { startRealGateway } from "../lib/real-gateway.mjs";
import { startTap } from "../lib/tap.mjs";
import { until } from "../lib/until.mjs";
import { makeDevice, Wire } from "../lib/wire.mjs";

const opened = (invite) => JSON.parse(Buffer.from(invite.slice("amesh1.".length), "base64url"));
const closed = (holds) => `amesh1.${Buffer.from(JSON.stringify(holds)).toString("base64url")}`;
const told = ({ json }) => `${json.error?.message}\n${json.error?.hint}`;

/** Every file below a folder that holds one of these texts. */
function holding(folder, ...texts) {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = files.map((entry) => path.join(entry.parentPath, entry.name));
  return paths.filter((file) => texts.some((text) => readFileSync(file).includes(text)));
}

/** Bob invites and waits, somebody joins; gives the line that Bob is told first, and both documents. */
async function invited(host, name, guest) {
  const waiting = host.begin("invite", name, "--wait");
  const invite = await waiting.said(1);
  const { json } = await guest.feed(invite, "join", "-");
  return { invite, joined: json, approved: await waiting.line(1), exit: (await waiting.ended).code };
}

/** What holds at either kind of gateway. `say` gives a message and the reply to expect. */
function story(bobOf, say) {
  let bob, himself, alice, device;

  before(async () => {
    bob = await bobOf();
    himself = bob.owner;
    alice = new Person("alice", { host: bob.network.alice, agents: [] });
    alice.secrets.push(bob.token);
    alice.forgetSharedTokens();
  });

  test("invite, join, send: and no shared token in any file of Alice's home", async () => {
    const { invite, joined, approved, exit } = await invited(himself, "alice", alice);
    assert.deepEqual([joined.ok, joined.status, joined.registry.change], [true, "approved", "added"], JSON.stringify(joined));
    assert.deepEqual(joined.peer, { name: "Bob", emailPrefix: "bob" });
    assert.deepEqual([approved.status, exit], ["approved", 0]);
    device = (await alice.expect(0, "whoami")).json.device.id;
    assert.equal(approved.device.deviceId, device);

    const { message, reply } = say();
    const { json } = await alice.expect(0, "send", "--to", "bob", "--message", message);
    assert.equal(json.reply.text, reply);
    const { bootstrapToken, proof } = opened(invite);
    assert.ok(bootstrapToken.length >= 43 && proof.length === 43);
    assert.deepEqual(holding(alice.home, bob.token, bootstrapToken, proof), []);
    assert.notDeepEqual(holding(himself.home, bob.token), [], "the search finds what is there");
  });

  test("Bob's list says whose device it is and since when, and that it may read and write only", async () => {
    const { json } = await himself.expect(0, "pair", "list");
    const [row] = json.paired.filter((row) => row.deviceId === device);
    assert.deepEqual(row.to, { name: "Alice", emailPrefix: "alice" });
    assert.deepEqual([...row.scopes].sort(), ["operator.read", "operator.write"]);
    assert.ok(Date.parse(row.approvedAt) > Date.now() - 120_000, row.approvedAt);
    assert.ok(Date.parse(row.lastSeenAt) >= Date.parse(row.approvedAt) - 1000, JSON.stringify(row));
    assert.doesNotMatch(row.displayName, /invite:/);
  });

  test("another device cannot use the invite, nor Alice a second time", async () => {
    const sent = (await himself.expect(0, "invite", "carol")).json.invite;
    const first = new Person("carol", { host: bob.network.alice, agents: [] });
    assert.equal((await first.feed(sent, "join", "-", "--timeout", "1s")).code, 3);
    const mallory = new Person("mallory", { host: bob.network.alice, agents: [] });
    const refused = await mallory.feed(sent, "join", "-");
    assert.deepEqual([refused.code, refused.json.error.code], [5, "invite-invalid"], refused.shown);

    const decided = (await himself.expect(0, "pair", "approve", "--invited")).json.decisions;
    assert.deepEqual(decided.map(({ decision, reason, to }) => [decision, reason, to.emailPrefix]), [["approved", "invite", "carol"]]);
    assert.equal((await first.feed(sent, "join", "-")).code, 0);
  });

  test("revoking ends the connection that stands with 4001, and her next call says how to come back", async () => {
    // Alice's own key on a socket that stays open, as an outbox worker's or a longer run's would.
    const tap = await startTap({ host: bob.network.alice, target: bob.url, listen: bob.network.alice.address });
    alice.writeRegistry([teammate("bob", tap.url)]);
    const slow = alice.mesh("send", "--to", "bob", "--timeout", "60s", "--message", say("slow8000").message);
    await bob.isBusy();
    const start = Date.now();
    await himself.expect(0, "pair", "revoke", "alice");
    const cut = await slow;
    assert.ok(Date.now() - start < 10_000, "it does not sit out its deadline");
    const close = tap.records().find(({ kind, from }) => kind === "close" && from === "server");
    assert.deepEqual([close?.code, close?.text], [4001, "device removed"]);
    assert.deepEqual([cut.code, cut.json.error.code, cut.json.state], [5, "device-token-invalid", "accepted"], cut.shown);

    const next = await alice.expect(5, "send", "--to", "bob", "--message", say().message);
    assert.equal(next.json.error.code, "device-token-invalid");
    assert.match(told(next), /rotated, revoked or removed.*agent-mesh join -/s);
    alice.writeRegistry([teammate("bob", bob.url)]);
    await tap.stop();
  });

  test("a new invite brings her back", async () => {
    const { joined } = await invited(himself, "alice", alice);
    assert.deepEqual([joined.status, joined.registry.change], ["approved", "unchanged"], JSON.stringify(joined));
    const { message, reply } = say();
    assert.equal((await alice.expect(0, "send", "--to", "bob", "--message", message)).json.reply.text, reply);
  });
}

describe("between hosts", { skip: notIsolated }, () => {
  let network;
  before(() => (network = makeNetwork("alice", "bob", "serve", "dave")));

  describe("at the real gateway", () => {
    let bob, owner;

    before(async () => {
      bob = await startRealGateway({ name: "bob", host: network.bob });
      const agents = [teammate("bob", bob.url), teammate("alice", "")];
      owner = new Person("bob", { host: network.bob, home: bob.home, agents });
      owner.secrets.push(bob.token);
    });
    after(() => bob?.stop());

    let busy;
    const say = (kind) => {
      const text = marker(kind);
      if (kind) busy = text;
      return { message: `say ${text}`, reply: replyTo(text) };
    };
    const isBusy = () => until("the run", () => bob.calls(busy).length > 0);
    story(() => ({ network, owner, token: bob.token, url: bob.url, isBusy }), say);

    test("a setup code of OpenClaw's own CLI is redeemed, and approved because the registry knows the device", async () => {
      const erin = new Person("erin", { host: network.alice, agents: [teammate("bob", bob.url)] });
      const id = (await erin.expect(0, "init")).json.deviceId;
      const watching = owner.begin("pair", "approve", "--from-registry", "--watch");
      const minted = await bob.cli("qr", "--json", "--limited");
      assert.equal(minted.code, 0, minted.stderr);
      const joining = erin.feed(minted.stdout, "join", "-");
      const left = await watching.line(1);
      assert.deepEqual([left.decision, left.reason, left.deviceId], ["left", "not-known", id]);
      owner.writeRegistry([teammate("bob", bob.url), teammate("alice", ""), teammate("erin", "", { deviceId: id })]);
      const approved = await watching.line(2);
      assert.deepEqual([approved.decision, approved.reason, approved.to.emailPrefix], ["approved", "registry", "erin"]);
      assert.equal((await joining).code, 0, (await joining).shown);
      const { message, reply } = say();
      assert.equal((await erin.expect(0, "send", "--to", "bob", "--message", message)).json.reply.text, reply);
      await watching.stop();
    });

    test("a device that the registry knows is left alone when it asks for more than messaging", async () => {
      const greedy = makeDevice();
      owner.writeRegistry([teammate("bob", bob.url), teammate("mallory", "", { deviceId: greedy.deviceId })]);
      const wire = await Wire.open(bob.url);
      const scopes = ["operator.read", "operator.write", "operator.pairing"];
      const asked = await wire.connect({ auth: { token: bob.token }, device: greedy, scopes });
      assert.equal(asked.error.details.code, "PAIRING_REQUIRED", JSON.stringify(asked));
      const { decisions } = (await owner.expect(0, "pair", "approve", "--from-registry")).json;
      const [decision] = decisions.filter(({ deviceId }) => deviceId === greedy.deviceId);
      assert.deepEqual([decision.decision, decision.reason, decision.to.emailPrefix], ["left", "asks-for-more", "mallory"]);
      const { paired } = (await owner.expect(0, "pair", "list")).json;
      assert.ok(!paired.some(({ deviceId }) => deviceId === greedy.deviceId));
    });
  });

  describe("at agent-mesh serve", () => {
    let serve, owner;
    const token = "example-serve-token-0123456789";

    before(async () => {
      const slow = 'read -r line; body=$(cat); case "$body" in *slow*) sleep 8;; esac; echo "$body" | tail -n 1';
      const args = ["--agent", "exec", "--", "/bin/sh", "-c", slow];
      serve = await startServe({ host: network.serve, listen: "0.0.0.0:18789", token, args });
      const url = `ws://${network.serve.address}:18789`;
      owner = new Person("bob", {
        host: network.serve,
        home: serve.home,
        agents: [teammate("bob", url), teammate("alice", "")],
        tokens: { nobody: token },
        env: { MESH_GATEWAY_TOKEN: token },
      });
      serve.url = url;
    });
    after(() => serve?.stop());

    let number = 0;
    const say = (kind) => {
      const message = `hello ${++number} ${kind ?? ""}`.trim();
      return { message, reply: message };
    };
    const isBusy = () =>
      until("the run", async () => (await owner.expect(0, "pair", "list")).json.paired.some((row) => row.connected), { every: 200 });
    story(() => ({ network, owner, token, url: serve.url, isBusy }), say);
  });

  describe("over TLS", () => {
    let dave, owner, pin, invite;

    before(async () => {
      dave = await startRealGateway({ name: "dave", host: network.dave, tls: true });
      const certificate = new X509Certificate(readFileSync(path.join(dave.home, ".openclaw/gateway/tls/gateway-cert.pem")));
      pin = certificate.fingerprint256.replaceAll(":", "").toLowerCase();
      const env = { MESH_GATEWAY_URL: dave.loopbackUrl };
      owner = new Person("dave", { host: network.dave, home: dave.home, agents: [teammate("dave", dave.url)], env });
      owner.secrets.push(dave.token);
    });
    after(() => dave?.stop());

    test("the invite holds the certificate that the gateway made for itself", async () => {
      invite = (await owner.expect(0, "invite", "alice")).json.invite;
      assert.deepEqual([opened(invite).tlsFingerprint, opened(invite).url], [pin, `${dave.url}`]);
    });

    test("with another one in it, nothing of the invite leaves", async () => {
      const alice = new Person("alice", { host: network.alice, agents: [] });
      const wrong = closed({ ...opened(invite), tlsFingerprint: "0".repeat(64) });
      const refused = await alice.feed(wrong, "join", "-");
      assert.deepEqual([refused.code, refused.json.error.code], [5, "identity-changed"], refused.shown);
      assert.deepEqual((await owner.expect(0, "pair", "list")).json.pending, []);
    });

    test("and with the right one it is redeemed, and kept for every later call", async () => {
      const alice = new Person("alice", { host: network.alice, agents: [] });
      const letting = owner.begin("pair", "approve", "--invited", "--watch");
      const joined = await alice.feed(invite, "join", "-");
      assert.equal(joined.code, 0, joined.shown);
      assert.deepEqual([(await letting.line(1)).decision, (await letting.line(1)).reason], ["approved", "invite"]);
      await letting.stop();
      // Beside ourselves, whom `join` writes into a registry that lists nobody.
      const { agents } = JSON.parse(readFileSync(path.join(alice.folder, "registry.json"), "utf8"));
      assert.equal(agents.find((agent) => agent.emailPrefix === "dave").tlsFingerprint, pin);
      const text = marker();
      const { json } = await alice.expect(0, "send", "--to", "dave", "--message", `say ${text}`);
      assert.equal(json.reply.text, replyTo(text));
      assert.deepEqual(holding(alice.home, dave.token), []);
    });
  });
});

// Alice's agent-mesh against the real gateways of Bob and Carol, each on a host of their own: every peer is truly remote.
// The tests are one story and build on each other: nobody knows Alice at first, later everybody does.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { marker, replyTo } from "../lib/markers.mjs";
import { Person, teammate } from "../lib/mesh.mjs";
import { makeNetwork, notIsolated } from "../lib/netns.mjs";
import { run } from "../lib/proc.mjs";
import { startRealGateway } from "../lib/real-gateway.mjs";
import { judge } from "../lib/schema.mjs";
import { startTap } from "../lib/tap.mjs";
import { until } from "../lib/until.mjs";

describe("between hosts", { skip: notIsolated }, () => {
  let network, bob, carol, agents;
  let alice, bobHimself, carolHerself;

  before(async () => {
    network = makeNetwork("alice", "bob", "carol");
    [bob, carol] = await Promise.all([
      startRealGateway({ name: "bob", host: network.bob }),
      startRealGateway({ name: "carol", host: network.carol }),
    ]);
    agents = [
      teammate("alice", `ws://${network.alice.address}:18789`),
      teammate("bob", bob.url, { nickname: "bobby" }),
      teammate("carol", carol.url),
    ];
    alice = new Person("alice", { host: network.alice, agents, tokens: { bob: bob.token, carol: carol.token } });
    // They share their gateway's home, where agent-mesh finds its token as any program on that host would.
    bobHimself = new Person("bob", { host: network.bob, home: bob.home, agents, tokens: { carol: carol.token } });
    carolHerself = new Person("carol", { host: network.carol, home: carol.home, agents, tokens: { bob: bob.token } });
    bobHimself.secrets.push(bob.token);
    carolHerself.secrets.push(carol.token);
  });
  after(() => Promise.all([bob?.stop(), carol?.stop()]));

  /** All a person is told about a failure. */
  const told = ({ json, stderr }) => `${json.error?.message}\n${json.error?.hint}\n${stderr}`;
  const pendingOf = async (gateway) => JSON.parse((await gateway.cli("devices", "list", "--json")).stdout).pending;

  test("a send to a peer that never approved us exits 5, names both ways to approve, and starts no turn", async () => {
    const text = marker();
    const sent = await alice.expect(5, "send", "--to", "bob", "--message", `say ${text}`);
    assert.match(told(sent), /agent-mesh pair approve/);
    assert.match(told(sent), /openclaw devices approve/);
    assert.equal(bob.calls(text).length, 0);
  });

  test("a send without any credential exits 5 and says how to get one", async () => {
    const nobody = new Person("nobody", { host: network.alice, agents });
    const sent = await nobody.expect(5, "send", "--to", "bob", "--message", "hello");
    assert.match(told(sent), /pair|token/);
  });

  test("ping without a device token shows how far it got and files no pairing request", async () => {
    const stranger = new Person("stranger", { host: network.alice, agents, tokens: { bob: bob.token } });
    const before = (await pendingOf(bob)).length;
    const { json } = await stranger.expect(0, "ping", "--to", "bob");
    const steps = json.steps.map(({ step }) => step);
    assert.deepEqual(steps, ["resolve", "tcp", "tls", "ws", "challenge", "auth", "scope"].filter((step) => steps.includes(step)));
    for (const step of ["tcp", "ws", "challenge"]) assert.equal(json.steps.find((s) => s.step === step)?.ok, true, step);
    assert.equal((await pendingOf(bob)).length, before);
  });

  let requestId;
  test("pair files a request for read and write only, and prints the exact commands for Bob's side", async () => {
    const { json } = await alice.expect(0, "pair", "--to", "bob");
    assert.equal(json.status, "pending");
    assert.deepEqual(json.to, { name: "Bob", emailPrefix: "bob" });
    requestId = json.requestId;
    const commands = json.commands.join("\n");
    assert.ok(commands.includes(`agent-mesh pair approve ${requestId}`), commands);
    assert.ok(commands.includes(`openclaw devices approve ${requestId}`), commands);

    const pending = (await pendingOf(bob)).find((row) => row.requestId === requestId);
    assert.deepEqual([...pending.scopes].sort(), ["operator.read", "operator.write"]);
    assert.equal(pending.remoteIp, network.alice.address);
  });

  test("pair list on Bob's host shows Alice's device, and pair approve lets it in", async () => {
    const { device } = (await alice.expect(0, "whoami")).json;
    const { json } = await bobHimself.expect(0, "pair", "list");
    const row = json.pending.find((pending) => pending.requestId === requestId);
    assert.equal(row.deviceId, device.id);
    assert.deepEqual([...row.scopes].sort(), ["operator.read", "operator.write"]);

    await bobHimself.expect(0, "pair", "approve", requestId);
    const paired = JSON.parse((await bob.cli("devices", "list", "--json")).stdout).paired;
    assert.deepEqual(paired.map(({ deviceId }) => deviceId), [device.id]);
    assert.deepEqual((await bobHimself.expect(0, "pair", "list")).json.paired.map(({ deviceId }) => deviceId), [device.id]);
  });

  test("then a send brings back the real reply of Bob's agent, after exactly one turn", async () => {
    const text = marker();
    const { json } = await alice.expect(0, "send", "--to", "bob", "--message", `say ${text}`);
    assert.equal(json.state, "replied");
    assert.equal(json.via, "agent");
    assert.equal(json.reply.text, replyTo(text));
    assert.match(json.session, /mesh:alice$/);
    const { reachedAt, acceptedAt, finishedAt } = json.receipt;
    assert.ok(Date.parse(reachedAt) <= Date.parse(acceptedAt) && Date.parse(acceptedAt) <= Date.parse(finishedAt), JSON.stringify(json.receipt));
    assert.equal(bob.calls(text).length, 1);
  });

  test("Bob's model is told by his own gateway that Alice wrote, not his user", async () => {
    const text = marker();
    await alice.expect(0, "send", "--to", "bob", "--message", `say ${text}`);
    const [{ prompt }] = bob.calls(text);
    assert.match(prompt, /\[Inter-session message\] sourceSession=mesh:alice sourceChannel=agent-mesh sourceTool=agent_mesh isUser=false/);
  });

  test("the next send needs no shared token: the device token is enough", async () => {
    alice.forgetSharedTokens();
    const text = marker();
    const { json } = await alice.expect(0, "send", "--to", "bob", "--message", `say ${text}`);
    assert.equal(json.reply.text, replyTo(text));
    writeFileSync(alice.tokensFile, JSON.stringify({ tokens: { bob: bob.token, carol: carol.token } }), { mode: 0o600 });
  });

  test("a person sees the plain reply, and --quiet prints nothing else", async () => {
    const text = marker("chunks40");
    const shown = await alice.type("send", "--to", "bobby", "--quiet", "--message", `say ${text}`);
    assert.equal(shown.code, 0, shown.stderr);
    assert.equal(shown.stdout, `${replyTo(text)}\n`);
  });

  test("pair --wait ends by itself once OpenClaw's own CLI approves", async () => {
    const waiting = alice.expect(0, "pair", "--to", "carol", "--wait");
    const row = await until("Alice's request at Carol's", async () => (await pendingOf(carol))[0], { ms: 30_000, every: 500 });
    const approved = await carol.cli("devices", "approve", row.requestId);
    assert.equal(approved.code, 0, approved.stderr);
    const { json } = await waiting;
    assert.equal(json.status, "approved");
  });

  test("broadcast reaches both real gateways and brings both replies, in registry order, without ourselves", async () => {
    const text = marker();
    const { json } = await alice.expect(0, "broadcast", "--message", `say ${text}`);
    assert.deepEqual(json.results.map(({ to, state, reply }) => [to.emailPrefix, state, reply.text]), [
      ["bob", "replied", replyTo(text)],
      ["carol", "replied", replyTo(text)],
    ]);
    assert.equal(json.counts.replied, 2);
    assert.deepEqual([bob.calls(text).length, carol.calls(text).length], [1, 1]);
  });

  test("list tells who is online and paired, and tries no credential at all", async () => {
    // Nobody listens on the port beside Bob's, and Dave has no address.
    const registry = path.join(alice.home, "wide.json");
    const closed = teammate("closed", `ws://${network.bob.address}:18790`);
    writeFileSync(registry, JSON.stringify({ agents: [...agents, closed, { name: "Dave", emailPrefix: "dave" }] }));
    const tap = await startTap({ host: network.alice, target: bob.url, listen: network.alice.address });
    const tapped = path.join(alice.home, "tapped.json");
    writeFileSync(tapped, JSON.stringify({ agents: [teammate("bob", tap.url)] }));

    const { json } = await alice.expect(0, "list", "--registry", registry);
    const rows = Object.fromEntries(json.agents.map((row) => [row.emailPrefix, row]));
    assert.deepEqual(
      Object.fromEntries(Object.entries(rows).map(([name, { status }]) => [name, status])),
      { alice: "unreachable", bob: "online", carol: "online", closed: "unreachable", dave: "no-address" },
    );
    assert.deepEqual([rows.alice.self, rows.bob.self], [true, false]);
    assert.deepEqual([rows.bob.paired, rows.closed.paired], [true, false]);
    assert.equal(typeof rows.bob.latencyMs, "number");
    assert.deepEqual(json.summary, { total: json.agents.length, online: 2 });

    await alice.expect(0, "list", "--registry", tapped);
    assert.equal(tap.connects(), 0);
    await tap.stop();
  });

  test("ping of a paired peer passes every step", async () => {
    const { json } = await alice.expect(0, "ping", "--to", "bob");
    assert.deepEqual(json.steps.filter(({ ok }) => ok === false), []);
    const steps = json.steps.map(({ step }) => step);
    for (const step of ["resolve", "tcp", "ws", "challenge", "auth", "scope"]) assert.ok(steps.includes(step), steps.join());
    assert.ok(json.rttMs > 0);
  });

  test("ping of a host where nothing listens exits 6", async () => {
    const { json } = await alice.expect(6, "ping", "--to", "alice");
    assert.ok(json.steps.some(({ ok }) => ok === false));
  });

  test("--via chat brings the reply of its own run", async () => {
    const text = marker();
    const { json } = await alice.expect(0, "send", "--to", "bob", "--via", "chat", "--message", `say ${text}`);
    assert.deepEqual([json.state, json.via, json.reply.text], ["replied", "chat", replyTo(text)]);
    assert.equal(bob.calls(text).length, 1);
  });

  test("--no-wait returns once the gateway accepted, and the turn still runs, once", async () => {
    const text = marker("slow3000");
    const { json, ms } = await alice.expect(0, "send", "--to", "bob", "--no-wait", "--message", `say ${text}`);
    assert.equal(json.state, "accepted");
    assert.ok(ms < 3000, `${ms} ms`);
    await until("the turn", () => bob.calls(text).length > 0);
    // A later message of the same session can only be answered after that turn.
    const next = marker();
    await alice.expect(0, "send", "--to", "bob", "--message", `say ${next}`);
    assert.equal(bob.calls(text).length, 1);
  });

  test("when the reply is late we exit 3 with the id, and the peer's run is not aborted", async () => {
    const text = marker("slow4000");
    const { json } = await alice.expect(3, "send", "--to", "bob", "--timeout", "2s", "--message", `say ${text}`);
    assert.equal(json.state, "accepted");
    assert.match(json.id, /^[0-9a-f-]{36}$/);
    const next = marker();
    const later = await alice.expect(0, "send", "--to", "bob", "--message", `say ${next}`);
    assert.equal(later.json.reply.text, replyTo(next));
    // An aborted run would leave no answer in the conversation the model is shown next.
    assert.ok(bob.calls(next)[0].prompt.includes(replyTo(text)));
    assert.equal(bob.calls(text).length, 1);
  });

  test("a run that fails at the peer exits 1 and says so", async () => {
    const text = marker("error");
    const { json } = await alice.expect(1, "send", "--to", "bob", "--message", `say ${text}`);
    assert.equal(json.state, "failed");
    assert.match(json.error.message, /LLM request failed|refuses this prompt/);
    assert.equal(bob.calls(text).length, 1);
  });

  test("two senders to one busy session each get their own reply", async () => {
    const { json } = await carolHerself.expect(0, "pair", "--to", "bob");
    await bobHimself.expect(0, "pair", "approve", json.requestId);
    const [first, second] = [marker("slow1500"), marker("slow1000")];
    const send = (who, text) => who.expect(0, "send", "--to", "bob", "--session", "standup", "--message", `say ${text}`);
    const replies = await Promise.all([send(alice, first), send(carolHerself, second)]);
    assert.deepEqual(replies.map((reply) => reply.json.reply.text), [replyTo(first), replyTo(second)]);
    assert.deepEqual([bob.calls(first).length, bob.calls(second).length], [1, 1]);
  });

  test("by default each sender has a session of their own, which the other's words never enter", async () => {
    const [first, second] = [marker(), marker()];
    await alice.expect(0, "send", "--to", "bob", "--message", `say ${first}`);
    await carolHerself.expect(0, "send", "--to", "bob", "--message", `say ${second}`);
    assert.ok(!bob.calls(second)[0].prompt.includes(first));
    assert.match(bob.calls(second)[0].prompt, /sourceSession=mesh:carol/);
  });

  test("on Bob's own host a send over loopback needs nothing but the gateway's token", async () => {
    const registry = path.join(bob.home, "loopback.json");
    writeFileSync(registry, JSON.stringify({ agents: [teammate("home", bob.loopbackUrl)] }));
    const tokens = path.join(bob.home, "loopback-tokens.json");
    writeFileSync(tokens, JSON.stringify({ tokens: { home: bob.token } }), { mode: 0o600 });
    const text = marker();
    const { json } = await bobHimself.expect(0, "send", "--to", "home", "--registry", registry, "--tokens", tokens, "--message", `say ${text}`);
    assert.equal(json.reply.text, replyTo(text));
  });

  describe("on the wire", () => {
    let tap, registry;

    before(async () => {
      // On Alice's LAN address, not on loopback, so that neither side takes the connection for a local one.
      tap = await startTap({ host: network.alice, target: bob.url, listen: network.alice.address });
      registry = path.join(alice.home, "through-the-tap.json");
      writeFileSync(registry, JSON.stringify({ agents: [teammate("bob", tap.url)] }));
    });
    after(() => tap?.stop());

    const requests = (method) => tap.frames().filter(({ frame }) => frame.method === method).map(({ frame }) => frame.params);

    test("every frame of send, --via chat and ping is what the published schema asks for", async () => {
      for (const args of [["send"], ["send", "--via", "chat"]]) {
        await alice.expect(0, ...args, "--to", "bob", "--registry", registry, "--message", `say ${marker("chunks40")}`);
      }
      await alice.expect(0, "ping", "--to", "bob", "--registry", registry);
      const ours = judge(tap.frames().filter(({ from }) => from === "client"));
      assert.deepEqual(ours.faults, []);
      for (const definition of ["ConnectParams", "AgentParams", "ChatSendParams", "AgentWaitParams"]) {
        assert.ok(ours.judged.has(definition), `${definition} was never sent`);
      }
    });

    test("so is every frame of pair list, approve and reject", async (t) => {
      const door = await startTap({ host: network.bob, target: bob.loopbackUrl });
      t.after(door.stop);
      const ask = async (name) => {
        const stranger = new Person(name, { host: network.alice, agents, tokens: { bob: bob.token } });
        return (await stranger.expect(0, "pair", "--to", "bob")).json.requestId;
      };
      await bobHimself.expect(0, "pair", "list", "--gateway", door.url);
      await bobHimself.expect(0, "pair", "approve", await ask("frank"), "--gateway", door.url);
      await bobHimself.expect(0, "pair", "reject", await ask("grace"), "--gateway", door.url);
      const ours = judge(door.frames().filter(({ from }) => from === "client"));
      assert.deepEqual(ours.faults, []);
      for (const definition of ["DevicePairListParams", "DevicePairApproveParams", "DevicePairRejectParams"]) {
        assert.ok(ours.judged.has(definition), `${definition} was never sent`);
      }
    });

    test("we introduce ourselves as documented, ask for read and write only, and offer no compression or Origin", () => {
      const connect = requests("connect").at(-1);
      assert.deepEqual([connect.client.id, connect.client.mode, connect.client.platform], ["gateway-client", "backend", "agent-mesh"]);
      assert.ok(connect.client.displayName);
      assert.deepEqual([connect.minProtocol, connect.maxProtocol], [3, 4]);
      assert.deepEqual([...connect.scopes].sort(), ["operator.read", "operator.write"]);
      assert.ok(connect.caps.includes("session-scoped-events"));
      assert.ok(connect.auth.deviceToken ?? connect.auth.token);
      assert.ok(connect.device.signature);
      assert.notEqual(connect.auth.token, bob.token, "the shared token must stay at home once there is a device token");
      const [{ text: head }] = tap.records().filter(({ kind, from, text }) => kind === "http" && from === "client" && /upgrade: *websocket/i.test(text));
      assert.doesNotMatch(head, /^(origin|sec-websocket-extensions):/im);
    });

    test("our deadline never becomes the run's: agent carries no timeout", () => {
      for (const params of requests("agent")) assert.ok(!("timeout" in params), JSON.stringify(params));
      assert.ok(requests("agent").length > 0);
    });

    test("every agent call is attributed to its sender", () => {
      for (const { inputProvenance } of requests("agent")) {
        assert.deepEqual(inputProvenance, {
          kind: "inter_session",
          sourceSessionKey: "mesh:alice",
          sourceChannel: "agent-mesh",
          sourceTool: "agent_mesh",
        });
      }
    });
  });

  describe("with a wrong token", () => {
    let tap, mallory;

    before(async () => {
      tap = await startTap({ host: network.carol, target: bob.url, listen: network.carol.address });
      const tokens = { bob: "this-is-not-the-token-of-bob" };
      mallory = new Person("mallory", { host: network.carol, agents: [teammate("bob", tap.url)], tokens });
    });
    after(() => tap?.stop());

    // Ten failures in a minute would lock out everybody behind this address for five.
    for (const args of [["send", "--message", "hello"], ["pair"], ["broadcast", "--message", "hello"], ["ping"]]) {
      test(`${args[0]} tries it exactly once, says so, and never retries`, async () => {
        const before = tap.connects();
        const to = args[0] === "broadcast" ? [] : ["--to", "bob"];
        const result = await mallory.mesh(...args, ...to);
        assert.equal(tap.connects() - before, 1, result.shown);
        assert.match(result.stdout + result.stderr, /token/i);
        if (args[0] === "send" || args[0] === "pair") assert.equal(result.code, 5, result.shown);
        if (args[0] === "ping") assert.equal(result.json.steps.find(({ step }) => step === "auth").ok, false, result.shown);
      });
    }

    test("and Bob still lets a paired peer in from the same address", async () => {
      const text = marker();
      const { json } = await carolHerself.expect(0, "send", "--to", "bob", "--message", `say ${text}`);
      assert.equal(json.reply.text, replyTo(text));
    });
  });

  describe("who may no longer", () => {
    test("pair revoke on Bob's host makes Alice's next send exit 5 without a turn", async () => {
      alice.forgetSharedTokens();
      const { device } = (await alice.expect(0, "whoami")).json;
      await bobHimself.expect(0, "pair", "revoke", device.id);
      const text = marker();
      const sent = await alice.expect(5, "send", "--to", "bob", "--message", `say ${text}`);
      assert.match(told(sent), /rotated, revoked or removed/);
      assert.equal(bob.calls(text).length, 0);
    });

    test("pair reject on Bob's host removes the request", async () => {
      const stranger = new Person("eve", { host: network.alice, agents, tokens: { bob: bob.token } });
      const { json } = await stranger.expect(0, "pair", "--to", "bob");
      await bobHimself.expect(0, "pair", "reject", json.requestId);
      assert.ok(!(await pendingOf(bob)).some(({ requestId: id }) => id === json.requestId));
    });
  });

  test("no home holds a readable secret: device key and tokens are 0600", async () => {
    const { stdout } = await run(["find", path.join(alice.home, ".local/state"), "-type", "f", "-printf", "%m %f\n"]);
    assert.notEqual(stdout, "");
    for (const line of stdout.trim().split("\n")) assert.match(line, /^600 /, stdout);
  });
});

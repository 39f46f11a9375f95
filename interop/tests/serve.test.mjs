// The other way round: OpenClaw's own CLI and the reference client talk to `agent-mesh serve`. Loopback is enough here.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { startServe } from "../lib/mesh.mjs";
import { makeNetwork, notIsolated } from "../lib/netns.mjs";
import { openclaw, tempDir } from "../lib/places.mjs";
import { run } from "../lib/proc.mjs";
import { connectReference } from "../lib/reference-client.mjs";
import { judge } from "../lib/schema.mjs";
import { startTap } from "../lib/tap.mjs";
import { until } from "../lib/until.mjs";
import { makeDevice } from "../lib/wire.mjs";

const token = "example-serve-token-0123456789";
const home = tempDir("home-cli");

/** OpenClaw's own CLI on a machine that has no OpenClaw configuration. */
async function cli(url, args, secret = token) {
  const argv = [process.execPath, openclaw, ...args, "--json", "--url", url, "--token", secret];
  const result = await run(argv, { env: { PATH: process.env.PATH, HOME: home, TMPDIR: home, NO_COLOR: "1" }, cwd: home });
  return { ...result, shown: `${args.join(" ")}: exit ${result.code}\n${result.stdout}\n${result.stderr}` };
}

const gatewayCall = (url, method, params = {}, { more = [], secret } = {}) =>
  cli(url, ["gateway", "call", method, "--params", JSON.stringify(params), ...more], secret);

/** Stopped with the test, however it ends: a forgotten client would reconnect for ever. */
async function connect(t, url, options) {
  const reference = await connectReference(url, { token, ...options });
  t.after(reference.stop);
  return reference;
}

const message = (text, more) => ({ sessionKey: "agent:main:mesh:alice", message: text, idempotencyKey: randomUUID(), ...more });
const textOf = (final) => final.result.payloads.map((payload) => payload.text).join("\n");

describe("agent-mesh serve --agent echo", () => {
  let serve, tap, patient;
  const ticks = [];

  before(async () => {
    serve = await startServe({ token, args: ["--agent", "echo"] });
    tap = await startTap({ target: serve.url });
    // Opened first and asked last: it has been silent for as long as this file takes.
    patient = await connectReference(tap.url, { token, onEvent: (event) => event.event === "tick" && ticks.push(Date.now()) });
  });
  after(async () => {
    await patient?.stop();
    await Promise.all([serve?.stop(), tap?.stop()]);
  });

  const overHttp = (route) => fetch(serve.url.replace("ws", "http") + route);

  test("answers the health probes of OpenClaw, and / for the old skill's online check", async () => {
    assert.equal((await overHttp("/")).status, 200);
    assert.deepEqual(await (await overHttp("/healthz")).json(), { ok: true, status: "live" });
    const ready = await overHttp("/readyz");
    assert.equal(ready.status, 200);
    assert.equal((await ready.json()).ready, true);
  });

  describe("OpenClaw's own CLI", () => {
    test("gets health", async () => {
      const called = await gatewayCall(tap.url, "health");
      assert.equal(called.code, 0, called.shown);
      assert.equal(JSON.parse(called.stdout).ok, true);
    });

    test("runs an agent turn and waits for its reply", async () => {
      const called = await gatewayCall(tap.url, "agent", message("is the build green?"), { more: ["--expect-final"] });
      assert.equal(called.code, 0, called.shown);
      const final = JSON.parse(called.stdout);
      assert.equal(final.status, "ok");
      assert.match(textOf(final), /is the build green\?/);
    });

    test("is given a limited one-time code, in the shape of its own gateway's", async () => {
      const params = { bootstrapProfile: "limited", includeQr: false, publicUrl: "ws://10.0.0.11:18789" };
      const called = await gatewayCall(tap.url, "device.pair.setupCode", params);
      assert.equal(called.code, 0, called.shown);
      const minted = JSON.parse(called.stdout);
      assert.deepEqual([minted.access, minted.auth, minted.gatewayUrl], ["limited", "token", params.publicUrl]);
      const code = JSON.parse(Buffer.from(minted.setupCode, "base64url"));
      assert.deepEqual(Object.keys(code).sort(), ["bootstrapToken", "expiresAtMs", "url"]);
    });

    test("lists paired devices as the owner", async () => {
      const called = await gatewayCall(tap.url, "device.pair.list");
      assert.equal(called.code, 0, called.shown);
      const list = JSON.parse(called.stdout);
      assert.ok(Array.isArray(list.pending) && Array.isArray(list.paired), called.shown);
    });

    for (const method of ["status", "agents.list", "gateway.identity.get"]) {
      test(`gets ${method}`, async () => {
        const called = await gatewayCall(tap.url, method);
        assert.equal(called.code, 0, called.shown);
        assert.equal(typeof JSON.parse(called.stdout), "object");
      });
    }

    test("is told about a wrong token and an unknown method", async () => {
      const wrong = await gatewayCall(tap.url, "health", {}, { secret: "this-is-not-the-token-at-all" });
      assert.notEqual(wrong.code, 0);
      assert.match(wrong.stdout + wrong.stderr, /token mismatch|unauthorized/i);
      const unknown = await gatewayCall(tap.url, "no.such.method");
      assert.notEqual(unknown.code, 0);
      assert.match(unknown.stdout + unknown.stderr, /no\.such\.method|missing scope/);
    });
  });

  describe("the reference client", () => {
    test("connects: protocol 4, the scopes it asked for, limits it can obey", async (t) => {
      const { hello } = await connect(t, tap.url);
      assert.equal(hello.protocol, 4);
      assert.deepEqual([...hello.auth.scopes].sort(), ["operator.read", "operator.write"]);
      assert.ok(hello.policy.maxPayload > 0 && hello.policy.tickIntervalMs > 0);
      for (const method of ["agent", "agent.wait", "chat.send", "chat.history", "health", "status", "agents.list", "device.pair.list"]) {
        assert.ok(hello.features.methods.includes(method), `${method} is not announced`);
      }
    });

    test("gets both answers of agent: accepted, then the reply, under the run id it chose", async (t) => {
      const { request } = await connect(t, tap.url);
      const accepted = [];
      const params = message("two answers, one id");
      const final = await request("agent", params, { expectFinal: true, onAccepted: (payload) => accepted.push(payload) });
      assert.deepEqual(accepted.map(({ status, runId }) => [status, runId]), [["accepted", params.idempotencyKey]]);
      assert.equal(final.status, "ok");
      assert.equal(final.runId, params.idempotencyKey);
      assert.match(textOf(final), /two answers, one id/);
      const waited = await request("agent.wait", { runId: params.idempotencyKey, timeoutMs: 2000 });
      assert.equal(waited.status, "ok");
      assert.match(waited.terminalReply.text, /two answers, one id/);
    });

    test("re-sending a finished run returns the same answer instead of a second turn", async (t) => {
      const { request } = await connect(t, tap.url);
      const params = message(`once only ${randomUUID()}`);
      const first = await request("agent", params, { expectFinal: true });
      const again = await request("agent", params, { expectFinal: true });
      assert.equal(textOf(again), textOf(first));
      const history = await request("chat.history", { sessionKey: params.sessionKey });
      assert.equal(history.messages.filter((row) => row.role === "user" && row.idempotencyKey === `${params.idempotencyKey}:user`).length, 1);
    });

    test("chat.send: the final event and the history row of its own run hold the reply", async (t) => {
      const events = [];
      const { request } = await connect(t, tap.url, { onEvent: (event) => events.push(event) });
      const params = { sessionKey: "agent:main:mesh:chat", message: "a chat message", idempotencyKey: randomUUID() };
      const started = await request("chat.send", params);
      assert.deepEqual([started.runId, started.status], [params.idempotencyKey, "started"]);
      const final = await until("the final chat event", () =>
        events.find(({ event, payload }) => event === "chat" && payload.runId === params.idempotencyKey && payload.state === "final"),
      );
      assert.match(final.payload.message.content.map((part) => part.text).join(""), /a chat message/);

      const { messages } = await request("chat.history", { sessionKey: params.sessionKey });
      const user = messages.findIndex((row) => row.role === "user" && row.idempotencyKey === `${params.idempotencyKey}:user`);
      assert.notEqual(user, -1, JSON.stringify(messages));
      const reply = messages.slice(user + 1).find((row) => row.role === "assistant");
      assert.equal(reply.__openclaw.runId, params.idempotencyKey);
      assert.match(JSON.stringify(reply.content), /a chat message/);
    });

    test("agent.wait of an unknown run times out instead of hanging or failing", async (t) => {
      const { request } = await connect(t, tap.url);
      const waited = await request("agent.wait", { runId: randomUUID(), timeoutMs: 200 });
      assert.equal(waited.status, "timeout");
    });

    test("is refused with a wrong token, in the words its own code branches on", async (t) => {
      const refused = connectReference(tap.url, { token: "this-is-not-the-token-at-all" });
      await assert.rejects(refused, (error) => error.details?.code === "AUTH_TOKEN_MISMATCH");
    });

    test("is told the missing scope, an unknown method, and what is wrong with its params", async (t) => {
      // Past the tap: what is wrong on purpose must not be held against the schema check below.
      const reader = await connect(t, serve.url, { scopes: ["operator.read"] });
      await assert.rejects(reader.request("agent", message("x")), (error) => error.details?.code === "MISSING_SCOPE");
      const writer = await connect(t, serve.url);
      await assert.rejects(writer.request("no.such.method", {}));
      await assert.rejects(writer.request("agent", { message: "", idempotencyKey: randomUUID() }), { gatewayCode: "INVALID_REQUEST" });
    });

    test("with a device it is issued a token that later lets it in alone", async (t) => {
      const device = makeDevice();
      const cli = { device, clientName: "cli", mode: "cli", clientDisplayName: "interop device" };
      const first = await connect(t, tap.url, cli);
      assert.match(first.issued.token ?? "", /^\S{20,}$/, "hello-ok carried no deviceToken");
      const second = await connect(t, tap.url, { ...cli, token: undefined, deviceToken: first.issued.token });
      assert.deepEqual([...second.hello.auth.scopes].sort(), ["operator.read", "operator.write"]);
    });

    test("a device that signs with another key is refused", async (t) => {
      const [device, other] = [makeDevice(), makeDevice()];
      const refused = connectReference(tap.url, { token, device: { ...device, privateKeyPem: other.privateKeyPem }, clientName: "cli", mode: "cli" });
      await assert.rejects(refused, (error) => error.details?.code === "DEVICE_AUTH_SIGNATURE_INVALID");
    });
  });

  describe("on the wire", () => {
    test("the silent connection was kept alive by ticks at the announced interval", async () => {
      const { tickIntervalMs } = patient.hello.policy;
      assert.ok(tickIntervalMs <= 30_000, `${tickIntervalMs} ms`);
      await until("two ticks", () => ticks.length >= 2, { ms: 2 * tickIntervalMs + 5000 });
      assert.equal((await patient.request("health", {})).ok, true);
    });

    test("event numbers of a connection have no gap", () => {
      const bySeries = Map.groupBy(
        tap.frames().filter(({ from, frame }) => from === "server" && frame.type === "event" && frame.seq !== undefined),
        ({ connection }) => connection,
      );
      assert.ok(bySeries.size > 0);
      for (const [connection, events] of bySeries) {
        assert.deepEqual(events.map(({ frame }) => frame.seq), events.map((_, index) => index + 1), `connection ${connection}`);
      }
    });

    test("every frame, theirs and ours, is what the published schema asks for", () => {
      const { faults, judged } = judge(tap.frames());
      assert.deepEqual(faults, []);
      for (const definition of ["ConnectParams", "HelloOk", "AgentParams", "ChatSendParams", "ChatEvent", "TickEvent", "AgentsListResult", "ErrorShape"]) {
        assert.ok(judged.has(definition), `no ${definition} was seen`);
      }
    });
  });
});

describe("agent-mesh serve --agent exec", () => {
  const serving = async (t, ...command) => {
    const serve = await startServe({ token, args: ["--agent", "exec", "--", ...command] });
    t.after(serve.stop);
    return connect(t, serve.url);
  };
  const ask = ({ request }, text) => request("agent", message(text), { expectFinal: true });

  test("the message reaches the command's stdin and its stdout is the reply, byte for byte", async (t) => {
    const text = 'über "quotes" $(not run) \\n 日本語 🦞\nsecond line';
    // A header may precede the text; the text itself must arrive unchanged.
    assert.ok(textOf(await ask(await serving(t, "cat"), text)).includes(text));
  });

  test("arguments are passed as they are, without a shell", async (t) => {
    assert.equal(textOf(await ask(await serving(t, "printf", "%s|", "a b", "$HOME", "*"), "hello")), "a b|$HOME|*|");
  });

  test("a command that never reads its stdin is fine, however long the message", async (t) => {
    assert.equal(textOf(await ask(await serving(t, "echo", "done"), "x".repeat(300_000))).trim(), "done");
  });

  test("a failing command is a failed run, not a reply", async (t) => {
    const outcome = await ask(await serving(t, "false"), "hello").then((final) => final.status, (error) => error.gatewayCode);
    assert.notEqual(outcome, "ok");
  });
});

describe("agent-mesh serve between hosts", { skip: notIsolated }, () => {
  let serve, door, remote;

  before(async () => {
    const network = makeNetwork("bob");
    serve = await startServe({ host: network.bob, listen: "0.0.0.0:18789", token, args: ["--agent", "echo"] });
    remote = `ws://${network.bob.address}:18789`;
    // Standing on bob's host it makes us his owner.
    door = await startTap({ host: network.bob, target: "ws://127.0.0.1:18789", listen: network.bob.address });
  });
  after(() => Promise.all([serve?.stop(), door?.stop()]));

  test("the shared token alone gives a remote client no scopes", async (t) => {
    const { hello, request } = await connect(t, remote);
    assert.deepEqual(hello.auth.scopes, []);
    await assert.rejects(request("agent", message("x")), (error) => error.details?.code === "MISSING_SCOPE");
  });

  test("a remote reference client is paired by OpenClaw's own CLI, and its device token then suffices", async (t) => {
    const device = makeDevice();
    const refusal = await connectReference(remote, { token, device }).then(() => assert.fail("let in unpaired"), (error) => error);
    assert.equal(refusal.details?.code, "PAIRING_REQUIRED");
    const { requestId } = refusal.details;

    const listed = await cli(door.url, ["devices", "list"]);
    assert.deepEqual(JSON.parse(listed.stdout).pending.map((row) => [row.requestId, row.deviceId]), [[requestId, device.deviceId]], listed.shown);
    const approved = await cli(door.url, ["devices", "approve", requestId]);
    assert.equal(approved.code, 0, approved.shown);

    const first = await connect(t, remote, { device });
    assert.deepEqual([...first.hello.auth.scopes].sort(), ["operator.read", "operator.write"]);
    const second = await connect(t, remote, { device, token: undefined, deviceToken: first.issued.token });
    assert.match(textOf(await second.request("agent", message("from afar"), { expectFinal: true })), /from afar/);
  });
});

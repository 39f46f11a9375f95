// The judges are judged first: if the mock model, the tap or the schema were blind, every other test would be worthless.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { marker, replyTo } from "../lib/markers.mjs";
import { makeNetwork, notIsolated } from "../lib/netns.mjs";
import { startRealGateway } from "../lib/real-gateway.mjs";
import { connectReference } from "../lib/reference-client.mjs";
import { judge } from "../lib/schema.mjs";
import { startTap } from "../lib/tap.mjs";
import { makeDevice, Wire } from "../lib/wire.mjs";

// What OpenClaw 2026.9.6 sends beyond its own published schema (2026.9.1 is the newest there is). Our gateway gets no
// such allowance; and when the pinned version changes, this list must change with it.
const REAL_GATEWAY_DEVIATIONS = [
  'server: AgentEvent: must NOT have additional properties {"additionalProperty":"agentId"}',
  'server: AgentEvent: must NOT have additional properties {"additionalProperty":"sessionId"}',
  'server: AgentEvent: must NOT have additional properties {"additionalProperty":"sessionKey"}',
  'server: HelloOk/auth: must NOT have additional properties {"additionalProperty":"method"}',
  'server: HelloOk/snapshot/health/eventLoop: must NOT have additional properties {"additionalProperty":"cpuBreakdown"}',
  'server: HelloOk: must NOT have additional properties {"additionalProperty":"controlUiLinkReaders"}',
];

let bob, door;

const agent = (text, session) => ({ sessionKey: `agent:main:mesh:${session}`, message: text, idempotencyKey: crypto.randomUUID() });

async function connect(t) {
  const reference = await connectReference(door.url, { token: bob.token });
  t.after(reference.stop);
  return reference;
}

before(async () => {
  if (notIsolated) return;
  const network = makeNetwork("bob");
  bob = await startRealGateway({ name: "bob", host: network.bob });
  // Standing on bob's host the tap makes a remote client a local one.
  door = await startTap({ host: network.bob, target: bob.loopbackUrl, listen: network.bob.address });
});
after(() => Promise.all([bob?.stop(), door?.stop()]));

test("the reference client gets the mock model's reply and the ledger counts one call", { skip: notIsolated }, async (t) => {
  const text = marker();
  const reference = await connect(t);
  const final = await reference.request("agent", agent(`say ${text}`, "harness"), { expectFinal: true });
  assert.equal(final.result.payloads[0].text, replyTo(text));
  assert.equal(bob.calls(text).length, 1);
});

test("a conversation's earlier markers do not answer for the newest one", { skip: notIsolated }, async (t) => {
  const reference = await connect(t);
  for (const text of [marker(), marker("chunks20"), marker()]) {
    const final = await reference.request("agent", agent(`say ${text}`, "conversation"), { expectFinal: true });
    assert.equal(final.result.payloads[0].text, replyTo(text));
  }
});

test("a refusing model becomes an error of the run", { skip: notIsolated }, async (t) => {
  const reference = await connect(t);
  const refused = reference.request("agent", agent(`say ${marker("error")}`, "harness"), { expectFinal: true });
  await assert.rejects(refused, { gatewayCode: "UNAVAILABLE" });
});

test("the tap saw it all, and the published schema accepts it but for the known deviations", { skip: notIsolated }, () => {
  const frames = door.frames();
  const { kinds, judged } = judge(frames);
  for (const definition of ["ConnectParams", "AgentParams", "HelloOk", "AgentEvent", "ChatEvent", "ErrorShape"]) {
    assert.ok(judged.has(definition), `no ${definition} passed the tap`);
  }
  assert.deepEqual(kinds.sort(), REAL_GATEWAY_DEVIATIONS);
  const answered = frames.filter(({ from, frame }) => from === "server" && frame.payload?.status === "accepted");
  assert.equal(answered.length, 5);
});

test("the schema refuses what it should", () => {
  const connect = { minProtocol: 4, maxProtocol: 4, client: { id: "gateway-client", mode: "backend", version: "1", platform: "x" } };
  const request = (method, params) => ({ from: "client", frame: { type: "req", id: "1", method, params } });
  const answer = (payload) => ({ from: "server", frame: { type: "res", id: "1", ok: true, payload } });
  const faulty = {
    "an unknown client id": [request("connect", { ...connect, client: { ...connect.client, id: "agent-mesh" } })],
    "an unknown key": [request("agent", { message: "x", idempotencyKey: "k", surprise: 1 })],
    "an empty message": [request("agent", { message: "", idempotencyKey: "k" })],
    "a numeric id": [{ from: "client", frame: { type: "req", id: 1, method: "health" } }],
    "a hello without policy": [request("connect", connect), answer({ type: "hello-ok", protocol: 4 })],
    "an error without message": [request("health"), { from: "server", frame: { type: "res", id: "1", ok: false, error: { code: "X" } } }],
    "an answer nobody asked for": [answer({})],
    "a delta without text": [{ from: "server", frame: { type: "event", event: "chat", payload: { runId: "r", sessionKey: "s", seq: 1, state: "delta" } } }],
  };
  for (const [what, frames] of Object.entries(faulty)) assert.notEqual(judge(frames).faults.length, 0, what);
  assert.deepEqual(judge([request("connect", connect)]).faults, []);
});

test("a host on the network is truly remote: the shared token alone has no scopes there", { skip: notIsolated }, async () => {
  const remote = await Wire.open(bob.url);
  const { payload } = await remote.connect({ auth: { token: bob.token } });
  assert.deepEqual(payload.auth.scopes, []);
  const stranger = await Wire.open(bob.url);
  const refused = await stranger.connect({ auth: { token: bob.token }, device: makeDevice() });
  assert.equal(refused.error.details.code, "PAIRING_REQUIRED");
  remote.close();
});

test("a subscribed connection hears the text of its own session and of no other", { skip: notIsolated }, async () => {
  const options = { auth: { token: bob.token }, caps: ["session-scoped-events"] };
  const [mine, other] = await Promise.all([Wire.open(door.url), Wire.open(door.url)]);
  await Promise.all([mine.connect(options), other.connect(options)]);
  await mine.call("sessions.messages.subscribe", { key: "agent:main:mesh:mine" });
  const theirs = marker("chunks20");
  await other.answer(other.send("agent", agent(`say ${theirs}`, "theirs")), 2);
  const own = marker("chunks20");
  await mine.answer(mine.send("agent", agent(`say ${own}`, "mine")), 2);
  const heard = mine.frames.filter(({ frame }) => ["chat", "agent", "session.message"].includes(frame.event)).map(({ text }) => text).join("\n");
  assert.match(heard, /"deltaText"/);
  assert.ok(heard.includes(own));
  assert.ok(!heard.includes(theirs));
  mine.close();
  other.close();
});

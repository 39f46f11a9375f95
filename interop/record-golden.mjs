// Records the frames in crates/protocol/tests/golden/ from the pinned real gateway:
//   interop/setup && cd interop && PATH="$PWD/.venv/bin:$PATH" ./isolated node record-golden.mjs
// Each file is one text frame exactly as it was on the wire; only secrets and this machine's names are replaced.
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import path from "node:path";
import { marker } from "./lib/markers.mjs";
import { makeNetwork, notIsolated } from "./lib/netns.mjs";
import { interop } from "./lib/places.mjs";
import { startRealGateway } from "./lib/real-gateway.mjs";
import { startTap } from "./lib/tap.mjs";
import { until } from "./lib/until.mjs";
import { connectParams, makeDevice, Wire } from "./lib/wire.mjs";

if (notIsolated) throw new Error(notIsolated);

const golden = path.join(interop, "../crates/protocol/tests/golden");
for (const side of ["server", "client"]) {
  rmSync(path.join(golden, side), { recursive: true, force: true });
  mkdirSync(path.join(golden, side), { recursive: true });
}

const network = makeNetwork("bob");
const bob = await startRealGateway({ name: "bob", host: network.bob });
// Through a relay that stands on bob's own host a connection arrives from loopback: it is local.
const door = await startTap({ host: network.bob, target: bob.loopbackUrl, listen: network.bob.address });
const secrets = new Map([[bob.token, example("example-gateway-token", bob.token.length)]]);
const closes = [];

function example(prefix, length) {
  return `${prefix}-${"x".repeat(length)}`.slice(0, length);
}

/** Secrets are known by the key they stand under, wherever they appear. */
function learnSecrets(value) {
  for (const [key, inner] of Object.entries(value ?? {})) {
    if (inner && typeof inner === "object") learnSecrets(inner);
    else if (/^(token|deviceToken|bootstrapToken|signature|recoveryScope)$/.test(key) && typeof inner === "string" && !secrets.has(inner)) {
      secrets.set(inner, example(`example-${key}`, inner.length));
    }
  }
}

function clean(text) {
  learnSecrets(JSON.parse(text));
  let cleaned = text;
  for (const [secret, shown] of secrets) cleaned = cleaned.replaceAll(secret, shown);
  return cleaned
    .replaceAll(bob.home, "/home/bob")
    .replaceAll(path.resolve(interop), "/opt/interop")
    .replaceAll(`"${hostname()}"`, '"bob.example"')
    .replaceAll(`host=${hostname()}`, "host=bob.example")
    .replaceAll(`Gateway: ${hostname()} (`, "Gateway: bob.example (");
}

function save(file, record) {
  const text = clean(typeof record === "string" ? record : record.text);
  if (new RegExp(`\\b${RegExp.escape(hostname())}\\b`).test(text)) throw new Error(`${file}: still names this machine`);
  writeFileSync(path.join(golden, `${file}.json`), `${text}\n`);
}

async function open(url = bob.url) {
  return Wire.open(url);
}

/** One connection, one `connect`, its answer and how the gateway closes. */
async function knock(name, options, { url, saveRequest = false } = {}) {
  const wire = await open(url);
  const id = wire.send("connect", connectParams(wire.challenge, options));
  const answer = await wire.answer(id);
  if (saveRequest) save(`client/connect-${saveRequest}`, wire.frames.find((f) => f.from === "client"));
  if (name) save(`server/${name}`, answer);
  if (!answer.frame.ok) {
    const closed = await until(`the close after ${name}`, () => wire.closed);
    closes.push({ after: name, ...closed });
  }
  return { wire, frame: answer.frame };
}

const all = ["operator.pairing", "operator.read", "operator.write"];
const session = (name) => `agent:main:mesh:${name}`;
const agent = (text, key = session("alice"), more) => ({ sessionKey: key, message: `please answer ${text}`, idempotencyKey: crypto.randomUUID(), ...more });

// Connecting and being refused.
const alice = makeDevice();
const stranger = makeDevice();
const shared = { auth: { token: bob.token } };

const bare = await knock("hello-ok-no-scopes", shared, { saveRequest: "token-only" });
save("server/connect-challenge", bare.wire.frames[0]);
save("server/res-error-missing-scope", await bare.wire.answer(bare.wire.send("agent", agent(marker()))));
save("server/res-health", await bare.wire.answer(bare.wire.send("health")));
bare.wire.close();
await knock("res-error-device-identity-required", { auth: {} });
await knock("res-error-token-missing", { auth: {}, device: alice });
await knock("res-error-token-mismatch", { auth: { token: "not-the-token-not-the-token" }, device: alice });
await knock("res-error-protocol-mismatch", { ...shared, minProtocol: 5, maxProtocol: 5 });
await knock("res-error-signature-invalid", { ...shared, device: { ...alice, privateKeyPem: stranger.privateKeyPem } });
await knock("res-error-invalid-connect-params", {
  ...shared,
  client: { id: "agent-mesh", mode: "backend", version: "0.1.0", platform: "agent-mesh" },
});

// Pairing, seen from both sides.
const owner = await open(door.url);
owner.send("connect", connectParams(owner.challenge, { ...shared, scopes: all }));
save("client/connect-local-owner", owner.frames.find((f) => f.from === "client"));
save("server/hello-ok-local-owner", await owner.answer("1"));
await knock("res-error-pairing-required", { ...shared, device: alice }, { saveRequest: "token-and-device" });
const requested = await owner.event("device.pair.requested");
save("server/event-device-pair-requested", requested);
const ask = async (wire, name, method, params) => {
  const id = wire.send(method, params);
  const answer = await wire.answer(id);
  save(`client/${name}`, wire.frames.find((f) => f.from === "client" && f.frame.id === id));
  save(`server/res-${name}`, answer);
  return answer.frame;
};
await ask(owner, "device-pair-list-pending", "device.pair.list", {});
await ask(owner, "device-pair-approve", "device.pair.approve", { requestId: requested.frame.payload.requestId });
save("server/event-device-pair-resolved", await owner.event("device.pair.resolved"));
save("server/res-error-unknown-request-id", await owner.answer(owner.send("device.pair.approve", { requestId: crypto.randomUUID() })));
await ask(owner, "device-pair-list", "device.pair.list", {});
const other = await knock(null, { ...shared, device: stranger });
const { requestId } = other.frame.error.details;
await ask(owner, "device-pair-reject", "device.pair.reject", { requestId });
save("server/event-device-pair-rejected", await owner.event("device.pair.resolved", (p) => p.requestId === requestId));

const paired = await knock("hello-ok", { ...shared, device: alice });
const { deviceToken } = paired.frame.payload.auth;
paired.wire.close();
const own = { auth: { deviceToken }, device: alice };
await knock("res-error-scope-mismatch", { ...own, scopes: ["operator.admin"] });
await knock("res-error-device-token-mismatch", { auth: { deviceToken: "not-a-device-token-not-a-device-token-43-ch" }, device: alice });

// A one-time code, from its making to the device token. The code is JSON in base64url, with a secret in it.
const { wire: admin } = await knock(null, { ...shared, scopes: ["operator.admin"] }, { url: door.url });
const minting = admin.send("device.pair.setupCode", { bootstrapProfile: "limited", includeQr: false });
const minted = await admin.answer(minting);
const { setupCode } = minted.frame.payload;
const code = Buffer.from(setupCode, "base64url").toString();
secrets.set(setupCode, Buffer.from(clean(code)).toString("base64url"));
save("client/device-pair-setup-code", admin.frames.find((f) => f.from === "client" && f.frame.id === minting));
save("server/res-device-pair-setup-code", minted);
admin.close();
const carol = makeDevice();
const invited = { auth: { bootstrapToken: JSON.parse(code).bootstrapToken }, device: carol };
const asks = await knock("res-error-pairing-required-code", invited, { saveRequest: "code-and-device" });
await owner.call("device.pair.approve", { requestId: asks.frame.error.details.requestId });
(await knock("hello-ok-code", invited)).wire.close();
await knock("res-error-bootstrap-token-invalid", { ...invited, device: makeDevice() });

// What an own run looks like: without the cap, with the cap, with the cap and a subscription.
const seen = {};
async function observe(name, key, caps, subscribe) {
  const { wire } = await knock(name === "subscribed" ? "hello-ok-device-token" : null, { ...own, caps }, { saveRequest: name === "subscribed" && "device-token" });
  if (subscribe) await ask(wire, "sessions-messages-subscribe", "sessions.messages.subscribe", { key });
  const before = wire.frames.length;
  const id = wire.send("agent", agent(marker("chunks"), key));
  await wire.answer(id, 2);
  // Trailing events of the run may still be under way; the answer to one more request comes after them.
  await wire.call("health");
  const events = wire.frames.slice(before).filter((f) => f.frame.type === "event");
  seen[name] = events.map(({ frame: { event, payload } }) => [event, payload.state ?? payload.stream, payload.phase ?? payload.data?.phase].filter(Boolean).join(":"));
  return { wire, events, id };
}
await observe("warm-up", session("warm-up"), [], false);
const plain = await observe("without-cap", session("plain"), [], false);
const capped = await observe("with-cap", session("capped"), ["session-scoped-events"], false);
const subscribed = await observe("subscribed", session("subscribed"), ["session-scoped-events"], true);

for (const { events } of [subscribed, plain]) {
  for (const event of events) {
    const { event: name, payload } = event.frame;
    const kind = [name, payload.state ?? payload.stream, name === "agent" ? payload.data?.phase : undefined].filter(Boolean).join("-");
    if (kind.startsWith("health") || kind.startsWith("tick")) continue;
    save(`server/event-${kind.replaceAll(/[._]/g, "-")}`, event);
  }
}
plain.wire.close();
capped.wire.close();

// One run after another through all its ends.
const wire = subscribed.wire;
const request = agent(marker(), session("alice"), {
  inputProvenance: { kind: "inter_session", sourceSessionKey: "mesh:alice", sourceChannel: "agent-mesh", sourceTool: "agent_mesh" },
});
const first = wire.send("agent", request);
save("client/agent", wire.frames.find((f) => f.from === "client" && f.frame.id === first));
save("server/res-agent-accepted", await wire.answer(first));
save("server/res-agent-final", await wire.answer(first, 2));
await ask(wire, "agent-wait-ok", "agent.wait", { runId: request.idempotencyKey, timeoutMs: 5000 });
await ask(wire, "agent-wait-timeout", "agent.wait", { runId: crypto.randomUUID(), timeoutMs: 100 });
save("server/res-agent-cached", await wire.answer(wire.send("agent", request)));

const failing = wire.send("agent", agent(marker("error"), session("failing")));
save("server/res-agent-final-error", await wire.answer(failing, 2));
const runId = wire.frames.find((f) => f.frame.id === failing && f.from === "client").frame.params.idempotencyKey;
save("server/res-agent-wait-error", await wire.answer(wire.send("agent.wait", { runId, timeoutMs: 5000 })));

const slow = agent(marker("slow4000"), session("slow"));
const running = wire.send("agent", slow);
await wire.answer(running);
await until("the slow run to reach the model", () => bob.calls().some((call) => slow.message.endsWith(call.marker)));
save("server/res-agent-in-flight", await wire.answer(wire.send("agent", slow)));
await ask(wire, "chat-abort", "chat.abort", { sessionKey: slow.sessionKey, runId: slow.idempotencyKey });
save("server/res-agent-aborted", await wire.answer(running, 2));
const short = wire.send("agent", agent(marker("slow9000"), session("short"), { timeout: 1 }));
save("server/res-agent-timeout", await wire.answer(short, 2));

// chat.send on a connection without the cap, so that every kind of `chat` event passes.
const chat = (await knock(null, { ...own })).wire;
const chatKey = session("chat");
const chatSend = async (text, key) => {
  const params = { sessionKey: key, message: `please answer ${text}`, idempotencyKey: crypto.randomUUID() };
  const id = chat.send("chat.send", params);
  await chat.answer(id);
  return { id, runId: params.idempotencyKey };
};
const state = (run, name) => chat.event("chat", (p) => p.runId === run.runId && p.state === name);
const talk = await chatSend(marker("chunks"), chatKey);
save("client/chat-send", chat.frames.find((f) => f.from === "client" && f.frame.id === talk.id));
save("server/res-chat-send-started", await chat.answer(talk.id));
save("server/event-chat-final", await state(talk, "final"));
save("server/event-chat-delta", await state(talk, "delta"));
save("server/event-chat-status", await state(talk, "status"));
await ask(chat, "chat-history", "chat.history", { sessionKey: chatKey });
const broken = await chatSend(marker("error"), session("chat-failing"));
save("server/event-chat-error", await state(broken, "error"));
const stopped = await chatSend(marker("slow4000"), session("chat-slow"));
await state(stopped, "status");
await chat.call("chat.abort", { sessionKey: session("chat-slow"), runId: stopped.runId });
save("server/event-chat-aborted", await state(stopped, "aborted"));

await ask(chat, "agents-list", "agents.list", {});
await ask(chat, "gateway-identity", "gateway.identity.get", {});
await ask(chat, "status", "status", {});
await ask(chat, "sessions-list", "sessions.list", { limit: 2 });
save("server/res-error-unknown-method", await owner.answer(owner.send("no.such.method", {})));
save("server/res-error-invalid-params", await chat.answer(chat.send("agent", { sessionKey: chatKey, message: "x", idempotencyKey: "k", surprise: 1 })));
save("server/res-error-unknown-agent", await chat.answer(chat.send("agent", agent(marker(), "agent:nope:x"))));
save("server/event-tick", await chat.event("tick", undefined, 40_000));
save("server/event-health", await chat.event("health", undefined, 90_000));

// Credentials that end, and the gateway's own end.
await knock(null, { ...shared, device: alice, scopes: ["operator.read", "operator.write", "operator.approvals"] }).then(({ frame }) =>
  save("server/res-error-scope-upgrade", JSON.stringify(frame)),
);
const leaving = wire.send("agent", agent(marker("slow6000"), session("leaving")));
await wire.answer(leaving);
const extra = (await knock(null, own)).wire;
bob.signal("SIGTERM");
const refused = await until("a refusal while draining", async () => {
  const answer = await extra.answer(extra.send("agent", agent(marker(), session("late"))));
  return answer.frame.error?.code === "UNAVAILABLE" && answer;
}, { every: 100 });
save("server/res-error-restarting", refused);
await wire.answer(leaving, 2, 60_000);
save("server/event-shutdown", await extra.event("shutdown", undefined, 60_000));
closes.push({ after: "event-shutdown", ...(await until("the close after shutdown", () => extra.closed)) });
writeFileSync(path.join(golden, "closes.json"), `${JSON.stringify(closes.filter((c) => c.after), null, 1)}\n`);
process.stdout.write(`${JSON.stringify(seen, null, 1)}\n`);
await bob.stop();
process.exit(0);

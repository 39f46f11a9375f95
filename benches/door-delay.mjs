// What `agent-mesh serve --agent openclaw` adds to a turn of the real OpenClaw. Both sides of the door are listened to by
// one process with one clock, `tap`, which does nothing else: how long the door keeps a request before it asks the gateway,
// and the gateway's answer before it gives it on. The gateway's own time is not in it. Beside it, turn by turn, the same of a
// bare relay in the door's place, which shows what the machine adds to anything that stands there: a gateway of Node that
// is busy with the turn before, on as many cores as there are. Started by ./door-delay.
// A row of ./bench on stdout, a table that says more on stderr.
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { onExit } from "../interop/lib/cleanup.mjs";
import { marker } from "../interop/lib/markers.mjs";
import { Person, startServe } from "../interop/lib/mesh.mjs";
import { tempDir } from "../interop/lib/places.mjs";
import { startRealGateway } from "../interop/lib/real-gateway.mjs";
import { connectReference } from "../interop/lib/reference-client.mjs";
import { WebSocketReader } from "../interop/lib/websocket-reader.mjs";

/** Issue 6, "Must hold": milliseconds at the 99th percentile. */
const LIMIT = 5;

const { values: options } = parseArgs({
  options: { rounds: { type: "string", default: "300" }, slack: { type: "string", default: "2" } },
});
const rounds = Number(options.rounds);

/** A process of relays: `relay(name, url)` opens one and gives its own url; `passed()` ends it and tells what passed. */
function startTap() {
  const child = spawn(path.join(process.env.BENCH_BIN, "tap"), { stdio: ["pipe", "pipe", "inherit"] });
  onExit(() => child.kill("SIGKILL"));
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  return {
    async relay(name, target) {
      const { hostname, port } = new URL(target);
      child.stdin.write(`${name} ${hostname}:${port}\n`);
      const [, address] = (await lines.next()).value.split(" ");
      return `ws://${address}`;
    },
    async passed() {
      child.stdin.end();
      const all = [];
      for await (const line of lines) all.push(JSON.parse(line));
      return all;
    },
  };
}

/** By relay: when each run's request and its last answer passed. */
function read(passed) {
  const relays = new Map();
  const readers = new Map();
  for (const { relay, connection, from, at, bytes } of passed) {
    const runs = relays.get(relay) ?? relays.set(relay, new Map()).get(relay);
    const run = (id) => runs.get(id) ?? runs.set(id, {}).get(id);
    const one = `${connection} ${from}`;
    if (!readers.has(one)) {
      const reader = { at };
      const seen = ({ kind, text }) => {
        const frame = kind === "text" ? JSON.parse(text) : {};
        if (from === "client" && frame.method === "agent") run(frame.params.idempotencyKey).asked = reader.at;
        if (from === "server" && frame.payload?.result) run(frame.payload.runId).answered = reader.at;
      };
      readers.set(one, Object.assign(reader, { frames: new WebSocketReader(seen) }));
    }
    const reader = readers.get(one);
    reader.at = at;
    reader.frames.push(Buffer.from(bytes, "base64"));
  }
  return relays;
}

async function issueToken(home) {
  const bob = new Person("bob", { home, agents: [{ name: "alice", emailPrefix: "alice", ip: "" }] });
  const file = path.join(home, "alice.token");
  await bob.expect(0, "token", "issue", "alice", "--out", file);
  return readFileSync(file, "utf8").trim();
}

const real = await startRealGateway({ name: "bob" });
const [tap, bare] = [startTap(), startTap()];
const home = tempDir("home-door-delay");
const token = await issueToken(home);
// More turns than a peer may ask for by default.
writeFileSync(path.join(home, ".config/agent-team-mesh/policy.toml"), `${readFileSync(path.join(home, ".config/agent-team-mesh/policy.toml"), "utf8")}\nrequests-per-minute = 100000\nruns-per-day = 100000\n`, { mode: 0o600 });
mkdirSync(path.join(home, ".openclaw"), { mode: 0o700, recursive: true });
const settings = { gateway: { auth: { mode: "token", token: real.token } } };
writeFileSync(path.join(home, ".openclaw/openclaw.json"), JSON.stringify(settings), { mode: 0o600 });
const door = await startServe({ home, token: "example-serve-token-0123456789", args: ["--agent", "openclaw", "--gateway", await tap.relay("behind-door", real.url)] });
const relay = await bare.relay("bare", await tap.relay("behind-bare", real.url));
const ways = {
  door: await connectReference(await tap.relay("before-door", door.url), { token }),
  bare: await connectReference(await tap.relay("before-bare", relay), { token: real.token }),
};

const turns = { door: [], bare: [] };
for (let round = 0; round < rounds + 5; round += 1) {
  for (const [way, client] of Object.entries(ways)) {
    const id = randomUUID();
    await client.request("agent", { sessionKey: "main", message: marker(), idempotencyKey: id }, { expectFinal: true, timeoutMs: 60_000 });
    // The first turns of a gateway are slow, and the first of a session sets its permission mode.
    if (round >= 5) turns[way].push(id);
  }
}
for (const client of Object.values(ways)) await client.stop();
await door.stop();
const passed = read(await tap.passed());
await real.stop();

/** What this way added to each of its turns. */
function added(way) {
  const [there, here] = [passed.get(`behind-${way}`), passed.get(`before-${way}`)];
  return turns[way].map((id) => ({
    asking: there.get(id).asked - here.get(id).asked,
    answering: here.get(id).answered - there.get(id).answered,
  }));
}

/** `[median, p99, max]` of what `of` gives, in milliseconds. */
function spread(turns, of) {
  const sorted = turns.map(of).sort((a, b) => a - b);
  return [0.5, 0.99, 1].map((share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]);
}

const found = { door: added("door"), bare: added("bare") };
const both = ({ asking, answering }) => asking + answering;
console.error(`\nwhat the door adds to a turn of OpenClaw, and a bare relay in its place, ${rounds} turns each, ms (the door at most ${LIMIT} at p99)\n\n| | median | p99 | max |\n|---|---|---|---|`);
for (const [way, turns] of Object.entries(found)) {
  const row = (what, of) => console.error(`| ${way}: ${what} | ${spread(turns, of).map((ms) => ms.toFixed(2)).join(" | ")} |`);
  row("before it asks the gateway", ({ asking }) => asking);
  row("before it gives the answer on", ({ answering }) => answering);
  row("both", both);
}
const [median, p99] = spread(found.door, both);
const [bareMedian, bareP99] = spread(found.bare, both);
const figure = {
  part: "door-delay",
  what: "added to a turn of OpenClaw, p99",
  command: "benches/door-delay",
  value: p99,
  unit: "ms",
  beside: "by a bare relay in the door's place",
  besideValue: bareP99,
  ratio: p99 / bareP99,
  mustHold: `at most ${LIMIT} ms`,
  holds: p99 <= LIMIT,
  note: `medians ${median.toFixed(2)} and ${bareMedian.toFixed(2)}, ${rounds} turns each, listened to on both sides`,
};
console.log(JSON.stringify(figure));
process.exit(p99 > LIMIT * Number(options.slack) ? 1 : 0);

// Interleaved rounds of the same exchange by several clients, each a process of its own, measured by `cost`.
// Started by ./send, which knows the options. One table per gateway on stderr, rows of ./bench on stdout; exit code 1 when
// something that must hold does not.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { marker } from "../interop/lib/markers.mjs";
import { Person, startServe, teammate } from "../interop/lib/mesh.mjs";
import { agentMesh, openclaw } from "../interop/lib/places.mjs";
import { run } from "../interop/lib/proc.mjs";
import { startRealGateway } from "../interop/lib/real-gateway.mjs";
import { makeDevice } from "../interop/lib/wire.mjs";

/** Issue 2, "Must hold": on the real gateway, release build. */
const MUST_HOLD = { wallRatio: 1.15, cpuMs: 30, peakMiB: 25 };
const SESSION = "agent:main:mesh:alice";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "40" },
    delay: { type: "string", default: "100" },
    slack: { type: "string", default: "1.3" },
    strict: { type: "boolean", default: false },
    only: { type: "string" },
  },
});
const rounds = Number(options.rounds);
const slack = options.strict ? 1 : Number(options.slack);

const binary = (name) => path.join(process.env.BENCH_BIN, name);
const here = (name) => fileURLToPath(new URL(name, import.meta.url));

async function cost(argv, { env, cwd }) {
  const result = await run([binary("cost"), ...argv], { env, cwd });
  assert.equal(result.code, 0, result.stderr);
  const measured = JSON.parse(result.stdout);
  assert.equal(measured.code, 0, `${argv[0]}: ${measured.stderr}${measured.stdout}`);
  return measured;
}

/** The clients, by name: each gives an argv for a text. `every` makes the slow ones rarer. */
function clients(gateway, alice) {
  const state = path.join(alice.home, ".local/state/agent-team-mesh");
  const issued = () => JSON.parse(readFileSync(path.join(state, "device-tokens.json"), "utf8")).tokens.bob?.token;
  const device = path.join(alice.home, "reference-device.json");
  writeFileSync(device, JSON.stringify(makeDevice()), { mode: 0o600 });
  // The bare client shows what agent-mesh shows: the device's own token where the gateway issued one.
  let credential;
  const shown = () => {
    try {
      return (credential ??= ["device", issued() ?? assert.fail("none")]);
    } catch {
      return (credential ??= ["token", gateway.token]);
    }
  };
  const params = (message) => JSON.stringify({ message, sessionKey: SESSION, idempotencyKey: crypto.randomUUID() });
  return [
    { name: "bare client (the floor)", argv: (text) => [binary("bare-client"), gateway.url, path.join(state, "device.pem"), ...shown(), "alice", SESSION, text] },
    { name: "agent-mesh send", argv: (text) => [agentMesh, "send", "--to", "bob", "--message", text] },
    { name: "reference Node client", argv: (text) => [process.execPath, here("reference-call.mjs"), gateway.url, device, gateway.token, SESSION, text] },
    {
      name: "openclaw gateway call",
      every: 8,
      argv: (text) => [process.execPath, openclaw, "gateway", "call", "agent", "--expect-final", "--json", "--url", gateway.url, "--token", gateway.token, "--params", params(text)],
    },
  ];
}

const median = (values) => {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
};
const quantile = (values, q) => values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * q))];

async function measure(title, gateway, textFor) {
  const alice = new Person("alice", { agents: [teammate("bob", gateway.url)], tokens: { bob: gateway.token } });
  const env = { ...alice.env, TMPDIR: alice.home };
  const all = clients(gateway, alice);
  const once = async (client) => {
    const text = textFor();
    const measured = await cost(client.argv(text), { env, cwd: alice.home });
    assert.ok(measured.stdout.includes(text.split(" ").at(-1)), `${client.name} printed another reply: ${measured.stdout}`);
    return measured;
  };
  // Keys, approvals, first turns and caches: nobody's figures. agent-mesh first, because it makes the key.
  for (const client of [all[1], ...all, ...all.slice(0, 3)]) await once(client);

  const seen = new Map(all.map((client) => [client, []]));
  for (let round = 0; round < rounds; round++) {
    const now = all.filter(({ every = 1 }) => round % every === 0);
    // The order turns from round to round, so that nobody always comes after the same neighbour.
    for (let i = 0; i < now.length; i++) {
      const client = now[(i + round) % now.length];
      seen.get(client).push(await once(client));
      await pause(50); // The gateway still writes down the turn that was just answered.
    }
  }
  return report(title, all, seen);
}

function report(title, all, seen) {
  const floor = seen.get(all[0]);
  console.error(`\n## ${title}, ${rounds} interleaved rounds\n`);
  console.error("| client | wall ms, median (p10-p90) | beside the floor | CPU ms, median (p90) | peak MiB, median (max) |\n|---|---|---|---|---|");
  const figures = all.map((client) => {
    const runs = seen.get(client);
    const [walls, cpus, peaks] = [runs.map((r) => r.wallMs), runs.map((r) => r.cpuMs), runs.map((r) => r.peakKiB / 1024)];
    const ratio = median(walls) / median(floor.map((r) => r.wallMs));
    console.error(
      `| ${client.name} | ${median(walls).toFixed(1)} (${quantile(walls, 0.1).toFixed(1)}-${quantile(walls, 0.9).toFixed(1)}) | ${ratio.toFixed(2)} | ` +
        `${median(cpus).toFixed(1)} (${quantile(cpus, 0.9).toFixed(1)}) | ${median(peaks).toFixed(1)} (${Math.max(...peaks).toFixed(1)}) |`,
    );
    return { wallRatio: ratio, wallMs: median(walls), cpuMs: median(cpus), peakMiB: median(peaks) };
  });
  // Neighbours in one round saw the same machine: the median of their ratios is steadier than the ratio of the medians.
  const pairs = seen.get(all[1]).map((mine, i) => mine.wallMs / floor[i].wallMs);
  console.error(`\nagent-mesh beside the bare client, pair by pair: median ${median(pairs).toFixed(3)}, p10-p90 ${quantile(pairs, 0.1).toFixed(2)}-${quantile(pairs, 0.9).toFixed(2)}`);
  return { floor: figures[0], ...figures[1], wallRatio: median(pairs) };
}

/** One row of ./bench. */
function tell(what, { value, unit, besideValue, ratio }, mustHold, holds) {
  const row = { part: "real", what, command: "benches/send", value, unit, beside: "bare client, no archive", besideValue, ratio, mustHold, holds };
  console.log(JSON.stringify(row));
}

/** What the exchange with the real gateway took. */
function tellAll({ floor, wallMs, wallRatio, cpuMs, peakMiB }) {
  const most = MUST_HOLD;
  const wall = { value: wallMs, unit: "ms", besideValue: floor.wallMs, ratio: wallRatio };
  tell(`send to OpenClaw, mock model of ${options.delay} ms`, wall, `at most ${most.wallRatio} times`, wallRatio <= most.wallRatio);
  const cpu = { value: cpuMs, unit: "ms", besideValue: floor.cpuMs, ratio: cpuMs / floor.cpuMs };
  tell("send to OpenClaw, CPU", cpu, `at most ${most.cpuMs} ms`, cpuMs <= most.cpuMs);
  const peak = { value: peakMiB, unit: "MiB", besideValue: floor.peakMiB, ratio: peakMiB / floor.peakMiB };
  tell("send to OpenClaw, peak memory", peak, `at most ${most.peakMiB} MiB`, peakMiB <= most.peakMiB);
}

/** Where the time of a process goes that does no network: the same binary, and the smallest there is. */
async function startUp() {
  const alice = new Person("alice", { agents: [teammate("bob", "ws://127.0.0.1:9")] });
  const commands = [["/bin/true"], [agentMesh, "--version"], [agentMesh, "whoami"]];
  const seen = commands.map(() => []);
  for (let round = 0; round < rounds + 2; round++) {
    for (const [i, argv] of commands.entries()) {
      const measured = await cost(argv, { env: alice.env, cwd: alice.home });
      if (round >= 2) seen[i].push(measured);
    }
  }
  console.error(`\n## Starting up, ${rounds} interleaved rounds\n\n| command | wall ms, median | CPU ms, median | peak MiB |\n|---|---|---|---|`);
  for (const [i, argv] of commands.entries()) {
    const of = (key) => median(seen[i].map((r) => r[key]));
    console.error(`| ${[path.basename(argv[0]), ...argv.slice(1)].join(" ")} | ${of("wallMs").toFixed(2)} | ${of("cpuMs").toFixed(2)} | ${(of("peakKiB") / 1024).toFixed(1)} |`);
  }
}

await startUp();

if (options.only !== "real") {
  const token = "example-serve-token-0123456789abcdef";
  const serve = await startServe({ token, args: ["--agent", "echo"] });
  await measure("agent-mesh serve --agent echo", serve, () => `is the build green? ${marker()}`);
  await serve.stop();
}

let over = [];
if (options.only !== "serve") {
  const bob = await startRealGateway({ name: "bob" });
  const found = await measure(`OpenClaw, mock model of ${options.delay} ms`, bob, () => `is the build green? ${marker(`slow${options.delay}`)}`);
  await bob.stop();
  tellAll(found);
  console.error("\n| must hold, on the real gateway | limit | found | |\n|---|---|---|---|");
  for (const [what, limit] of Object.entries(MUST_HOLD)) {
    console.error(`| ${what} | ${limit} | ${found[what].toFixed(2)} | ${found[what] <= limit ? "holds" : "OVER"} |`);
  }
  over = Object.entries(MUST_HOLD).filter(([what, limit]) => found[what] > limit * slack);
}
for (const [what, limit] of over) console.error(`must hold, and does not (slack ${slack}): ${what} at most ${limit}`);
process.exit(over.length > 0 ? 1 : 0);

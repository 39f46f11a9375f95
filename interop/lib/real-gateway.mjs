import { randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { readJsonLines } from "./json-lines.mjs";
import { interop, openclaw, tempDir } from "./places.mjs";
import { run, start } from "./proc.mjs";
import { until } from "./until.mjs";

/** A port that was free a moment ago on loopback. On a host of our own making any fixed port is free. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer().on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

function config({ home, port, host, token, modelPort, tls }) {
  const cost = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 };
  const model = { id: "echo", name: "echo", reasoning: false, input: ["text"], cost, contextWindow: 64_000, maxTokens: 4096 };
  const mock = { baseUrl: `http://127.0.0.1:${modelPort}/v1`, apiKey: "x", api: "openai-completions", models: [model] };
  return {
    gateway: {
      mode: "local",
      port,
      bind: host ? "lan" : "loopback",
      auth: { mode: "token", token },
      ...(tls ? { tls: { enabled: true } } : {}),
    },
    models: { providers: { mock } },
    agents: { defaults: { model: { primary: "mock/echo" }, skipBootstrap: true } },
    // The default is one file in /tmp for every gateway on the machine.
    logging: { file: path.join(home, "gateway.log") },
  };
}

async function startMockModel({ host, port, ledger }) {
  writeFileSync(ledger, "");
  const model = start([process.execPath, path.join(interop, "lib/mock-model.mjs"), String(port), ledger], { host });
  await until("the mock model", () => model.out.stdout.includes("listening"));
  return model;
}

/**
 * The real OpenClaw with a model of its own and a fresh home, on a host of `makeNetwork` (bound to its LAN address) or
 * here (bound to loopback). `home`, `env` and `config` are for tests that need more of it than that.
 */
export async function startRealGateway({ name, host, tls = false, home = tempDir(`openclaw-${name}`), env: more = {}, config: also = {} }) {
  const token = `example-gateway-token-${randomBytes(12).toString("hex")}`;
  const [port, modelPort] = host ? [18789, 9911] : [await freePort(), await freePort()];
  const ledger = path.join(home, "ledger.jsonl");
  mkdirSync(path.join(home, "tmp"));
  mkdirSync(path.join(home, ".openclaw"), { recursive: true, mode: 0o700 });
  const settings = JSON.stringify({ ...config({ home, port, host, token, modelPort, tls }), ...also });
  writeFileSync(path.join(home, ".openclaw/openclaw.json"), settings, { mode: 0o600 });

  const model = await startMockModel({ host, port: modelPort, ledger });
  const env = { PATH: process.env.PATH, HOME: home, TMPDIR: path.join(home, "tmp"), OPENCLAW_SKIP_CHANNELS: "1", NO_COLOR: "1", ...more };
  const launch = () => start([process.execPath, openclaw, "gateway", "run"], { host, env, cwd: home });
  let gateway = launch();

  const scheme = tls ? "wss" : "ws";
  const self = {
    name,
    host,
    home,
    token,
    port,
    url: `${scheme}://${host ? host.address : "127.0.0.1"}:${port}`,
    loopbackUrl: `${scheme}://127.0.0.1:${port}`,
    log: () => gateway.out.stdout + gateway.out.stderr,
    /** The model calls so far, oldest first; with a marker only its own. */
    calls: (marker) => readJsonLines(ledger).filter((call) => marker === undefined || call.marker === marker),
    /** OpenClaw's own CLI on this gateway's host. */
    cli: (...args) => run([process.execPath, openclaw, ...args], { host, env, cwd: home }),
    signal: (name) => gateway.signal(name),
    /** Down, a change while it is down, and up again with the same home. */
    async restart(change) {
      await gateway.stop();
      change();
      gateway = launch();
      await until(`${name}'s gateway again`, () => ready(self, gateway), { ms: 120_000, every: 200 });
    },
    stop: () => Promise.all([gateway.stop(), model.stop()]),
  };
  try {
    await until(`${name}'s gateway`, () => ready(self, gateway), { ms: 120_000, every: 200 });
  } catch (error) {
    throw new Error(`${error.message}\n${self.log()}`);
  }
  return self;
}

/** The log line is cheap to poll but comes before the sidecars are up, so `/readyz` has the last word. */
async function ready(self, gateway) {
  if (!gateway.running()) throw new Error("the gateway ended");
  if (!/\] ready\b/.test(self.log())) return false;
  const probe = `const r = await fetch("${self.loopbackUrl.replace("ws", "http")}/readyz"); process.exit(r.status === 200 ? 0 : 1)`;
  const env = { NODE_TLS_REJECT_UNAUTHORIZED: "0" };
  const result = await run([process.execPath, "--no-warnings", "--input-type=module", "-e", probe], { host: self.host, env });
  return result.code === 0;
}

import assert from "node:assert/strict";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { wholeLines } from "./json-lines.mjs";
import { agentMesh, tempDir } from "./places.mjs";
import { run, start } from "./proc.mjs";
import { until } from "./until.mjs";

/** The teammate entry of a gateway, or of anything with a `url`. */
export const teammate = (emailPrefix, url, more) => ({
  name: emailPrefix[0].toUpperCase() + emailPrefix.slice(1),
  emailPrefix,
  url,
  ...more,
});

/**
 * Somebody with a home folder who runs the binary, on a host of `makeNetwork` or here. The environment is cleared, so
 * nothing of this machine's user leaks in. Every call checks that no secret it was given shows in the output.
 */
export class Person {
  constructor(name, { host, home = tempDir(`home-${name}`), agents, tokens = {}, env = {} }) {
    this.name = name;
    this.host = host;
    this.home = home;
    this.folder = path.join(home, ".config/agent-team-mesh");
    this.tokensFile = path.join(this.folder, "tokens.json");
    this.secrets = Object.values(tokens);
    this.env = { PATH: "/usr/bin:/bin", HOME: home, MESH_MY_EMAIL: `${name}@example.com`, ...env };
    mkdirSync(this.folder, { recursive: true, mode: 0o700 });
    this.writeRegistry(agents);
    writeFileSync(this.tokensFile, JSON.stringify({ tokens }), { mode: 0o600 });
  }

  writeRegistry(agents) {
    writeFileSync(path.join(this.folder, "registry.json"), JSON.stringify({ agents }));
  }

  forgetSharedTokens() {
    rmSync(this.tokensFile);
  }

  /** Runs `agent-mesh ARGS --json` and adds the one document it must print as `json`. */
  mesh(...args) {
    return this.feed(undefined, ...args);
  }

  /** The same, with something on standard input. */
  async feed(stdin, ...args) {
    const result = await run([agentMesh, ...args, "--json"], { host: this.host, env: this.env, cwd: this.home, stdin });
    this.#checkSecrets(args, result);
    const shown = `agent-mesh ${args.join(" ")}\nexit ${result.code ?? result.signal}\nstdout: ${result.stdout}\nstderr: ${result.stderr}`;
    try {
      result.json = JSON.parse(result.stdout);
    } catch {
      assert.fail(`--json must print exactly one document\n${shown}`);
    }
    assert.equal(result.json.ok, result.code === 0, `ok must mirror the exit code\n${shown}`);
    assert.equal(result.json.command, args[0], shown);
    return { ...result, shown };
  }

  /** The same, and it must end with this exit code. */
  async expect(code, ...args) {
    const result = await this.mesh(...args);
    assert.equal(result.code, code, result.shown);
    return result;
  }

  /** Starts a run that goes on; `line(n)` waits for its nth document, `said(n)` for the nth line on stderr, `ended` for its exit code. */
  begin(...args) {
    const running = start([agentMesh, ...args, "--json"], { host: this.host, env: this.env, cwd: this.home });
    const lines = () => wholeLines(running.out.stdout);
    return {
      line: async (n) => JSON.parse(await until(`line ${n} of ${args.join(" ")}`, () => lines()[n - 1] ?? (!running.running() && running.out.stderr))),
      said: (n) => until(`line ${n} of the talk of ${args.join(" ")}`, () => wholeLines(running.out.stderr)[n - 1]),
      ended: running.ended.then((result) => (this.#checkSecrets(args, result), result)),
      stop: running.stop,
    };
  }

  /** As a person would type it: text, no `--json`. */
  async type(...args) {
    const result = await run([agentMesh, ...args], { host: this.host, env: this.env, cwd: this.home });
    this.#checkSecrets(args, result);
    return result;
  }

  #checkSecrets(args, { stdout, stderr }) {
    for (const secret of this.secrets) {
      // "Not even its first characters": half of an example token is its own constant prefix, so its end is looked for.
      const seen = [secret, secret.slice(-12)].some((text) => (stdout + stderr).includes(text));
      assert.ok(!seen, `agent-mesh ${args.join(" ")} printed a token`);
    }
  }
}

/** `agent-mesh serve` as a background process; `args` come after `serve`. With the `home` of an earlier one it is that gateway, restarted. */
export async function startServe({ host, listen = "127.0.0.1:0", token, args, home = tempDir("home-serve") }) {
  const env = { PATH: "/usr/bin:/bin", HOME: home, MESH_GATEWAY_TOKEN: token };
  const running = start([agentMesh, "serve", "--listen", listen, ...args], { host, env, cwd: home });
  const lines = await until("serve's first line", () => {
    if (!running.running()) throw new Error(`serve ended: ${running.out.stderr}`);
    const all = running.out.stderr.split("\n");
    return all.length > 1 && all;
  });
  const ready = /^listening on (ws:\/\/\S+)$/.exec(lines[0]);
  assert.ok(ready, `the first line on stderr must be "listening on ws://…", not: ${lines[0]}`);
  return { url: ready[1], token, home, ...running };
}

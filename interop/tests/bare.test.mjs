// What the binary needs of its surroundings: nothing but libc. And what a dry run needs of the network: nothing.
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { Person, startServe, teammate } from "../lib/mesh.mjs";
import { notIsolated } from "../lib/netns.mjs";
import { agentMesh, tempDir } from "../lib/places.mjs";
import { run } from "../lib/proc.mjs";

const token = "example-serve-token-0123456789";

/** A root folder that holds the binary, the shared libraries it names, and no other file. */
async function bareRoot() {
  const root = tempDir("bare-root");
  const { stdout } = await run(["ldd", agentMesh], { env: { PATH: process.env.PATH } });
  const libraries = stdout.match(/\/\S+/g);
  assert.ok(libraries.length > 0, stdout);
  for (const file of libraries) {
    mkdirSync(path.join(root, path.dirname(file)), { recursive: true });
    copyFileSync(file, path.join(root, file));
  }
  copyFileSync(agentMesh, path.join(root, "agent-mesh"));
  mkdirSync(path.join(root, "home"), { mode: 0o700 });
  // The demo leaves nothing behind, and for that it needs a place to be in.
  mkdirSync(path.join(root, "tmp"));
  return root;
}

describe("in a container with no shell, no Python, no curl and no openclaw", { skip: notIsolated }, () => {
  let root, serve;
  const inside = (...args) => {
    const env = { HOME: "/home", MESH_MY_EMAIL: "alice@example.com" };
    // `chroot` itself is found outside, by its full path; inside there is no PATH at all.
    return run(["/usr/sbin/chroot", root, "/agent-mesh", ...args, "--json"], { env });
  };

  before(async () => {
    root = await bareRoot();
    serve = await startServe({ token, args: ["--agent", "echo"] });
    const folder = path.join(root, "home/.config/agent-team-mesh");
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    writeFileSync(path.join(folder, "registry.json"), JSON.stringify({ agents: [teammate("bob", serve.url)] }));
    writeFileSync(path.join(folder, "tokens.json"), JSON.stringify({ tokens: { bob: token } }), { mode: 0o600 });
  });
  after(() => serve?.stop());

  for (const args of [
    ["whoami"],
    ["list"],
    ["ping", "--to", "bob"],
    ["send", "--to", "bob", "--message", "anybody there?"],
    ["broadcast", "--message", "hello all"],
    ["log"],
    ["doctor"],
    ["demo"],
  ]) {
    test(`agent-mesh ${args[0]} does its job`, async () => {
      const result = await inside(...args);
      assert.equal(result.code, 0, `${result.stdout}\n${result.stderr}`);
      assert.equal(JSON.parse(result.stdout).ok, true);
    });
  }
});

describe("a dry run touches no network", { skip: notIsolated }, () => {
  // A namespace of its own, in which not even loopback is up: whoever tries to connect fails at once.
  const nowhere = (person, ...args) =>
    run(["unshare", "--net", agentMesh, ...args, "--json"], { env: person.env, cwd: person.home });
  const alice = new Person("alice", {
    agents: [teammate("bob", "ws://127.0.0.1:9"), teammate("carol", undefined, { hostname: "carol.example.com" })],
    tokens: { bob: token },
    env: { OPENCLAW_ALLOW_INSECURE_PRIVATE_WS: "1" },
  });

  test("send says exactly what would go out", async () => {
    const result = await nowhere(alice, "send", "--to", "bob", "--message", "hello", "--dry-run");
    assert.equal(result.code, 0, result.stderr);
    const plan = JSON.parse(result.stdout);
    assert.equal(plan.dryRun, true);
    assert.equal(plan.session, "agent:main:mesh:alice");
    assert.equal(plan.token, "configured");
    assert.match(plan.message, /^\[agent-mesh\/1 from=alice [^\n]*\]\n[^\n]*\n\nhello$/);
  });

  test("broadcast plans for everybody and resolves nobody", async () => {
    const result = await nowhere(alice, "broadcast", "--message", "hello", "--dry-run");
    assert.equal(result.code, 0, result.stderr);
    const states = JSON.parse(result.stdout).results.map((one) => [one.to.emailPrefix, one.state]);
    assert.deepEqual(states, [["bob", "would-send"], ["carol", "skipped"]]);
  });

  test("the same network lets a real send fail, so it is as empty as it should be", async () => {
    const result = await nowhere(alice, "send", "--to", "bob", "--message", "hello", "--timeout", "5");
    assert.equal(result.code, 6, result.stdout);
  });
});

// `agent-mesh mcp` judged by the official TypeScript client, over stdio and HTTP, and by OpenClaw as an MCP client. The peer
// is `agent-mesh serve`. The SDK checks structured output against the tool's own schema.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { marker, toolCall } from "../lib/markers.mjs";
import { Person, startServe, teammate } from "../lib/mesh.mjs";
import { notIsolated } from "../lib/netns.mjs";
import { agentMesh } from "../lib/places.mjs";
import { start } from "../lib/proc.mjs";
import { startRealGateway } from "../lib/real-gateway.mjs";
import { until } from "../lib/until.mjs";

const token = "example-serve-token-0123456789";

/** An agent that takes as long as the message says. */
const slow = ["--agent", "exec", "--", "/bin/sh", "-c", 'text=$(cat); case "$text" in *slow*) sleep 20;; esac; echo "$text" | tail -1'];

async function connect(transport) {
  const client = new Client({ name: "interop", version: "1.0.0" });
  await client.connect(transport);
  return client;
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

describe("agent-mesh mcp", () => {
  let bob, own, alice, client;

  before(async () => {
    bob = await startServe({ token, args: slow });
    own = await startServe({ token, args: ["--agent", "echo"] });
    const env = { MESH_GATEWAY_URL: own.url, OPENCLAW_GATEWAY_TOKEN: token };
    alice = new Person("alice", { agents: [teammate("alice"), teammate("bob", bob.url)], tokens: { bob: token }, env });
    client = await connect(new StdioClientTransport({ command: agentMesh, args: ["mcp"], env: alice.env, stderr: "inherit" }));
  });
  after(async () => {
    await client?.close();
    await Promise.all([bob?.stop(), own?.stop()]);
  });

  const call = (name, args, options) => client.callTool({ name, arguments: args }, undefined, options);

  test("tells who it is, and what its tools do", async () => {
    assert.equal(client.getServerVersion().name, "agent-mesh");
    assert.match(client.getInstructions(), /stop and ask your owner/);
    const { tools } = await client.listTools();
    const readOnly = tools.filter((tool) => tool.annotations.readOnlyHint).map((tool) => tool.name);
    assert.deepEqual(readOnly, ["mesh_list", "mesh_log", "mesh_ping", "mesh_whoami"]);
    assert.deepEqual(tools.filter((tool) => tool.annotations.destructiveHint).map((tool) => tool.name), ["mesh_broadcast", "mesh_dialogue", "mesh_send"]);
    assert.ok(tools.every((tool) => tool.outputSchema));
  });

  test("every tool gives what its schema says", async () => {
    assert.equal((await call("mesh_whoami", {})).structuredContent.emailPrefix, "alice");
    assert.equal((await call("mesh_list", {})).structuredContent.agents[1].status, "online");
    assert.equal((await call("mesh_ping", { to: "bob" })).structuredContent.answered, true);
    const sent = await call("mesh_send", { to: "bob", message: "hello" });
    assert.equal(sent.structuredContent.reply.text.trim(), "hello", JSON.stringify(sent));
    const all = await call("mesh_broadcast", { message: "standup" });
    assert.deepEqual(all.structuredContent.counts, { replied: 1 });
    const waited = await call("mesh_wait", { id: sent.structuredContent.id });
    assert.deepEqual(waited.structuredContent, sent.structuredContent);
    assert.equal((await call("mesh_log", { with: "bob" })).structuredContent.messages.length, 2);
    const said = [];
    const talk = { with: "bob", topic: "the release", turns: 2, stopPhrase: "over and out" };
    const held = await call("mesh_dialogue", talk, { onprogress: ({ message }) => said.push(message) });
    const { end, turns } = held.structuredContent;
    assert.deepEqual([end, turns.map(({ speaker }) => speaker)], ["turns", ["ours", "theirs"]], JSON.stringify(held));
    assert.ok(said.includes("turn 1: your owner's agent spoke"), JSON.stringify(said));
    const refused = await call("mesh_send", { to: "bob", message: "hello" });
    assert.ok(refused.isError && /\(repeated\)/.test(refused.content[0].text), JSON.stringify(refused));
  });

  test("reads the roster and a conversation", async () => {
    const { resources } = await client.listResources();
    const { contents } = await client.readResource({ uri: resources[0].uri });
    assert.equal(JSON.parse(contents[0].text).agents[1].emailPrefix, "bob");
    const { resourceTemplates } = await client.listResourceTemplates();
    const uri = resourceTemplates[0].uriTemplate.replace("{teammate}", "bob");
    assert.match((await client.readResource({ uri })).contents[0].text, /me: hello/);
  });

  test("tells progress, and a cancelled call leaves the message for mesh_wait", async () => {
    const stop = new AbortController();
    const told = [];
    const onprogress = (step) => {
      told.push(step.message);
      if (step.message === "accepted") stop.abort();
    };
    await assert.rejects(call("mesh_send", { to: "bob", message: "be slow", abortOnCancel: true }, { onprogress, signal: stop.signal }));
    assert.ok(told.includes("reached"), told.join());
    const id = told[0].replace("message ", "");
    // The run was stopped with the call, so its end is known long before the 20 s that it would have taken.
    const waited = await until("the end of the run", async () => {
      const result = await call("mesh_wait", { id, timeoutSeconds: 1 });
      return result.structuredContent?.state !== "accepted" && result;
    });
    assert.equal(waited.structuredContent.state, "failed", JSON.stringify(waited));
  });

  test("mesh_send adds less than 5 ms over the command", async () => {
    const [tool, command] = [[], []];
    for (let n = 0; n < 20; n += 1) {
      const begun = performance.now();
      const sent = await call("mesh_send", { to: "bob", message: `round ${n}` });
      tool.push(performance.now() - begun);
      assert.equal(sent.isError, false, JSON.stringify(sent));
      command.push((await alice.expect(0, "send", "--to", "bob", "--message", `round ${n}`)).ms);
    }
    const [viaTool, viaCommand] = [median(tool), median(command)];
    console.log(`mesh_send ${viaTool.toFixed(1)} ms, agent-mesh send ${viaCommand.toFixed(1)} ms (medians of 20)`);
    assert.ok(viaTool < viaCommand + 5, `${viaTool} ms against ${viaCommand} ms`);
  });

  test("speaks streamable HTTP to whoever has the token", async (t) => {
    const http = start([agentMesh, "mcp", "--http", "127.0.0.1:0"], { env: alice.env, cwd: alice.home });
    t.after(http.stop);
    const address = await until("the address", () => /listening on (http:\/\/\S+)/.exec(http.out.stderr)?.[1]);
    const kept = await until("the token's file", () => /bearer token is in (\S+)/.exec(http.out.stderr)?.[1]);
    const headers = { authorization: `Bearer ${readFileSync(kept, "utf8")}` };
    const other = await connect(new StreamableHTTPClientTransport(new URL(address), { requestInit: { headers } }));
    const sent = await other.callTool({ name: "mesh_send", arguments: { to: "bob", message: "over http" } });
    assert.equal(sent.structuredContent.state, "replied");
    await other.close();
    await assert.rejects(connect(new StreamableHTTPClientTransport(new URL(address))));
  });
});

describe("OpenClaw as an MCP client", { skip: notIsolated }, () => {
  let bob, alice, gateway;

  before(async () => {
    bob = await startServe({ token, args: slow });
    alice = new Person("alice", { agents: [teammate("alice"), teammate("bob", bob.url)], tokens: { bob: token } });
    const config = { mcp: { servers: { mesh: { command: agentMesh, args: ["mcp"], env: alice.env } } } };
    gateway = await startRealGateway({ name: "alice", config });
  });
  after(() => Promise.all([gateway?.stop(), bob?.stop()]));

  test("finds the tools and resources", async () => {
    const probed = await gateway.cli("mcp", "probe", "mesh", "--json");
    assert.equal(probed.code, 0, probed.stdout + probed.stderr);
    assert.match(probed.stdout, /mesh_send/);
  });

  test("its agent sends with mesh_send and gets bob's reply", async () => {
    const owner = new Person("owner", { agents: [teammate("alice", gateway.url)], tokens: { alice: gateway.token } });
    const name = marker("call");
    // OpenClaw keeps MCP tools behind its own search tools, as its prompt tells the model.
    const order = toolCall("tool_call", { id: "mesh__mesh_send", args: { to: "bob", message: "is it green?" } });
    const sent = await owner.expect(0, "send", "--to", "alice", "--timeout", "90s", "--message", `${name} ${order}`);
    assert.match(sent.json.reply.text, /is it green\?/, `${sent.shown}\n${JSON.stringify(gateway.calls(name).map((call) => call.tools))}`);
    assert.match(sent.json.reply.text, /--- begin [0-9a-f]{32} ---/);
  });
});

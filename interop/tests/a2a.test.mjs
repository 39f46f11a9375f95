// `--via a2a` against the server of the official A2A SDK, and against OpenClaw's own A2A channel.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, describe, test } from "node:test";
import { startA2aAgent } from "../lib/a2a-agent.mjs";
import { marker, replyTo } from "../lib/markers.mjs";
import { Person, teammate } from "../lib/mesh.mjs";
import { notIsolated } from "../lib/netns.mjs";
import { startRealGateway } from "../lib/real-gateway.mjs";

const token = "example-a2a-token-0123456789";

describe("the server of @a2a-js/sdk", () => {
  let agent, alice;

  before(async () => {
    agent = await startA2aAgent({ token });
    const judge = { name: "Judge", emailPrefix: "judge", a2aUrl: agent.url, via: "a2a" };
    alice = new Person("alice", { agents: [teammate("alice"), judge], tokens: { judge: token } });
  });
  after(() => agent?.stop());

  const send = (code, message, ...more) => alice.expect(code, "send", "--to", "judge", "--message", message, ...more);

  test("answers a task, and the route is told", async () => {
    const { json } = await send(0, "is the build green?");
    assert.deepEqual([json.via, json.state, json.reply.text], ["a2a", "replied", "heard: is the build green?"]);
    const heard = agent.asked.at(-1);
    assert.deepEqual([heard.messageId, heard.contextId, json.session], [json.id, "mesh:alice", "mesh:alice"]);
    assert.match(heard.text, /^\[agent-mesh\/1 from=alice /);
  });

  test("keeps a context for each thread", async () => {
    await send(0, "one", "--thread", "ci");
    assert.equal(agent.asked.at(-1).contextId, "mesh:alice:ci");
  });

  test("states become ours", async () => {
    assert.equal((await send(0, "ask me back")).json.reply.text, "which one?");
    assert.equal((await send(0, "be direct")).json.reply.text, "a direct answer");
    const failed = (await send(1, "fail now")).json;
    assert.deepEqual([failed.state, failed.error.code], ["failed", "run-failed"]);
    assert.match(failed.error.message, /no quota/);
  });

  test("a long task is polled, and wait comes back for it", async () => {
    const slow = (await send(0, "be slow")).json;
    assert.equal(slow.reply.text, "heard: be slow");
    const late = (await send(3, "be slow again", "--timeout", "800ms")).json;
    assert.deepEqual([late.state, late.error.code], ["accepted", "no-reply-in-time"]);
    const waited = (await alice.expect(0, "wait", late.id)).json;
    assert.equal(waited.reply.text, "heard: be slow again");
    const accepted = (await send(0, "be slow once more", "--no-wait")).json;
    assert.equal(accepted.state, "accepted");
    assert.equal((await alice.expect(0, "wait", accepted.id)).json.reply.text, "heard: be slow once more");
    assert.equal(agent.asked.filter((one) => one.text.includes("be slow")).length, 3, "nothing was sent twice");
  });

  test("a wrong token, no agent, and nobody are told apart", async (t) => {
    const page = createServer((_, response) => response.writeHead(404).end("no agent here"));
    await new Promise((resolve) => page.listen(0, "127.0.0.1", resolve));
    t.after(() => page.close());
    const eve = new Person("eve", {
      agents: [
        { name: "Judge", emailPrefix: "judge", a2aUrl: agent.url },
        { name: "Page", emailPrefix: "page", a2aUrl: `http://127.0.0.1:${page.address().port}/a2a` },
        { name: "Nobody", emailPrefix: "nobody", a2aUrl: "http://127.0.0.1:9/a2a" },
        teammate("bob", "ws://127.0.0.1:9"),
      ],
      tokens: { judge: "example-wrong-token-0123456789" },
    });
    for (const [to, code, error] of [["judge", 5, "a2a-unauthorized"], ["page", 6, "not-an-a2a-agent"], ["nobody", 6, "unreachable"], ["bob", 4, "no-address"]]) {
      const { json } = await eve.expect(code, "send", "--to", to, "--via", "a2a", "--message", "hi");
      assert.equal(json.error.code, error, to);
    }
  });
});

describe("the same server where it streams", () => {
  let agent, alice;

  before(async () => {
    agent = await startA2aAgent({ token, streaming: true });
    const judge = { name: "Judge", emailPrefix: "judge", a2aUrl: agent.url, via: "a2a" };
    alice = new Person("alice", { agents: [teammate("alice"), judge], tokens: { judge: token } });
  });
  after(() => agent?.stop());

  const send = async (code, message, ...more) => {
    agent.methods.length = 0;
    return (await alice.expect(code, "send", "--to", "judge", "--message", message, ...more)).json;
  };

  test("a reply in pieces is one, and nothing is asked after", async () => {
    assert.equal((await send(0, "in pieces")).reply.text, "one two three");
    assert.equal((await send(0, "be slow")).reply.text, "heard: be slow");
    assert.deepEqual(agent.methods, ["SendStreamingMessage"]);
  });

  test("states become ours, as without a stream", async () => {
    assert.equal((await send(0, "ask me back")).reply.text, "which one?");
    assert.equal((await send(0, "be direct")).reply.text, "a direct answer");
    assert.match((await send(1, "fail now")).error.message, /no quota/);
  });

  test("a stream that breaks is taken up again", async () => {
    const { reply } = await send(0, "in pieces, and cut");
    assert.equal(reply.text.replaceAll("\n", ""), "one two three");
    assert.deepEqual(agent.methods.slice(0, 3), ["SendStreamingMessage", "GetTask", "SubscribeToTask"]);
    assert.equal(agent.asked.filter((one) => one.text.includes("cut")).length, 1, "nothing was sent twice");
  });

  test("wait comes back for a task into its stream", async () => {
    const late = await send(3, "be slow again", "--timeout", "800ms");
    assert.deepEqual([late.state, late.error.code], ["accepted", "no-reply-in-time"]);
    assert.equal((await alice.expect(0, "wait", late.id)).json.reply.text, "heard: be slow again");
    assert.deepEqual(agent.methods, ["SendStreamingMessage", "GetTask", "SubscribeToTask"]);
  });
});

describe("OpenClaw's A2A channel", { skip: notIsolated }, () => {
  let gateway, alice;

  before(async () => {
    const channels = { a2a: { enabled: true, peers: { alice: { token } } } };
    gateway = await startRealGateway({ name: "bob", config: { channels }, env: { OPENCLAW_SKIP_CHANNELS: undefined } });
    const a2aUrl = `${gateway.url.replace("ws", "http")}/a2a/v1`;
    // He has a gateway, too, whose token must not go to this place: the bearer token stands apart.
    alice = new Person("alice", { agents: [teammate("alice"), teammate("bob", gateway.url, { a2aUrl })], tokens: { bob: gateway.token, "a2a:bob": token } });
  });
  after(() => gateway?.stop());

  test("a task is a turn of its agent", async () => {
    const name = marker();
    const { json } = await alice.expect(0, "send", "--to", "bob", "--via", "a2a", "--timeout", "90s", "--message", name);
    assert.deepEqual([json.via, json.reply.text], ["a2a", replyTo(name)]);
    assert.equal(gateway.calls(name).length, 1);
  });

  test("a long one is waited for", async () => {
    const name = marker("slow3000");
    const { json } = await alice.expect(0, "send", "--to", "bob", "--via", "a2a", "--no-wait", "--thread", "later", "--message", name);
    assert.equal(json.state, "accepted");
    const waited = await alice.expect(0, "wait", json.id, "--timeout", "60s");
    assert.equal(waited.json.reply.text, replyTo(name));
    assert.equal(gateway.calls(name).length, 1);
  });
});

// wss:// to the real gateway with the certificate it generates for itself. Ordinary verification must refuse that one
// (self-signed, no name in it), so only the pin of the registry can let it through.
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { marker, replyTo } from "../lib/markers.mjs";
import { Person, teammate } from "../lib/mesh.mjs";
import { makeNetwork, notIsolated } from "../lib/netns.mjs";
import { startRealGateway } from "../lib/real-gateway.mjs";

describe("over TLS", { skip: notIsolated }, () => {
  let network, dave, pin;

  before(async () => {
    network = makeNetwork("alice", "dave");
    dave = await startRealGateway({ name: "dave", host: network.dave, tls: true });
    const certificate = new X509Certificate(readFileSync(path.join(dave.home, ".openclaw/gateway/tls/gateway-cert.pem")));
    pin = certificate.fingerprint256.replaceAll(":", "").toLowerCase();
  });
  after(() => dave?.stop());

  const person = (name, host, url, more) =>
    new Person(name, { host: network[host], agents: [teammate("dave", url, more)], tokens: { dave: dave.token } });

  test("the right pin over loopback brings the real reply", async () => {
    const text = marker();
    const local = person("local", "dave", dave.loopbackUrl, { tlsFingerprint: pin });
    const { json } = await local.expect(0, "send", "--to", "dave", "--message", `say ${text}`);
    assert.equal(json.reply.text, replyTo(text));
  });

  test("a wrong pin stops before any credential is sent, and starts no turn", async () => {
    const text = marker();
    const wrong = person("wrong", "dave", dave.loopbackUrl, { tlsFingerprint: "0".repeat(64) });
    const sent = await wrong.expect(5, "send", "--to", "dave", "--message", `say ${text}`);
    assert.match(`${sent.json.error.message} ${sent.json.error.hint}`, /fingerprint|certificate|identity/i);
    assert.equal(dave.calls(text).length, 0);
  });

  test("without a pin a self-signed certificate is refused", async () => {
    const text = marker();
    const trusting = person("trusting", "dave", dave.loopbackUrl);
    const sent = await trusting.mesh("send", "--to", "dave", "--message", `say ${text}`);
    assert.ok([5, 6].includes(sent.code), sent.shown);
    assert.match(`${sent.json.error.message} ${sent.json.error.hint}`, /certificate|fingerprint/i);
    assert.equal(dave.calls(text).length, 0);
  });

  test("ping names the TLS step, and which one fails with a wrong pin", async () => {
    const good = await person("good", "dave", dave.loopbackUrl, { tlsFingerprint: pin }).expect(0, "ping", "--to", "dave");
    assert.equal(good.json.steps.find(({ step }) => step === "tls").ok, true);
    const bad = await person("bad", "dave", dave.loopbackUrl, { tlsFingerprint: "0".repeat(64) }).mesh("ping", "--to", "dave");
    assert.notEqual(bad.code, 0, bad.shown);
    assert.equal(bad.json.steps.find(({ step }) => step === "tcp").ok, true, bad.shown);
    assert.equal(bad.json.steps.find(({ step }) => step === "tls").ok, false, bad.shown);
  });

  test("between hosts: pair, approve and send work over wss as over ws", async () => {
    const alice = person("alice", "alice", dave.url, { tlsFingerprint: pin });
    const { json } = await alice.expect(0, "pair", "--to", "dave");
    const approved = await dave.cli("devices", "approve", json.requestId);
    assert.equal(approved.code, 0, approved.stderr);
    const text = marker();
    const sent = await alice.expect(0, "send", "--to", "dave", "--message", `say ${text}`);
    assert.equal(sent.json.reply.text, replyTo(text));
  });

  test("trust add pins what the gateway shows, and no credential goes with the question", async () => {
    const adding = person("adding", "dave", dave.loopbackUrl);
    await adding.expect(5, "send", "--to", "dave", "--message", "hello");
    const wrong = await adding.expect(5, "trust", "add", "dave", "--fingerprint", "0".repeat(64));
    assert.equal(wrong.json.error.code, "identity-changed");
    const added = await adding.expect(0, "trust", "add", "dave");
    assert.equal(added.json.certificate.fingerprint, pin);
    const text = marker();
    const { json } = await adding.expect(0, "send", "--to", "dave", "--message", `say ${text}`);
    assert.equal(json.reply.text, replyTo(text));
    const shown = (await adding.expect(0, "trust", "show", "dave")).json;
    assert.match(shown.identity.deviceId, /^[0-9a-f]{64}$/);
  });

  test("plain ws:// to a TLS port is unreachable, at once and not at the deadline", async () => {
    const plain = person("plain", "alice", dave.url.replace("wss", "ws"));
    const sent = await plain.mesh("send", "--to", "dave", "--timeout", "10s", "--message", "hello");
    assert.equal(sent.code, 6, sent.shown);
    assert.ok(sent.ms < 5000, `${sent.ms} ms`);
  });

  // The last one: it takes the gateway down to give it another certificate.
  test("a changed certificate is identity-changed before anything is sent, until trust reset", async () => {
    const alice = person("again", "dave", dave.loopbackUrl);
    await alice.expect(0, "trust", "add", "dave");
    await dave.restart(() => rmSync(path.join(dave.home, ".openclaw/gateway/tls"), { recursive: true }));
    const text = marker();
    const changed = await alice.expect(5, "send", "--to", "dave", "--message", `say ${text}`);
    assert.equal(changed.json.error.code, "identity-changed");
    assert.ok(changed.json.error.message.includes(pin), changed.json.error.message);
    assert.match(changed.json.error.hint, /agent-mesh trust reset dave/);
    await alice.expect(5, "trust", "add", "dave");
    await alice.expect(0, "trust", "reset", "dave");
    assert.notEqual((await alice.expect(0, "trust", "add", "dave")).json.certificate.fingerprint, pin);
    const { json } = await alice.expect(0, "send", "--to", "dave", "--message", `say ${text}`);
    assert.equal(json.reply.text, replyTo(text));
    assert.equal(dave.calls(text).length, 1);
  });
});

import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, sign } from "node:crypto";
import WebSocket from "ws";
import { until } from "./until.mjs";

const raw = (publicKey) => publicKey.export({ type: "spki", format: "der" }).subarray(-32);

/** An Ed25519 device as the gateway knows it, and in the PEM form the reference client wants. */
export function makeDevice() {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  return {
    deviceId: createHash("sha256").update(raw(publicKey)).digest("hex"),
    publicKeyPem: publicKey.export({ type: "spki", format: "pem" }),
    privateKeyPem: privateKey.export({ type: "pkcs8", format: "pem" }),
  };
}

export const signPayload = (privateKeyPem, payload) =>
  sign(null, Buffer.from(payload), createPrivateKey(privateKeyPem)).toString("base64url");

export const publicKeyText = (publicKeyPem) => raw(createPublicKey(publicKeyPem)).toString("base64url");

/** `connect` params as agent-mesh sends them; with a device they are signed over the challenge. */
export function connectParams(challenge, { auth, device, scopes = ["operator.read", "operator.write"], ...more } = {}) {
  const client = { id: "gateway-client", mode: "backend", version: "0.1.0", platform: "agent-mesh", displayName: "agent-mesh:alice" };
  const params = { minProtocol: 3, maxProtocol: 4, client, role: "operator", scopes, caps: [], auth, userAgent: "agent-mesh/0.1.0", ...more };
  if (!device) return params;
  const { nonce, ts: signedAt } = challenge;
  const token = auth.token ?? auth.deviceToken ?? auth.bootstrapToken ?? "";
  const payload = ["v3", device.deviceId, client.id, client.mode, "operator", scopes.join(","), signedAt, token, nonce, client.platform, ""].join("|");
  const signature = signPayload(device.privateKeyPem, payload);
  return { ...params, device: { id: device.deviceId, publicKey: publicKeyText(device.publicKeyPem), signature, signedAt, nonce } };
}

/**
 * The barest client: it keeps every text frame both ways and leaves all judgement to the caller.
 * Used to record golden frames and to check the harness, where a cleverer client would hide the wire.
 */
export class Wire {
  frames = [];
  closed = null;
  #socket;
  #next = 0;

  static async open(url, options) {
    const wire = new Wire();
    wire.#socket = new WebSocket(url, { perMessageDeflate: false, ...options });
    wire.#socket.on("message", (data) => wire.frames.push({ from: "server", text: data.toString(), frame: JSON.parse(data.toString()) }));
    wire.#socket.on("close", (code, reason) => (wire.closed = { code, reason: reason.toString() }));
    wire.#socket.on("error", (error) => (wire.closed ??= { error }));
    wire.challenge = (await wire.event("connect.challenge")).frame.payload;
    return wire;
  }

  send(method, params) {
    const frame = { type: "req", id: String(++this.#next), method, ...(params ? { params } : {}) };
    const text = JSON.stringify(frame);
    this.frames.push({ from: "client", text, frame });
    this.#socket.send(text);
    return frame.id;
  }

  /** The nth answer to a request; `agent` has two. */
  answer(id, nth = 1, ms = 30_000) {
    return until(`answer ${nth} to request ${id}`, () => this.#of("res").filter((f) => f.frame.id === id)[nth - 1], { ms });
  }

  event(name, matches = () => true, ms = 30_000) {
    return until(`event ${name}`, () => this.#of("event").find((f) => f.frame.event === name && matches(f.frame.payload)), { ms });
  }

  async call(method, params) {
    return (await this.answer(this.send(method, params))).frame;
  }

  connect(options) {
    return this.call("connect", connectParams(this.challenge, options));
  }

  close() {
    this.#socket.close();
  }

  #of(type) {
    return this.frames.filter((f) => f.from === "server" && f.frame.type === type);
  }
}

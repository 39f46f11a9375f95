const OPCODES = { 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong" };

/** Reads one direction of a WebSocket connection (RFC 6455, no extensions) and reports the HTTP head and each message. */
export class WebSocketReader {
  #bytes = Buffer.alloc(0);
  #state = "head";
  #fragments = null;
  #report;

  constructor(report) {
    this.#report = report;
  }

  push(bytes) {
    if (this.#state === "plain") return;
    this.#bytes = Buffer.concat([this.#bytes, bytes]);
    if (this.#state === "head") this.#readHead();
    while (this.#state === "frames" && this.#readFrame());
  }

  #readHead() {
    const end = this.#bytes.indexOf("\r\n\r\n");
    if (end < 0) return;
    const head = this.#bytes.toString("latin1", 0, end);
    this.#report({ kind: "http", text: head });
    this.#bytes = this.#bytes.subarray(end + 4);
    // A probe such as GET /healthz is not a WebSocket: its body must not be read as frames.
    this.#state = /^upgrade: *websocket/im.test(head) ? "frames" : "plain";
  }

  #readFrame() {
    const bytes = this.#bytes;
    if (bytes.length < 2) return false;
    const masked = (bytes[1] & 0x80) !== 0;
    let length = bytes[1] & 0x7f;
    let offset = 2;
    if (length === 126) {
      if (bytes.length < 4) return false;
      length = bytes.readUInt16BE(2);
      offset = 4;
    } else if (length === 127) {
      if (bytes.length < 10) return false;
      length = Number(bytes.readBigUInt64BE(2));
      offset = 10;
    }
    const mask = masked ? bytes.subarray(offset, offset + 4) : null;
    offset += masked ? 4 : 0;
    if (bytes.length < offset + length) return false;
    const payload = Buffer.from(bytes.subarray(offset, offset + length));
    if (mask) for (let i = 0; i < payload.length; i++) payload[i] ^= mask[i % 4];
    this.#bytes = bytes.subarray(offset + length);
    this.#message(bytes[0] & 0x0f, (bytes[0] & 0x80) !== 0, payload);
    return true;
  }

  #message(opcode, final, payload) {
    if (opcode >= 8) {
      const close = opcode === 8 && payload.length >= 2;
      this.#report({
        kind: OPCODES[opcode],
        ...(close ? { code: payload.readUInt16BE(0), text: payload.toString("utf8", 2) } : {}),
      });
      return;
    }
    if (opcode !== 0) this.#fragments = { opcode, parts: [] };
    this.#fragments.parts.push(payload);
    if (!final) return;
    const { opcode: kind, parts } = this.#fragments;
    this.#report({ kind: OPCODES[kind], text: Buffer.concat(parts).toString("utf8") });
    this.#fragments = null;
  }
}

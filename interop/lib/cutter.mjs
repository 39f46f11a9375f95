// A relay in front of a gateway that knows how far each conversation got, and can end it right there.
import { createConnection, createServer } from "node:net";
import { WebSocketReader } from "./websocket-reader.mjs";

/** The steps of a conversation in which a message is sent, in order, and whose bytes show that it came so far. */
export const STAGES = ["tcp", "upgrade", "challenge", "connect", "hello", "request", "accepted", "streaming", "final"];

/** The stage that a message on the wire is, if it is one. `said` remembers the ids of this conversation's requests. */
function stageOf(from, message, said) {
  if (message.kind === "http") return from === "server" ? "upgrade" : null;
  if (message.kind !== "text") return null;
  const frame = JSON.parse(message.text);
  if (frame.type === "req") {
    said.set(frame.id, frame.method);
    return frame.method === "connect" ? "connect" : frame.method === "agent" ? "request" : null;
  }
  if (frame.type === "event") {
    if (frame.event === "connect.challenge") return "challenge";
    return frame.event === "agent" || frame.event === "chat" ? "streaming" : null;
  }
  const method = said.get(frame.id);
  if (method === "connect") return "hello";
  if (method !== "agent") return null;
  return frame.payload?.status === "accepted" || frame.payload?.status === "in_flight" ? "accepted" : "final";
}

/**
 * Relays 127.0.0.1:<free port> to `target`. Per conversation `onStage(stage, line)` is called before the bytes that are
 * this stage go on; `line.cut({ forward, reset })` ends it, with those bytes delivered or not, by FIN or by RST.
 * `onBytes(from, count, line)` is called before each piece of bytes goes on.
 */
export async function startCutter(target, { onStage = () => {}, onBytes = () => {} } = {}) {
  const { hostname, port } = new URL(target);
  const open = new Set();
  let connections = 0;
  const server = createServer((client) => {
    const upstream = createConnection({ host: hostname, port: Number(port) });
    const number = ++connections;
    let cut = null;
    const end = () => {
      for (const socket of [client, upstream]) cut.reset ? socket.resetAndDestroy() : socket.destroy();
    };
    const line = {
      number,
      cut: (how) => {
        cut ??= { forward: true, reset: false, ...how };
      },
    };
    for (const socket of [client, upstream]) {
      socket.setNoDelay(true);
      open.add(socket);
      socket.on("error", () => {}).on("close", () => {
        open.delete(socket);
        (socket === client ? upstream : client).destroy();
      });
    }
    const said = new Map();
    for (const [from, source, sink] of [["client", client, upstream], ["server", upstream, client]]) {
      const reader = new WebSocketReader((message) => {
        const stage = stageOf(from, message, said);
        if (stage && !cut) onStage(stage, line);
      });
      source.on("data", (bytes) => {
        if (cut) return;
        onBytes(from, bytes.length, line);
        if (!cut) reader.push(bytes);
        if (!cut) {
          sink.write(bytes);
        } else if (cut.forward && !cut.reset) {
          sink.write(bytes.subarray(0, cut.bytes ?? bytes.length), end);
        } else {
          end();
        }
      });
    }
    onStage("tcp", line);
    if (cut) end();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `ws://127.0.0.1:${server.address().port}`,
    connections: () => connections,
    stop: () => {
      for (const socket of open) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

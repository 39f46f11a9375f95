// A relay that writes down every WebSocket message that passes, as text, exactly as it was on the wire. It relays TCP
// and only listens in: handshake, pings, fragments and close codes stay those of the two programs under test.
//   node tap.mjs LISTEN_HOST PORT TARGET_HOST TARGET_PORT JOURNAL
// Its own process, because it must stand in the client's namespace (then the gateway sees the client's address) or in
// the gateway's (then a remote client becomes a local one).
import { appendFileSync, writeFileSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { readJsonLines } from "./json-lines.mjs";
import { tempDir } from "./places.mjs";
import { start } from "./proc.mjs";
import { until } from "./until.mjs";
import { WebSocketReader } from "./websocket-reader.mjs";

function relay(client, connection, target, journal) {
  const upstream = createConnection(target);
  const record = (from, message) => appendFileSync(journal, `${JSON.stringify({ connection, from, at: Date.now(), ...message })}\n`);
  for (const [from, source, sink] of [["client", client, upstream], ["server", upstream, client]]) {
    const reader = new WebSocketReader((message) => record(from, message));
    source.on("data", (bytes) => {
      reader.push(bytes);
      sink.write(bytes);
    });
    source.on("end", () => sink.end());
    source.on("error", () => sink.destroy());
    source.on("close", () => sink.end());
  }
}

/** `target` is a ws:// URL; the tap's own `url` is what the client is to dial instead. */
export async function startTap({ host, target, listen = "127.0.0.1" }) {
  const journal = path.join(tempDir("tap"), "journal.jsonl");
  writeFileSync(journal, "");
  const { hostname, port: targetPort } = new URL(target);
  const argv = [process.execPath, fileURLToPath(import.meta.url), listen, "0", hostname, targetPort, journal];
  const running = start(argv, { host });
  const listening = await until("the tap", () => /listening on (\d+)/.exec(running.out.stdout));
  const records = () => readJsonLines(journal);
  const frames = () => records().filter((record) => record.kind === "text");
  return {
    url: `ws://${listen}:${listening[1]}`,
    records,
    /** Text messages `{connection, from, text, frame}`; `text` is untouched, `frame` is its parse. */
    frames: () => frames().map((record) => ({ ...record, frame: JSON.parse(record.text) })),
    /** How often a client tried to authenticate: the number that must not grow by retries. */
    connects: () => frames().filter((r) => r.from === "client" && JSON.parse(r.text).method === "connect").length,
    stop: running.stop,
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [listenHost, port, host, targetPort, journal] = process.argv.slice(2);
  let connections = 0;
  createServer((client) => relay(client, ++connections, { host, port: Number(targetPort) }, journal)).listen(
    Number(port),
    listenHost,
    function () {
      process.stdout.write(`listening on ${this.address().port}\n`);
    },
  );
}

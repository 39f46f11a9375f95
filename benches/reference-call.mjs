// The reference client doing what `agent-mesh send` does, in one process: one connect, one `agent` call, the reply.
//   node reference-call.mjs URL DEVICE.json TOKEN SESSION MESSAGE
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { connectReference } from "../interop/lib/reference-client.mjs";

const [url, device, token, sessionKey, message] = process.argv.slice(2);
const reference = await connectReference(url, { device: JSON.parse(readFileSync(device, "utf8")), token });
const final = await reference.request("agent", { message, sessionKey, idempotencyKey: randomUUID() }, { expectFinal: true });
process.stdout.write(`${final.result.payloads.map((payload) => payload.text).join("\n")}\n`);
// Its own farewell waits for timers; the exchange is over, and that is what is measured.
process.exit(0);

import { randomBytes } from "node:crypto";

/** A marker no other test uses. `behaviour` is one of the mock model's: "", "slow2000", "chunks", "error". */
export function marker(behaviour = "") {
  const id = `nonce-${randomBytes(6).toString("hex")}`;
  return behaviour ? `${id}-${behaviour}` : id;
}

export function markersIn(text) {
  return [...text.matchAll(/nonce-[0-9a-f]{12}(?:-(slow|chunks|error|call)(\d*))?/g)].map(([whole, mode, ms]) => ({
    text: whole,
    mode,
    ms: Number(ms),
  }));
}

/** What the mock calls for a marker with `call`, written behind it: `⟦{"name": "exec", "arguments": {…}}⟧`. */
export const toolCall = (name, args) => `⟦${JSON.stringify({ name, arguments: args })}⟧`;
export const toolCallIn = (text, marker) => JSON.parse(/⟦(.*?)⟧/s.exec(text.slice(text.lastIndexOf(marker)))[1]);

/** What the mock answers; several words, so that a streamed answer has several pieces. */
export const replyTo = (text) => `mock model answers ${text} and that is all`;

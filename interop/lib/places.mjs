import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { onExit } from "./cleanup.mjs";

export const interop = path.resolve(fileURLToPath(import.meta.url), "../..");
export const openclaw = path.join(interop, "node_modules/openclaw/openclaw.mjs");

/** The binary under test. `run` sets the variable; the default serves a single `node --test` by hand. */
export const agentMesh = path.resolve(process.env.AGENT_MESH_BIN ?? path.join(interop, "../target/release/agent-mesh"));

// A gateway that was just killed may still have a helper writing into its home, hence the retries.
/** A folder of its own, removed at the end unless KEEP=1 asks to look at it afterwards. */
export function tempDir(label) {
  const dir = mkdtempSync(path.join(tmpdir(), `am-interop-${label}-`));
  if (process.env.KEEP !== "1") onExit(() => rmSync(dir, { recursive: true, force: true, maxRetries: 10 }));
  return dir;
}

// A sender whose process can be killed, and whose messages are seen through to their end with `wait`.
import { randomUUID } from "node:crypto";
import { agentMesh } from "./places.mjs";
import { start } from "./proc.mjs";

/** No message may take longer: a hang is a failure. */
const HANGS_MS = 180_000;
const OPEN = ["sending", "accepted", "unknown"];

export class Message {
  /** All that our processes said, for whoever has to find out what went wrong. */
  told = [];
  #running = null;

  constructor(person, text, { session, noWait = false } = {}) {
    this.person = person;
    this.text = text;
    this.id = randomUUID();
    this.args = ["--to", "bob", "--id", this.id, "--timeout", "100s", "--message", `say ${text}`];
    if (session) this.args.push("--session", session);
    if (noWait) this.args.push("--no-wait");
  }

  /** SIGKILL for the process that carries it now; says whether there was one. */
  kill() {
    if (!this.#running?.running()) return false;
    process.kill(-this.#running.pid, "SIGKILL");
    return true;
  }

  /** `send`, in a process that may be killed: its document, or null. */
  send() {
    return this.#process("send", ...this.args);
  }

  wait() {
    return this.#process("wait", this.id, "--timeout", "60s");
  }

  /** Sends, and waits in new processes until it has an end: `{ state, reply }`. */
  async drive() {
    const deadline = Date.now() + HANGS_MS;
    let unknown = 0;
    for (let document = await this.send(); ; document = await this.wait()) {
      // Killed before the archive had it: then nothing may have left.
      if (document?.error?.code === "no-such-message") return { state: "never-begun" };
      if (document && !OPEN.includes(document.state)) return { state: document.state, reply: document.reply?.text };
      // Asked three times, a gateway that is there says nothing else the fourth time.
      unknown = document?.state === "unknown" ? unknown + 1 : 0;
      if (unknown === 3 || Date.now() > deadline) return { state: document?.state ?? "killed" };
    }
  }

  async #process(...args) {
    this.#running = start([agentMesh, ...args, "--json"], { env: this.person.env, cwd: this.person.home });
    const { code, signal, stdout, stderr } = await this.#running.ended;
    this.told.push(`${args[0]}: exit ${code ?? signal} ${stdout.trim() || stderr.trim()}`);
    return signal ? null : JSON.parse(stdout);
  }
}

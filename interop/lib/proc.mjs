import { spawn } from "node:child_process";
import { onExit } from "./cleanup.mjs";

/** `argv` as it must be started so that it runs on that host (or right here without one). */
const on = (host, argv) => (host ? ["nsenter", `--net=/run/netns/${host.name}`, ...argv] : argv);

/**
 * A child process that cannot outlive us. `nsenter` replaces itself by the command, so `child.pid` is the command's own
 * pid. Each child leads a process group of its own, which makes `kill` reach its children (the OpenClaw launcher may
 * run the gateway as one) and nobody else.
 */
export function start(argv, { host, env, cwd, stdin } = {}) {
  const [command, ...args] = on(host, argv);
  const child = spawn(command, args, { env, cwd, detached: true });
  const started = performance.now();
  const out = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"]) {
    child[name].setEncoding("utf8").on("data", (text) => (out[name] += text));
  }
  // A command that never reads its input closes the pipe early; that is its right, not our failure.
  child.stdin.on("error", () => {}).end(stdin ?? "");
  const ended = new Promise((resolve) => {
    child.on("error", (error) => resolve({ ...out, code: null, signal: null, error, ms: performance.now() - started }));
    child.on("close", (code, signal) => resolve({ ...out, code, signal, ms: performance.now() - started }));
  });
  const running = () => child.pid !== undefined && child.exitCode === null && child.signalCode === null;
  const kill = () => running() && process.kill(-child.pid, "SIGKILL");
  onExit(kill);
  return {
    pid: child.pid,
    out,
    ended,
    running,
    /** To the process alone, for a signal it is meant to handle. */
    signal: (name) => child.kill(name),
    async stop() {
      kill();
      await ended;
    },
  };
}

/** Runs to the end; `limitMs` is a safety net against a hang and shows up as `signal: "SIGKILL"`. */
export async function run(argv, { limitMs = 120_000, ...options } = {}) {
  const running = start(argv, options);
  const timer = setTimeout(() => running.stop(), limitMs);
  const result = await running.ended;
  clearTimeout(timer);
  if (result.error) throw result.error;
  return result;
}

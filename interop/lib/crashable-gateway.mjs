// The real OpenClaw, which can be killed and started again on its home and port, as often as a test wants.
import path from "node:path";
import { openclaw } from "./places.mjs";
import { start } from "./proc.mjs";
import { startRealGateway } from "./real-gateway.mjs";
import { until } from "./until.mjs";

const STOP_MS = 60_000;

const answers = async (gateway, what) => {
  try {
    const response = await fetch(new URL(what, gateway.loopbackUrl.replace("ws", "http")), { signal: AbortSignal.timeout(2000) });
    return response.status === 200;
  } catch {
    return false;
  }
};

/**
 * `startRealGateway` on loopback, with `kill()` (SIGKILL for it and its children), `terminate()` (SIGTERM, returns when it
 * is gone) and `boot()` (returns when it is ready again). The mock model and its ledger live on.
 */
export async function startCrashableGateway(name) {
  const gateway = await startRealGateway({ name });
  const env = { PATH: process.env.PATH, HOME: gateway.home, TMPDIR: path.join(gateway.home, "tmp"), OPENCLAW_SKIP_CHANNELS: "1", NO_COLOR: "1" };
  let running = null;
  let boots = 0;
  const boot = async () => {
    boots += 1;
    running = start([process.execPath, openclaw, "gateway", "run"], { env, cwd: gateway.home });
    const log = () => running.out.stdout + running.out.stderr;
    await until(`boot ${boots} of ${name}'s gateway`, async () => {
      if (!running.running()) throw new Error(`the gateway ended\n${log()}`);
      return /\] ready\b/.test(log()) && (await answers(gateway, "/readyz"));
    }, { ms: 120_000, every: 100 });
  };
  // The process that the helper started is not ours to kill with its group: one of our own takes its place.
  gateway.signal("SIGKILL");
  await until("the first gateway to be gone", async () => !(await answers(gateway, "/healthz")));
  await boot();
  return {
    ...gateway,
    boot,
    boots: () => boots,
    log: () => running.out.stdout + running.out.stderr,
    kill: () => running.stop(),
    terminate: async () => {
      running.signal("SIGTERM");
      // Its drain waits for its own cron runs too, up to 315 s (seen once in three): killed as a service manager would.
      const timer = setTimeout(running.stop, STOP_MS);
      await running.ended;
      clearTimeout(timer);
    },
    stop: () => Promise.all([running.stop(), gateway.stop()]),
  };
}

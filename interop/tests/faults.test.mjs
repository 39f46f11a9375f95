// What must never happen between our binary and the real OpenClaw, whatever breaks: a message lost, a turn run twice
// because of us, somebody else's reply. The witness is the mock model's ledger. FAULT_CUTS_REAL=66 is the full form: 52
// connections, 4 crashes and restarts in the middle of a run, and 10 SIGKILLs of the gateway with one run active and one
// queued; it takes five to ten minutes, since the gateway starts so slowly, so the default is a short form of 12 (two such
// SIGKILLs). FAULT_SEED repeats the choices.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { startCrashableGateway } from "../lib/crashable-gateway.mjs";
import { startCutter, STAGES } from "../lib/cutter.mjs";
import { Message } from "../lib/fault-sender.mjs";
import { marker, replyTo } from "../lib/markers.mjs";
import { Person, teammate } from "../lib/mesh.mjs";
import { notIsolated } from "../lib/netns.mjs";
import { until } from "../lib/until.mjs";

const CUTS = Number(process.env.FAULT_CUTS_REAL ?? 12);
const CRASHES_WITH_QUEUE = CUTS >= 60 ? 10 : 2;
/** Restarts take ten seconds each: two of each kind, one in the short form. */
const RESTARTS = CUTS >= 60 ? 2 : 1;
const ON_THE_LINE = CUTS - CRASHES_WITH_QUEUE - 2 * RESTARTS;
const SEED = Number(process.env.FAULT_SEED ?? Date.now() % 0x7fffffff);
/** Conversations that are cut at the same time, each in a session of its own. */
const LANES = 4;

/** mulberry32 */
function randomFrom(seed) {
  let state = seed >>> 0;
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  };
}

/** OpenClaw goes on by itself after a crash: that turn is its own, not one of ours. */
const RECOVERY = "[System] Your previous turn was interrupted";
const isRecovery = (call) => call.prompt.lastIndexOf(RECOVERY) > call.prompt.lastIndexOf(call.marker);

describe("faults", { skip: notIsolated, timeout: 1_200_000 }, () => {
  const random = randomFrom(SEED);
  const begun = Date.now();
  const cuts = {};
  const totals = { messages: 0, replied: 0, unknown: 0, unreachable: 0, "never begun": 0, lost: 0, doubled: 0, wrong: 0, recoveries: 0 };
  const complaints = [];
  let bob, alice, carol;

  const struck = (kind) => (cuts[kind] = (cuts[kind] ?? 0) + 1);
  const person = (name, url) => new Person(name, { agents: [teammate("bob", url)], tokens: { bob: bob.token } });

  before(async () => {
    console.log(`FAULT_SEED=${SEED} FAULT_CUTS_REAL=${CUTS}`);
    bob = await startCrashableGateway("bob");
    alice = person("alice", bob.url);
    carol = person("carol", bob.url);
    // The first turn of a gateway is slow.
    assert.equal((await new Message(alice, marker()).drive()).state, "replied");
  });

  after(async () => {
    await bob?.stop();
    const kinds = Object.entries(cuts).map(([kind, count]) => `${kind} ${count}`);
    const all = Object.values(cuts).reduce((sum, count) => sum + count, 0);
    const rest = Object.entries(totals).map(([what, count]) => `${what} ${count}`);
    const seconds = Math.round((Date.now() - begun) / 1000);
    console.log(`faults against OpenClaw 2026.9.6: ${all} cuts (${kinds.join(", ")}), ${rest.join(", ")} (seed ${SEED}, ${seconds} s)`);
  });

  /** Compares how a message ended, as we told it, with what the model was really asked. */
  function judge(message, { state, reply }, context, { crashed = false } = {}) {
    totals.messages += 1;
    const calls = bob.calls(message.text);
    const ours = calls.filter((call) => !isRecovery(call)).length;
    totals.recoveries += calls.length - ours;
    const complain = (what) => complaints.push(`${context}: ${what}, model calls ${ours} and ${calls.length - ours} of a recovery\n  ${message.told.join("\n  ")}`);
    if (ours > 1) {
      totals.doubled += 1;
      complain("DOUBLED");
    }
    if (state === "replied") {
      totals.replied += 1;
      if (reply !== replyTo(message.text)) {
        totals.wrong += 1;
        complain(`WRONG ${reply}`);
      }
    } else if (state === "unreachable" || state === "never-begun") {
      totals[state.replace("-", " ")] += 1;
      if (calls.length > 0) complain(`UNTRUE: ${state}, and it ran`);
    } else if (state === "unknown") {
      totals.unknown += 1;
      // A gateway that is killed can lose a run that it confirmed and began: no row, no pending input, no recovery (seen).
      // Sent again it would be a second turn. Otherwise nothing hides the truth.
      if (!crashed || calls.length !== 1) complain("UNKNOWN, though it can be known");
    } else {
      totals.lost += 1;
      complain(`LOST: ended as ${state}`);
    }
  }

  /** An empty history proves nothing (sessions are reset, too): somebody spoke in each session before. */
  const prelude = async (session) => assert.equal((await new Message(alice, marker(), { session }).drive()).state, "replied");

  const check = () => assert.deepEqual(complaints.splice(0), []);

  /** One message through a line that breaks at a random place, or whose sender is killed there. */
  async function onTheLine(number, session) {
    // 9 stages and 4 kinds have no common divisor: every stage meets every kind.
    const [stage, kind] = [STAGES[number % STAGES.length], number % 4];
    const delay = random(8);
    const bytes = [random(1100), random(20_000)];
    const name = ["cut after", "cut before", "our SIGKILL", "mid-bytes"][kind];
    const reset = random(2) === 0;
    let message, done = false;
    const strike = (what, act) => {
      if (done) return;
      done = true;
      struck(what);
      act();
    };
    const counts = { client: 0, server: 0 };
    const [direction, most] = random(2) === 0 ? ["client", bytes[0]] : ["server", bytes[1]];
    const cutter = await startCutter(bob.url, {
      onStage(seen, line) {
        if (seen !== stage || line.number > 1) return;
        if (kind < 2) strike(`${name} ${stage}`, () => line.cut({ forward: kind === 0, reset }));
        // The moment itself is what is random.
        if (kind === 2) setTimeout(() => message.kill() && strike(name, () => {}), delay);
      },
      onBytes(from, count, line) {
        if (kind !== 3 || from !== direction || line.number > 1) return;
        const left = most - counts[from];
        counts[from] += count;
        if (counts[from] > most) strike(name, () => line.cut({ forward: true, bytes: left, reset }));
      },
    });
    const sender = person(`lane${number}`, cutter.url);
    message = new Message(sender, marker("chunks20"), { session });
    judge(message, await message.drive(), `cut ${number} (${name} ${stage}, ${direction} ${most})`);
    await cutter.stop();
  }

  test(`${ON_THE_LINE} connections are cut, or our process is killed, at every stage`, { timeout: 300_000 }, async () => {
    let next = 0;
    const lane = async (_, index) => {
      await prelude(`lane-${index}`);
      while (next < ON_THE_LINE) await onTheLine(next++, `lane-${index}`);
    };
    await Promise.all(Array.from({ length: LANES }, lane));
    check();
  });

  for (const how of ["SIGTERM", "SIGKILL"]) {
    for (let round = 1; round <= RESTARTS; round += 1) {
      test(`the gateway gets ${how} in the middle of a run (${round})`, async () => {
        const message = new Message(alice, marker("slow2500"));
        const driven = message.drive();
        await until("the run", () => bob.calls(message.text).length > 0);
        await pause(random(1500));
        struck(`gateway ${how}`);
        await (how === "SIGTERM" ? bob.terminate() : bob.kill());
        await bob.boot();
        judge(message, await driven, `${how} ${round}`, { crashed: how === "SIGKILL" });
        check();
      });
    }
  }

  for (let round = 1; round <= CRASHES_WITH_QUEUE; round += 1) {
    test(`the gateway gets SIGKILL with one run active and one queued (${round})`, async () => {
      const session = round % 2 === 0 ? `standup-${round}` : "standup";
      await prelude(session);
      const active = new Message(alice, marker("slow2500"), { session });
      const driven = active.drive();
      await until("the run", () => bob.calls(active.text).length > 0);
      // With --no-wait our process is gone when the crash comes, and a later `wait` finds out.
      const queued = new Message(carol, marker(), { session, noWait: true });
      const { state } = await queued.send();
      assert.equal(state, "accepted");
      const waited = round % 3 === 0 ? null : queued.wait();
      struck("gateway SIGKILL with a queue");
      await bob.kill();
      await bob.boot();
      judge(active, await driven, `crash ${round}, the active one`, { crashed: true });
      let document = await (waited ?? queued.wait());
      while (["sending", "accepted", "unknown"].includes(document.state) && queued.told.length < 5) document = await queued.wait();
      judge(queued, { state: document.state, reply: document.reply?.text }, `crash ${round}, the queued one`);
      check();
    });
  }
});

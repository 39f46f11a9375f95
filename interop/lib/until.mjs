/**
 * Polls `probe` until it returns something truthy. It never sleeps longer than the condition takes; an error thrown by
 * the probe means the condition can no longer come true and ends the waiting at once.
 */
export async function until(what, probe, { ms = 20_000, every = 50 } = {}) {
  const deadline = Date.now() + ms;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`waited ${ms} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, every));
  }
}

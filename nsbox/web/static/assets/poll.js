// Asking again and again, calmly: never while the page is hidden, more and more rarely while nothing changes, and
// with long pauses while the daemon is away.

const LONGEST = 30_000;

/**
 * Call `work` now and then until `signal`. It resolves to whether something changed; `every` is the pause after a
 * change, `most` the longest without one. Returns a function that asks at once.
 */
export function poll(work, { signal, every = 3000, most = 12_000, failed }) {
  let timer = null;
  let pause = every;
  let failures = 0;
  let running = false;
  let again = false;

  async function turn() {
    if (signal.aborted) return;
    if (running) {
      again = true;
      return;
    }
    clearTimeout(timer);
    running = true;
    try {
      const changed = await work();
      failures = 0;
      pause = changed === false ? Math.min(pause * 1.5, most) : every;
      failed?.(null);
    } catch (error) {
      if (signal.aborted || error.name === "AbortError") return;
      failures += 1;
      pause = Math.min(every * 2 ** failures, LONGEST);
      failed?.(error);
    } finally {
      running = false;
    }
    if (signal.aborted) return;
    if (again) {
      again = false;
      turn();
    } else if (!document.hidden) {
      timer = setTimeout(turn, pause);
    }
  }

  function seen() {
    if (document.hidden) {
      clearTimeout(timer);
    } else {
      pause = every;
      turn();
    }
  }

  document.addEventListener("visibilitychange", seen, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  turn();
  return () => {
    pause = every;
    return turn();
  };
}

// What the page shows, as plain data; readers are called once a frame however often it changes.

const EVENTS_KEPT = 500;
const HIDDEN_MS = 250;
const REST_SHARE = 3;

/**
 * What is known before the first answer.
 * @returns {Record<string, any>}
 */
export const initial = () => ({
  connection: { state: "connecting", answeredAt: 0, triesAt: 0 },
  isOver: false,
  info: null,
  reader: null,
  health: null,
  status: null,
  agents: null,
  runs: null,
  failures: null,
  outSince: {},
  waitingPast: [],
  events: [],
  trouble: {},
  readAt: {},
});

export class Store {
  constructor() {
    this.state = initial();
    this.readers = new Set();
    this.isDue = false;
    this.notBefore = 0;
  }

  /** Change some fields. */
  set(fields) {
    this.state = { ...this.state, ...fields };
    this.#schedule();
  }

  /** Remember an event, newest first. */
  note(event) {
    const outSince = outSinceAfter(this.state.outSince, event);
    this.set({ events: [event, ...this.state.events].slice(0, EVENTS_KEPT), outSince });
  }

  /** Call a reader after changes; the function that is returned ends that. */
  read(reader) {
    this.readers.add(reader);
    return () => this.readers.delete(reader);
  }

  #schedule() {
    if (this.isDue) return;
    this.isDue = true;
    const run = () => {
      if (!this.isDue) return;
      this.isDue = false;
      const began = performance.now();
      for (const reader of this.readers) reader();
      // The nodes are drawn behind this, and a large page shall leave most of the time to its reader.
      setTimeout(() => {
        this.notBefore = performance.now() + REST_SHARE * (performance.now() - began);
      });
    };
    const rest = this.notBefore - performance.now();
    if (rest > 0) setTimeout(run, rest);
    else requestAnimationFrame(run);
    // A hidden tab draws no frames, and its title changes all the same.
    setTimeout(run, Math.max(HIDDEN_MS, rest));
  }
}

function outSinceAfter(before, event) {
  if (event.kind !== "capability_changed") return before;
  const { [event.capability]: _, ...others } = before;
  return event.is_out ? { ...others, [event.capability]: event.at } : others;
}

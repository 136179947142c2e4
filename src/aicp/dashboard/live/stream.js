// The server's live events, for as long as the page is open: read again from the last one after every end.

const FIRST_WAIT_MS = 500;
const WAIT_MS_MAX = 10_000;
const KEEPALIVE_S = 2;
/** A connection of which three signs of life did not come is given up. */
const SILENT_MS_MAX = 3 * KEEPALIVE_S * 1_000;

/**
 * Follow the events until the signal is aborted.
 * @param {import("./api.js").Api} api
 * @param {{event: (event: any) => void, alive: () => void, refused: (error: Error) => void}} tell
 * @param {AbortSignal} signal
 */
export async function follow(api, tell, signal) {
  const place = { id: "" };
  let waitMs = FIRST_WAIT_MS;
  while (!signal.aborted) {
    const connection = new Connection(signal);
    try {
      const answer = await api.open(
        `/api/events?keepalive_s=${KEEPALIVE_S}`,
        place.id ? { "Last-Event-ID": place.id } : {},
        connection.signal,
      );
      waitMs = FIRST_WAIT_MS;
      await read(answer.body, tell.event, place, () => {
        tell.alive();
        connection.heard();
      });
    } catch (error) {
      if (signal.aborted) return;
      if (!connection.signal.aborted) tell.refused(error);
    } finally {
      connection.close();
    }
    await pause(waitMs * (0.5 + Math.random() / 2), signal);
    waitMs = Math.min(WAIT_MS_MAX, waitMs * 2);
  }
}

/** One connection, which is over with its page, or once it has been silent for too long. */
class Connection {
  /** @param {AbortSignal} pageEnded */
  constructor(pageEnded) {
    this.over = new AbortController();
    this.signal = AbortSignal.any([pageEnded, this.over.signal]);
    this.heard();
  }

  heard() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.over.abort(), SILENT_MS_MAX);
  }

  close() {
    clearTimeout(this.timer);
  }
}

async function read(body, event, place, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    const frames = (rest + value).split("\n\n");
    rest = frames.pop() ?? "";
    for (const frame of frames) take(frame, event, place);
  }
}

function take(frame, event, place) {
  let data = "";
  for (const part of frame.split("\n")) {
    if (part.startsWith("id:")) place.id = part.slice(3).trim();
    else if (part.startsWith("data:")) data += part.slice(5).trimStart();
  }
  if (data) event({ id: place.id, ...JSON.parse(data) });
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve(undefined);
      },
      { once: true },
    );
  });
}

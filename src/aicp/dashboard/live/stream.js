// The server's live events, for as long as the page is open: read again from the last one after every end.

const FIRST_WAIT_MS = 500;
const WAIT_MS_MAX = 10_000;

/**
 * Follow the events until the signal is aborted.
 * @param {import("./api.js").Api} api
 * @param {{event: (event: any) => void, opened: () => void, refused: (error: Error) => void}} tell
 * @param {AbortSignal} signal
 */
export async function follow(api, tell, signal) {
  const place = { id: "" };
  let waitMs = FIRST_WAIT_MS;
  while (!signal.aborted) {
    try {
      const answer = await api.open("/api/events", place.id ? { "Last-Event-ID": place.id } : {}, signal);
      tell.opened();
      waitMs = FIRST_WAIT_MS;
      await read(answer.body, tell.event, place);
    } catch (error) {
      if (signal.aborted) return;
      tell.refused(error);
    }
    await pause(waitMs * (0.5 + Math.random() / 2), signal);
    waitMs = Math.min(WAIT_MS_MAX, waitMs * 2);
  }
}

async function read(body, event, place) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
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
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(undefined); }, { once: true });
  });
}

// The reader's session: a key of this tab, opened by the code of a link or by a key, and gone when the tab is closed.
import { Api } from "./api.js";

const KEPT = "aicp.session";
const CODE = "#code=";
/** So long after it was made, another server may not know a key yet. */
const SETTLES_MS = 3_000;

/**
 * @typedef {object} Session
 * @property {string} key What to show.
 * @property {boolean} isOwn True when it was made for this page alone, which then ends it.
 * @property {number} madeAt Milliseconds of the page's clock.
 */

/** @returns {Session | null} The session of this tab. */
export const keptSession = () => JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
export const dropSession = () => sessionStorage.removeItem(KEPT);
export const keepSession = (session) => sessionStorage.setItem(KEPT, JSON.stringify(session));

/** The API with the key of a session. */
export const apiOf = (session) => new Api(session.key, session.madeAt + SETTLES_MS);

/** Take the code out of the address, where it may stand after `#code=`, with the place to go to; null when there is none. */
export function takeCode() {
  if (!location.hash.startsWith(CODE)) return null;
  const told = new URLSearchParams(location.hash.slice(1));
  history.replaceState(null, "", `${location.pathname}#/${told.get("place") ?? ""}`);
  return told.get("code");
}

/** @returns {Promise<Session>} Of a code, which is used up. */
export async function sessionOfCode(code) {
  const { key } = await new Api("").post("/api/sessions", { code });
  return { key, isOwn: true, madeAt: Date.now() };
}

/** @returns {Promise<Session>} Of a key. Where the server can record none, and for the key of a session, it is the key itself. */
export async function sessionOfKey(key) {
  const api = new Api(key);
  try {
    const { code } = await api.post("/api/sessions/codes");
    return await sessionOfCode(code);
  } catch (error) {
    if (error.status === 401 || error.status === 0) throw error;
    await api.get("/api/info");
    return { key, isOwn: false, madeAt: 0 };
  }
}

/** Sign out: the session ends at the server too, if it hears of it. */
export function endSession(session) {
  dropSession();
  if (session.isOwn)
    apiOf(session)
      .delete("/api/sessions/current")
      .catch(() => {});
}

// Numbers and times as people read them. Unknown is a dash, never empty.
import { html } from "./view.js";

export const UNKNOWN = "—";
const SPACE = "\u00a0";

/** A duration in seconds: "2 ms", "0.82 s", "52 s", "6 min 33 s", "2 h 8 min", "3 d". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return UNKNOWN;
  if (seconds < 0.0995) return `${Math.round(seconds * 1000)}${SPACE}ms`;
  if (seconds < 0.9995) return `${seconds.toFixed(2)}${SPACE}s`;
  if (seconds < 9.95) return `${seconds.toFixed(1)}${SPACE}s`;
  if (seconds < 60) return `${Math.floor(seconds)}${SPACE}s`;
  return longDuration(Math.floor(seconds));
}

function longDuration(seconds) {
  const [days, hours, minutes] = [
    Math.floor(seconds / 86400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
  ];
  if (days) return hours ? `${days}${SPACE}d ${hours}${SPACE}h` : `${days}${SPACE}d`;
  if (hours) return minutes ? `${hours}${SPACE}h ${minutes}${SPACE}min` : `${hours}${SPACE}h`;
  return seconds % 60 ? `${minutes}${SPACE}min ${seconds % 60}${SPACE}s` : `${minutes}${SPACE}min`;
}

/** A share as a percentage: one decimal below 99.95, then 100. */
export function percent(share) {
  if (share === null || share === undefined) return UNKNOWN;
  return share >= 0.9995 ? "100" : (share * 100).toFixed(1);
}

/** A time of the day in UTC: "14:02", with seconds where they matter; another day has its date. */
export function clock(at, { seconds = true, now = new Date() } = {}) {
  if (!at) return UNKNOWN;
  const moment = new Date(at);
  const time = moment.toISOString().slice(11, seconds ? 19 : 16);
  return moment.toISOString().slice(0, 10) === now.toISOString().slice(0, 10)
    ? time
    : `${day(moment)} ${time.slice(0, 5)}`;
}

function day(moment) {
  return moment.toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
}

/** The whole of a moment, for titles. */
export function exact(at) {
  if (!at) return "";
  const moment = new Date(at);
  return `${day(moment)} ${moment.getUTCFullYear()} ${moment.toISOString().slice(11, 23)} UTC`;
}

/** Seconds between two moments; null while one is unknown. */
export function between(from, to) {
  return from && to ? Math.max(0, (Number(new Date(to)) - Number(new Date(from))) / 1000) : null;
}

/** A moment with the whole of it in its title. */
export function Moment({ at, seconds = true }) {
  return html`<time datetime=${at ?? ""} title=${exact(at)}>${clock(at, { seconds })}</time>`;
}

/** A number and its unit, the unit in a lighter ink. */
export function Figure({ value, unit = "" }) {
  return value === UNKNOWN || !unit ? html`${value}` : html`${value}<span class="unit">${SPACE}${unit}</span>`;
}

/** A zero is grey. */
export function Count({ value }) {
  return value ? html`${value.toLocaleString("en-US")}` : html`<span class="soft">0</span>`;
}

// State glyphs and icons as paths in a box of 16 x 16. Outlines differ from one another, so that a glyph works without colour.
import { html } from "./view.js";

const MARK = "var(--ink-inverse)";
const STATE = "var(--c)";
const dot = (x, y, r, fill = STATE) => html`<circle cx=${x} cy=${y} r=${r} fill=${fill} />`;
const stroke = (d, width = 1.75, colour = STATE) =>
  html`<path d=${d} fill="none" stroke=${colour} stroke-width=${width} stroke-linecap="round" stroke-linejoin="round" />`;
const faint = (d, width) =>
  html`<path d=${d} fill="none" stroke=${STATE} stroke-width=${width} stroke-linecap="round" opacity="0.3" />`;
const filled = (d) => html`<path d=${d} fill=${STATE} />`;
const ring = (r, width, dash) =>
  html`<circle cx="8" cy="8" r=${r} fill="none" stroke=${STATE} stroke-width=${width} stroke-dasharray=${dash} />`;
const frame = (dash) =>
  html`<rect x="0.75" y="0.75" width="14.5" height="14.5" rx="3.5" fill="none" stroke=${STATE} stroke-width="1.4" stroke-dasharray=${dash} />`;

/** By name: the colour's word, the word that is shown, and how it is drawn. */
const GLYPHS = {
  // Circuits are switches: a line through lets calls through, a lever that is up does not.
  CLOSED: ["good", "Closed", () => [dot(2.6, 8, 1.9), dot(13.4, 8, 1.9), stroke("M3 8H13")]],
  OPEN: [
    "bad",
    "Open",
    () => [
      html`<rect width="16" height="16" rx="4" fill=${STATE} />`,
      dot(3.9, 11, 1.5, MARK),
      dot(12.1, 11, 1.5, MARK),
      stroke("M3.9 11 10.2 4.6", 1.75, MARK),
    ],
  ],
  HALF_OPEN: ["warn", "Half-open", () => [frame(), dot(4.2, 10, 1.5), dot(11.8, 10, 1.5), stroke("M4.2 10 11 5.9")]],
  FORCED_OPEN: [
    "bad",
    "Held open",
    () => [
      filled("M4.8 0H11.2L16 4.8V11.2L11.2 16H4.8L0 11.2V4.8Z"),
      dot(4.4, 11.4, 1.4, MARK),
      dot(11.6, 11.4, 1.4, MARK),
      stroke("M4.4 11.4 9.6 6.2", 1.6, MARK),
      stroke("M4.6 3.4H11.4", 1.6, MARK),
    ],
  ],
  DISABLED: ["idle", "Disabled", () => [frame("2.4 2"), stroke("M3.4 8H12.6")]],
  COOLING: [
    "warn",
    "Cooling down",
    () => [stroke("M3.4 1.2H12.6L8 8Z M3.4 14.8H12.6L8 8Z", 1.5), filled("M5.4 14H10.6L8 10.6Z")],
  ],
  SET_ASIDE: [
    "warn",
    "Set aside",
    () => [filled("M8 0.8 15.6 14.6H0.4Z"), stroke("M8 5.6V9.4", 1.75, MARK), dot(8, 12.1, 1, MARK)],
  ],

  // Tasks and runs are round while all is well.
  PENDING: ["idle", "Pending", () => [ring(6.5, 1.5, "2.4 1.7")]],
  IN_LINE: ["idle", "Queued", () => [stroke("M2 3.5H14M2 8H10M2 12.5H6", 1.9)]],
  RUNNING: [
    "active",
    "Running",
    () => [
      html`<circle cx="8" cy="8" r="6.5" fill="none" stroke=${STATE} stroke-width="1.5" opacity="0.3" />`,
      html`<g class="turn">${stroke("M8 1.5A6.5 6.5 0 1 1 1.5 8", 2)}</g>`,
      dot(8, 8, 2.1),
    ],
  ],
  COMPLETED: ["good", "Completed", () => [dot(8, 8, 7.5), stroke("M4.6 8.3 7 10.7 11.4 5.8", 1.75, MARK)]],
  FAILED: [
    "bad",
    "Failed",
    () => [filled("M8 0.2 15.8 8 8 15.8 0.2 8Z"), stroke("M5.6 5.6 10.4 10.4M10.4 5.6 5.6 10.4", 1.75, MARK)],
  ],
  CANCELLED: ["idle", "Cancelled", () => [ring(6.75, 1.5), stroke("M3.4 12.6 12.6 3.4", 1.5)]],
  SKIPPED: ["idle", "Skipped", () => [stroke("M2.2 3.2 7 8 2.2 12.8M8.2 3.2 13 8 8.2 12.8", 1.6)]],

  // Agents are bars of signal.
  HEARD: ["good", "Live", () => [stroke("M3 11V14M8 7V14M13 2.5V14", 2.6)]],
  UNHEARD: ["warn", "Unheard", () => [stroke("M3 11V14", 2.6), faint("M8 7V14M13 2.5V14", 2.6)]],
  OFFLINE: ["bad", "Offline", () => [faint("M3 11V14M8 7V14M13 2.5V14", 2.6), stroke("M2 2 8 8M8 2 2 8", 1.9)]],
  DRAINING: ["idle", "Draining", () => [stroke("M8 1.5V10.2M4.4 6.8 8 10.4 11.6 6.8M2 14.2H14")]],

  // Signs beside a state.
  FAILOVER: ["warn", "Another agent took over", () => [stroke("M2 12.5V9A4 4 0 0 1 6 5H13M9.8 1.8 13 5 9.8 8.2")]],
  LOST: [
    "bad",
    "Connection lost",
    () => [
      stroke("M1.6 6.4A9.4 9.4 0 0 1 14.4 6.4M4.2 9.3A5.6 5.6 0 0 1 11.8 9.3"),
      dot(8, 12.6, 1.4),
      stroke("M2 14.4 14 1.6"),
    ],
  ],
  LINKED: [
    "good",
    "Live",
    () => [dot(8, 8, 3.5), html`<circle cx="8" cy="8" r="6.75" fill="none" stroke=${STATE} opacity="0.3" />`],
  ],
};

const ICONS = {
  brand: "M2 11.5H6.2L9.8 4.5H14M9.8 11.5H14M2 4.5H5.2",
  overview: "M2 13V9M6 13V3M10 13V6.5M14 13V1.5",
  fleet: "M2.5 2.5H7V7H2.5ZM9.5 2.5H13.5V7H9.5ZM2.5 9.5H7V13.5H2.5ZM9.5 9.5H13.5V13.5H9.5Z",
  runs: "M3.5 2.2A1.3 1.3 0 1 1 3.5 4.8 1.3 1.3 0 1 1 3.5 2.2M3.5 11.2A1.3 1.3 0 1 1 3.5 13.8 1.3 1.3 0 1 1 3.5 11.2M12.5 6.7A1.3 1.3 0 1 1 12.5 9.3 1.3 1.3 0 1 1 12.5 6.7M4.8 3.5H7C9.5 3.5 8.8 8 11.2 8M4.8 12.5H7C9.5 12.5 8.8 8 11.2 8",
  queues: "M2 3.5H14M2 8H10.5M2 12.5H7",
  failures: "M8 1.5 14.5 8 8 14.5 1.5 8ZM8 5.2V8.4M8 10.6V10.7",
  check: "M3 8.5 6.5 12 13 4.5",
  tryit: "M4 2.5 13 8 4 13.5Z",
  events: "M1.5 8H4L6 3 9.5 13 11.5 8H14.5",
  keys: "M5 7.5A3 3 0 1 1 5 13.5 3 3 0 1 1 5 7.5M7.2 8.3 13.5 2.5M11 4.8 13 6.8",
  about: "M8 1.5A6.5 6.5 0 1 1 8 14.5 6.5 6.5 0 1 1 8 1.5M8 7.3V11M8 5V5.1",
  theme: "M8 1.5A6.5 6.5 0 1 1 8 14.5 6.5 6.5 0 1 1 8 1.5M8 1.5V14.5M8 4.5L11.5 3M8 8H14.3M8 11.5L11.5 13",
  out: "M6.5 2.5H3V13.5H6.5M7 8H14M11 5 14 8 11 11",
  search: "M7 2.5A4.5 4.5 0 1 1 7 11.5 4.5 4.5 0 1 1 7 2.5M10.3 10.3 14 14",
  copy: "M5.5 5.5H13.5V13.5H5.5ZM10.5 5.5V2.5H2.5V10.5H5.5",
  down: "M4 6 8 10 12 6",
  more: "M3 8V8.1M8 8V8.1M13 8V8.1",
  close: "M4 4 12 12M12 4 4 12",
};

/** The word of a state. */
export const wordOf = (name) => GLYPHS[name]?.[1] ?? String(name);

/** The colour's word of a state: good, bad, warn, active, idle. */
export const toneOf = (name) => GLYPHS[name]?.[0] ?? "idle";

/** A state's drawing, for inside a larger one. */
export const drawn = (name) => (GLYPHS[name] ?? GLYPHS.PENDING)[2]();

/** A state's drawing; with `label` it stands alone, else a word stands beside it. */
export function Glyph({ name, label = "", big = false }) {
  const named = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  return html`<svg class=${`sh is-${toneOf(name)} ${big ? "big" : ""}`} viewBox="0 0 16 16" ...${named}>${label && html`<title>${label}</title>`}${drawn(name)}</svg>`;
}

/** A state as drawing and word; the word has the colour only where it asks for attention. */
export function State({ name, word = wordOf(name) }) {
  const isLoud = ["bad", "warn"].includes(toneOf(name));
  return html`<span class=${`st ${isLoud ? `loud is-${toneOf(name)}` : ""}`}><${Glyph} name=${name} />${word}</span>`;
}

/** A drawing without a state. */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d=${ICONS[name]} /></svg>`;
}

// A run as rows of time: a dashed line is waiting, a bar an attempt, a cross an attempt that failed, an arrow one that runs.
import { duration } from "./figures.js";
import { line } from "./text.js";
import { html, useLayoutEffect, useRef, useState } from "./view.js";

const ROW = 24;
const TOP = 26;
const RIGHT = 28;
const ROWS_MAX = 200;
const STEPS_S = [
  0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600,
  86400,
];

/**
 * @param {{rows: {id: string, spans: {kind: "wait"|"ok"|"failed"|"now", from: number, to: number}[]}[], nowS: number, isOver: boolean,
 *   chosen: string, choose: (id: string) => void}} props Seconds since the submit; rows in the order of their first attempts.
 */
export function Timeline({ rows, nowS, isOver, chosen, choose }) {
  const box = useRef(null);
  const [room, setRoom] = useState(0);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setRoom(Math.floor(entry.contentRect.width)));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  const shown = rows.slice(0, ROWS_MAX);
  return html`<div class="gantt"><div ref=${box} class="gantt-room">${room > 0 && html`<${Rows} ...${{ shown, nowS, isOver, chosen, choose, room }} />`}</div>
    <p class="legend narrow-hide"><span><i class="dash"></i>waiting</span><span><i class="key is-good"></i>attempt that succeeded</span><span><i class="key is-bad"></i>attempt that failed</span><span><i class="key is-active"></i>running</span>
      ${rows.length > ROWS_MAX && html`<span class="soft">the first ${ROWS_MAX} of ${rows.length} tasks</span>`}</p></div>`;
}

function Rows({ shown, nowS, isOver, chosen, choose, room }) {
  const left = room < 560 ? 84 : 120;
  const span = Math.max(nowS, 0.001) * (isOver ? 1 : 1.02);
  const x = (seconds) => left + ((room - left - RIGHT) * Math.min(seconds, span)) / span;
  const step = STEPS_S.find((one) => span / one <= (room < 560 ? 3 : 6)) ?? STEPS_S[STEPS_S.length - 1];
  const marks = Array.from({ length: Math.floor(span / step) + 1 }, (_, index) => index * step);
  const height = TOP + shown.length * ROW + 4;
  return html`<svg role="group" aria-label=${`Timeline of ${shown.length} tasks over ${duration(nowS)}`} viewBox=${`0 0 ${room} ${height}`} height=${height}>
    <g class="g-axis">${marks.map((mark) => html`<line x1=${x(mark)} x2=${x(mark)} y1=${TOP - 4} y2=${height} />${(isOver || x(nowS) - x(mark) > 40) && html`<text x=${x(mark)} y="15" text-anchor="middle">${mark ? duration(mark) : "0 s"}</text>`}`)}</g>
    ${shown.map(
      (row, index) => html`<g key=${row.id} class="g-row" onClick=${() => choose(row.id)}>
      ${row.id === chosen && html`<rect class="g-hot" x="0" width=${room} y=${TOP + index * ROW} height=${ROW} /><rect x="0" y=${TOP + index * ROW} width="3" height=${ROW} fill="var(--accent)" />`}
      <text x="16" y=${TOP + index * ROW + 16}>${line(row.id).slice(0, left < 100 ? 9 : 15)}</text>
      ${row.spans.map((one) => html`<${Span} ...${{ kind: one.kind, from: x(one.from), to: x(one.to), y: TOP + index * ROW }} />`)}
    </g>`,
    )}
    ${!isOver && html`<line class="g-now" x1=${x(nowS)} x2=${x(nowS)} y1="20" y2=${height} /><text class="g-now-text" x=${x(nowS)} y="15" text-anchor="middle">now</text>`}
  </svg>`;
}

function Span({ kind, from, to, y }) {
  const width = Math.max(3, to - from);
  if (kind === "wait") return html`<line class="g-wait" x1=${from} x2=${to} y1=${y + 12} y2=${y + 12} />`;
  if (kind === "ok") return html`<rect class="g-bar is-good" x=${from} y=${y + 6} width=${width} height="12" rx="2" />`;
  if (kind === "failed") {
    return html`<rect class="g-bar is-bad" x=${from} y=${y + 6} width=${Math.max(3, width - 10)} height="12" rx="2" /><path class="g-cross" d=${`M${from + Math.max(3, width - 10) + 3} ${y + 8.5}l7 7m0 -7l-7 7`} />`;
  }
  const end = from + Math.max(8, to - from);
  return html`<path class="g-bar is-active" d=${`M${from + 2} ${y + 6}H${end - 5}L${end} ${y + 12}L${end - 5} ${y + 18}H${from + 2}a2 2 0 0 1 -2 -2V${y + 8}a2 2 0 0 1 2 -2Z`} />`;
}

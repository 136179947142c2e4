// Lines of the last 15 minutes: a sparkline beside its number, and a chart with axes.
import { html, useLayoutEffect, useRef, useState } from "./view.js";

const [WIDTH, HEIGHT, DRAWN] = [100, 28, 60];

/** Fewer values, each the mean of its neighbours; a group without values is a gap. */
function thin(values, count) {
  const step = values.length / count;
  return Array.from({ length: count }, (_, index) => {
    const group = values
      .slice(Math.floor(index * step), Math.floor((index + 1) * step))
      .filter((value) => value !== null);
    return group.length ? group.reduce((sum, value) => sum + value, 0) / group.length : null;
  });
}

/** The path of values that `place` puts somewhere; a null is a gap. */
function path(values, place) {
  return values
    .map((value, index) =>
      value === null ? "" : `${index && values[index - 1] !== null ? "L" : "M"}${place(value, index)}`,
    )
    .join("");
}

/** 15 minutes without axes, from 0 to the largest value, with a dot for now. */
export function Spark({ values, isBad = false, top = 0 }) {
  const shown = thin(values, DRAWN);
  const max = Math.max(top, ...shown.filter((value) => value !== null)) || 1;
  const place = (value, index) =>
    `${((index / (DRAWN - 1)) * WIDTH).toFixed(1)} ${(HEIGHT - 2 - (value / max) * (HEIGHT - 4)).toFixed(1)}`;
  const first = shown.findIndex((value) => value !== null);
  const last = shown.findLastIndex((value) => value !== null);
  if (first < 0) return html`<svg class="spark" viewBox="0 0 100 28" aria-hidden="true" />`;
  const line = path(shown, place);
  const at = (index) => ((index / (DRAWN - 1)) * WIDTH).toFixed(1);
  return html`<svg class=${`spark ${isBad ? "is-bad" : ""}`} viewBox="0 0 100 28" preserveAspectRatio="none" aria-hidden="true">
    <path class="area" d=${`${line}L${at(last)} ${HEIGHT}L${at(first)} ${HEIGHT}Z`} /><path d=${line} /><path class="dot" d=${`M${place(shown[last], last)}h0.01`} />
  </svg>`;
}

const ROOM = { top: 24, right: 84, bottom: 22, left: 36 };
const CHART_HEIGHT = 186;

/** The next of 1, 2, 3, 5, 6 times a power of ten. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 3, 5, 6, 10].map((step) => step * power).find((step) => step >= value) ?? value;
}

/**
 * Lines with axes, named at their ends, told apart by dash.
 * @param {{series: {name: string, tone?: string, values: (number|null)[]}[], unit: string, now: number, label: string}} props
 */
export function Chart({ series, unit, now, label }) {
  const box = useRef(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  return html`<div ref=${box}>${width > 0 && html`<${Lines} ...${{ series, unit, now, label, width }} />`}<${Numbers} ...${{ series, unit, now }} /></div>`;
}

function Lines({ series, unit, now, label, width }) {
  const top = ceiling(Math.max(...series.flatMap((one) => one.values.filter((value) => value !== null)), 1));
  const inner = { width: width - ROOM.left - ROOM.right, height: CHART_HEIGHT - ROOM.top - ROOM.bottom };
  const x = (index, count) => ROOM.left + (inner.width * index) / (count - 1);
  const y = (value) => ROOM.top + inner.height * (1 - value / top);
  const times = width < 460 ? [0, 1] : [0, 0.25, 0.5, 0.75, 1];
  const ends = spread(series.map((one, index) => ({ ...one, index, at: y(one.values.at(-1) ?? 0) })));
  return html`<svg class="chart" role="img" aria-label=${label} viewBox=${`0 0 ${width} ${CHART_HEIGHT}`} height=${CHART_HEIGHT}>
    <text x="0" y="10">${unit}</text>
    ${[0, 0.5, 1].map(
      (
        part,
      ) => html`<line class=${part ? "grid" : "grid base"} x1=${ROOM.left} x2=${width - ROOM.right} y1=${Math.round(y(top * part)) + 0.5} y2=${Math.round(y(top * part)) + 0.5} />
      <text x=${ROOM.left - 8} y=${y(top * part) + 4} text-anchor="end">${top * part}</text>`,
    )}
    ${times.map((part) => html`<text x=${ROOM.left + inner.width * part} y=${CHART_HEIGHT - 4} text-anchor=${part === 0 ? "start" : part === 1 ? "end" : "middle"}>${new Date(now - (1 - part) * 900_000).toISOString().slice(11, 16)}</text>`)}
    ${series.map((one, index) => html`<path class=${`line s${index + 1} ${one.tone ? `is-${one.tone}` : ""}`} d=${path(one.values, (value, at) => `${x(at, one.values.length).toFixed(1)} ${y(value).toFixed(1)}`)} />`)}
    ${ends.map((one) => html`<text class=${`end ${one.tone ? `is-${one.tone}` : ""}`} x=${width - ROOM.right + 8} y=${one.at + 4}>${one.name}</text>`)}
  </svg>`;
}

/** The names at the ends of the lines, 14 px apart at least. */
function spread(ends) {
  const sorted = [...ends].sort((a, b) => a.at - b.at);
  sorted.forEach((end, index) => {
    if (index) end.at = Math.max(end.at, sorted[index - 1].at + 14);
  });
  return sorted;
}

/** The same for who does not see lines: one value a minute. */
function Numbers({ series, unit, now }) {
  const minutes = Array.from({ length: 15 }, (_, index) => index);
  return html`<div class="vh"><table><caption>${unit}, the last 15 minutes</caption>
    <thead><tr><th>Time (UTC)</th>${series.map((one) => html`<th>${one.name}</th>`)}</tr></thead>
    <tbody>${minutes.map((minute) => html`<tr><th>${new Date(now - (14 - minute) * 60_000).toISOString().slice(11, 16)}</th>${series.map((one) => html`<td>${one.values[minute * 12 + 11]?.toFixed(1) ?? "unknown"}</td>`)}</tr>`)}</tbody></table></div>`;
}

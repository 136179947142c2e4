// A run as a graph: tasks as boxes from top to bottom, edges below them. Pan by drag or arrow keys, zoom by buttons, + and -.
import { drawn, toneOf, wordOf } from "./glyphs.js";
import { layout } from "./layout.js";
import { line } from "./text.js";
import { html, useLayoutEffect, useRef, useState } from "./view.js";

const NODE = { width: 164, height: 44 };
const MARGIN = 24;
const GAP = { x: 28, y: 38 };
/** @type {number[]} */
const NO_BENDS = [];
const NAME_CHARS = 14;
const SUB_CHARS = 22;
const FULL_ZOOM_MIN = 0.7;
const NAMES_ZOOM_MIN = 0.35;
const DRAWN_MAX = 1_200;
const CANVAS_HEIGHT = { least: 160, most: 620 };

/** Where each task of a run is drawn, and how long edges go. */
export const places = (ids, edges) => layout(ids, edges, NODE, GAP);

/**
 * @param {{nodes: {id: string, glyph: string, sub: string, tone: string, signs: {name: string, words: string}[], isToCome: boolean}[],
 *   edges: [string, string][], placed: ReturnType<typeof places>, chosen: string, choose: (id: string) => void}} props
 */
export function Graph({ nodes, edges, placed, chosen, choose }) {
  const box = useRef(null);
  const [room, setRoom] = useState(0);
  const [view, setView] = useState(null);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([entry]) => setRoom(Math.floor(entry.contentRect.width)));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  const height = Math.max(
    CANVAS_HEIGHT.least,
    Math.min(CANVAS_HEIGHT.most, placed.height * fitting(placed, room) + 2 * MARGIN),
  );
  // Once a task is selected, the drawing stays where it is.
  const now = view ?? opening(placed, room, height, nodes, chosen);
  const zoom = (factor) => setView(zoomed(now, factor, room / 2, height / 2));
  const keys = {
    "+": () => zoom(1.25),
    "-": () => zoom(0.8),
    0: () => setView(null),
    ArrowLeft: () => setView({ ...now, x: now.x + 60 }),
    ArrowRight: () => setView({ ...now, x: now.x - 60 }),
    ArrowUp: () => setView({ ...now, y: now.y + 60 }),
    ArrowDown: () => setView({ ...now, y: now.y - 60 }),
  };
  const press = (event) => {
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  };
  const drag = useDrag(now, setView);
  return html`<div class="canvas" ref=${box}>
    ${
      room > 0 &&
      html`<svg class="dag" role="group" tabindex="0" aria-label=${`${nodes.length} tasks, drawn from top to bottom; arrow keys move the drawing`} viewBox=${`0 0 ${room} ${height}`} height=${height} onKeyDown=${press} ...${drag}>
      <g transform=${`translate(${now.x} ${now.y}) scale(${now.scale})`}><${Drawing} ...${{ nodes, edges, placed, chosen, choose, now, room, height }} /></g>
    </svg>`
    }
    <div class="tools"><div class="seg" role="group" aria-label="Zoom">
      <button onClick=${() => zoom(0.8)} aria-label="Zoom out"><svg class="icon" viewBox="0 0 16 16"><path d="M3 8H13" /></svg></button>
      <button onClick=${() => zoom(1.25)} aria-label="Zoom in"><svg class="icon" viewBox="0 0 16 16"><path d="M8 3V13M3 8H13" /></svg></button>
      <button onClick=${() => setView(null)} aria-label="Fit the graph"><svg class="icon" viewBox="0 0 16 16"><path d="M2.5 6V2.5H6M10 2.5H13.5V6M13.5 10V13.5H10M6 13.5H2.5V10" /></svg></button>
    </div></div>
  </div>`;
}

/** The scale at which a drawing is as wide as its room, but large enough to be read. */
const fitting = (placed, room) => Math.max(FULL_ZOOM_MIN, Math.min(1, (room - 2 * MARGIN) / placed.width));

/** Fitted to the width, but not below where names are read, with the selected task, the first trouble or the running front in view. */
function opening(placed, room, height, nodes, chosen) {
  const scale = fitting(placed, room);
  const wanted =
    nodes.find((node) => node.id === chosen) ??
    nodes.find((node) => node.tone === "bad") ??
    nodes.find((node) => node.glyph === "RUNNING");
  const at = wanted && placed.at.get(wanted.id);
  const x = along(room, placed.width * scale, at && (at.x + NODE.width / 2) * scale);
  const y = along(height, placed.height * scale, at && at.y * scale, true);
  return { x, y, scale };
}

/** Where a drawing begins in a room: in its middle, at its top, or so that `wanted` is in view and no side is left empty. */
function along(room, size, wanted, fromTop = false) {
  if (size <= room - 2 * MARGIN || wanted === undefined) return fromTop ? MARGIN : Math.max(MARGIN, (room - size) / 2);
  return Math.min(MARGIN, Math.max(room - MARGIN - size, room / 2 - wanted));
}

function zoomed(view, factor, x, y) {
  const scale = Math.max(0.08, Math.min(2, view.scale * factor));
  const by = scale / view.scale;
  return { scale, x: x - (x - view.x) * by, y: y - (y - view.y) * by };
}

function useDrag(view, setView) {
  const start = useRef(null);
  return {
    onPointerDown: (event) => {
      if (event.button === 0 && !event.target.closest(".node")) {
        start.current = { x: event.clientX - view.x, y: event.clientY - view.y };
        event.currentTarget.setPointerCapture(event.pointerId);
      }
    },
    onPointerMove: (event) => {
      if (start.current) setView({ ...view, x: event.clientX - start.current.x, y: event.clientY - start.current.y });
    },
    onPointerUp: () => {
      start.current = null;
    },
    onPointerCancel: () => {
      start.current = null;
    },
    onWheel: (event) => {
      if (event.ctrlKey) {
        event.preventDefault();
        setView(zoomed(view, event.deltaY < 0 ? 1.15 : 0.87, event.offsetX, event.offsetY));
      }
    },
  };
}

/** Only what is in view is drawn, and at most as much as stays smooth. */
function Drawing({ nodes, edges, placed, chosen, choose, now, room, height }) {
  const sees = ({ x, y }) =>
    x * now.scale + now.x > -NODE.width * now.scale &&
    x * now.scale + now.x < room &&
    y * now.scale + now.y > -NODE.height * now.scale &&
    y * now.scale + now.y < height;
  const shown = nodes.filter((node) => sees(placed.at.get(node.id))).slice(0, DRAWN_MAX);
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const inView = new Set(shown.map((node) => node.id));
  const near = edges.filter(([from, to]) => inView.has(from) || inView.has(to)).slice(0, 2 * DRAWN_MAX);
  const drawnEdges = near
    .map((edge) => ({ edge, isLit: edge.includes(chosen) }))
    .sort((a, b) => Number(a.isLit) - Number(b.isLit));
  return html`${drawnEdges.map(({ edge: [from, to], isLit }) => html`<${Edge} key=${`${from}>${to}`} kind=${kindOf(byId.get(from), byId.get(to), isLit)} from=${placed.at.get(from)} to=${placed.at.get(to)} bends=${placed.bends.get(`${from}>${to}`) ?? NO_BENDS} />`)}
    ${shown.map((node) => html`<${Node} key=${node.id} node=${node} at=${placed.at.get(node.id)} isChosen=${node.id === chosen} choose=${choose} scale=${now.scale} />`)}`;
}

function kindOf(from, to, isLit) {
  if (isLit) return "lit";
  if (to.glyph === "RUNNING" || to.glyph === "IN_LINE") return "live";
  return to.isToCome || from.isToCome ? "to-come" : "";
}

/** From the foot of a task to the head of another, straight through its lane in each rank between them. */
function Edge({ from, to, bends, kind }) {
  const row = NODE.height + GAP.y;
  let x = from.x + NODE.width / 2;
  let y = from.y + NODE.height;
  let path = `M${x} ${y}`;
  const curve = (toX, toY) => {
    const bend = Math.min(60, (toY - y) * 0.6);
    path += `C${x} ${y + bend} ${toX} ${toY - bend} ${toX} ${toY}`;
    [x, y] = [toX, toY];
  };
  bends.forEach((lane, index) => {
    curve(lane, from.y + (index + 1) * row);
    y += NODE.height;
    path += `V${y}`;
  });
  curve(to.x + NODE.width / 2, to.y);
  return html`<path class=${`edge ${kind}`} d=${path} />`;
}

function Node({ node, at, isChosen, choose, scale }) {
  const classes = ["node", isChosen && "chosen", node.isToCome && "to-come", node.tone && `is-${node.tone}`]
    .filter(Boolean)
    .join(" ");
  const press = (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(node.id);
    }
  };
  return html`<g class=${classes} transform=${`translate(${at.x} ${at.y})`} tabindex="0" role="button" aria-label=${`${line(node.id)}, ${wordOf(node.glyph)}, ${line(node.sub)}`} aria-pressed=${isChosen} onClick=${() => choose(node.id)} onKeyDown=${press}>
    ${isChosen && html`<rect class="halo" x="-3" y="-3" width=${NODE.width + 6} height=${NODE.height + 6} rx="8.5" />`}
    <rect class="box" width=${NODE.width} height=${NODE.height} rx="6" />
    ${
      scale < NAMES_ZOOM_MIN
        ? html`<rect class=${`fill is-${toneOf(node.glyph)}`} x="8" y="8" width=${NODE.width - 16} height=${NODE.height - 16} rx="4" />`
        : html`<g class=${`sh is-${toneOf(node.glyph)}`} transform="translate(11 14)">${drawn(node.glyph)}</g><text class="name" x="36" y=${scale < FULL_ZOOM_MIN ? 27 : 18.5}>${cut(node.id, NAME_CHARS)}</text>`
    }
    ${scale >= FULL_ZOOM_MIN && html`<text class=${node.tone ? "sub loud" : "sub"} x="36" y="33.5">${cut(node.sub, SUB_CHARS)}</text>${node.signs.map((sign) => html`<${Sign} ...${sign} />`)}`}
  </g>`;
}

const cut = (text, chars) => (text.length > chars ? `${line(text.slice(0, chars - 1))}…` : line(text));

/** What happened to a task, beside its state, at the right end of the first line. */
function Sign({ name, words }) {
  const right = NODE.width - 10;
  return html`<g class="badge failover"><text x=${right} y="18.5" text-anchor="end">${words}</text><g class=${`sh is-${toneOf(name)}`} transform=${`translate(${right - 16 - words.length * 7} 7.5) scale(0.875)`}>${drawn(name)}</g></g>`;
}

// Places the tasks of a run in ranks from top to bottom: each below all that it waits for, near the middle of those. An edge
// that passes ranks has a lane in each of them, so that no edge runs behind a task.

const SWEEPS = 6;
const PULLS = 6;
const LANES_MAX = 20_000;
const LANE_WIDTH = 8;
/** A lane holds its place more than a task: a long edge is straight. */
const WEIGHT = { task: 1, lane: 4, free: 0.05 };

/**
 * Inside, a task is its index in `ids`, and a lane a number from there on: an item.
 * @typedef {{x: number, y: number}} Point
 * @typedef {{at: Map<string, Point>, bends: Map<string, number[]>, width: number, height: number}} Layout
 *   `at`: the left upper corner of each task. `bends`: of each edge that has lanes, `from>to`, their middles from rank to rank.
 */

/**
 * Costs some milliseconds for a hundred tasks: keep it while the edges are the same.
 * @param {string[]} ids
 * @param {[string, string][]} edges `[task, dependent]`.
 * @param {{width: number, height: number}} node
 * @param {{x: number, y: number}} gap
 * @returns {Layout}
 */
export function layout(ids, edges, node, gap) {
  const index = new Map(ids.map((id, item) => [id, item]));
  const links = edges
    .map(([from, to]) => [index.get(from) ?? -1, index.get(to) ?? -1])
    .filter(([from, to]) => from >= 0 && to >= 0);
  const rankOf = ranksOf(ids.length, links);
  const { above, below, ranks, ways } = withLanes(rankOf, links);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) order(ranks, sweep % 2 ? below : above, sweep % 2 === 1);
  const widthOf = (item) => (item < ids.length ? node.width + gap.x : LANE_WIDTH);
  const offsets = ranks.map((rank) => offsetsOf(rank, widthOf));
  const middles = packed(ranks, offsets, above.length);
  for (let pull = 0; pull < PULLS; pull += 1)
    pullTogether(ranks, offsets, pull % 2 ? below : above, pull % 2 === 1, ids.length, middles);
  return drawnOf(ids, rankOf, ranks.length, ways, middles, node, gap);
}

/** Of each task the longest way to it, without recursion: a run may be 10,000 tasks deep. */
function ranksOf(count, links) {
  const above = neighboursOf(count, links, 1);
  const below = neighboursOf(count, links, 0);
  const rankOf = new Int32Array(count);
  const missing = above.map((awaited) => awaited.length);
  const ready = [...missing.keys()].filter((task) => !missing[task]);
  for (const task of ready) {
    for (const next of below[task]) {
      rankOf[next] = Math.max(rankOf[next], rankOf[task] + 1);
      missing[next] -= 1;
      if (!missing[next]) ready.push(next);
    }
  }
  return rankOf;
}

function neighboursOf(count, links, end) {
  /** @type {number[][]} */
  const found = Array.from({ length: count }, () => []);
  for (const link of links) found[link[end]].push(link[1 - end]);
  return found;
}

/** Ranks with the lanes of edges that pass some, the shortest first and at most 20,000; neighbours are then one rank apart. */
function withLanes(rankOf, links) {
  /** @type {number[][]} */
  const ranks = [];
  rankOf.forEach((rank, task) => {
    ranks[rank] ??= [];
    ranks[rank].push(task);
  });
  const passed = ([from, to]) => rankOf[to] - rankOf[from] - 1;
  const steps = [];
  const ways = [];
  let last = rankOf.length;
  for (const link of [...links].sort((a, b) => passed(a) - passed(b))) {
    const count = passed(link);
    if (count < 1 || last - rankOf.length + count > LANES_MAX) {
      steps.push(link);
      continue;
    }
    const [from, to] = link;
    const lanes = Array.from({ length: count }, (_, place) => last + place);
    lanes.forEach((lane, place) => ranks[rankOf[from] + 1 + place].push(lane));
    [...lanes, to].forEach((item, place) => steps.push([place ? lanes[place - 1] : from, item]));
    ways.push({ from, to, lanes });
    last += count;
  }
  return { ranks, ways, above: neighboursOf(last, steps, 1), below: neighboursOf(last, steps, 0) };
}

/** Sort each rank by the mean place of its neighbours in the rank before. */
function order(ranks, neighbours, isUpwards) {
  const place = new Float64Array(neighbours.length).fill(NaN);
  const wanted = new Float64Array(neighbours.length);
  for (const rank of isUpwards ? [...ranks].reverse() : ranks) {
    rank.forEach((item, index) => {
      const middle = mean(neighbours[item], place);
      wanted[item] = Number.isNaN(middle) ? index / Math.max(1, rank.length - 1) - 0.5 : middle;
    });
    rank.sort((a, b) => wanted[a] - wanted[b]);
    rank.forEach((item, index) => {
      place[item] = index - (rank.length - 1) / 2;
    });
  }
}

/** The mean of the values of these that have one; NaN for none. */
function mean(items, values) {
  let sum = 0;
  let count = 0;
  for (const item of items) {
    if (Number.isNaN(values[item])) continue;
    sum += values[item];
    count += 1;
  }
  return sum / count;
}

/** How far the middle of each item of a rank is from that of its first, at least. */
function offsetsOf(rank, widthOf) {
  let at = 0;
  return rank.map((item, index) => {
    at += index ? (widthOf(rank[index - 1]) + widthOf(item)) / 2 : 0;
    return at;
  });
}

/** The middles of all items when every rank is as narrow as it can be. */
function packed(ranks, offsets, count) {
  const middles = new Float64Array(count);
  ranks.forEach((rank, row) =>
    rank.forEach((item, index) => {
      middles[item] = offsets[row][index] - offsets[row][rank.length - 1] / 2;
    }),
  );
  return middles;
}

/** Move each item towards its neighbours in the rank before, as far as its rank has room. */
function pullTogether(ranks, offsets, neighbours, isUpwards, tasks, middles) {
  const rows = [...ranks.keys()];
  for (const row of isUpwards ? rows.reverse() : rows) {
    const rank = ranks[row];
    const wanted = new Float64Array(rank.length);
    const weights = new Float64Array(rank.length);
    rank.forEach((item, index) => {
      const middle = mean(neighbours[item], middles);
      wanted[index] = (Number.isNaN(middle) ? middles[item] : middle) - offsets[row][index];
      weights[index] = Number.isNaN(middle) ? WEIGHT.free : item < tasks ? WEIGHT.task : WEIGHT.lane;
    });
    rise(wanted, weights);
    rank.forEach((item, index) => {
      middles[item] = wanted[index] + offsets[row][index];
    });
  }
}

/** Change values to the nearest, by weighted squares, of which none is below the one before: those too high share a mean. */
function rise(values, weights) {
  /** @type {{at: number, weight: number, from: number}[]} */
  const blocks = [];
  values.forEach((value, index) => {
    let block = { at: value, weight: weights[index], from: index };
    for (let before = blocks.at(-1); before && before.at > block.at; before = blocks.at(-1)) {
      blocks.pop();
      const weight = before.weight + block.weight;
      block = { at: (before.at * before.weight + block.at * block.weight) / weight, weight, from: before.from };
    }
    blocks.push(block);
  });
  blocks.forEach((block, index) => values.fill(block.at, block.from, blocks[index + 1]?.from));
}

function drawnOf(ids, rankOf, rows, ways, middles, node, gap) {
  const least = middles.reduce((a, b) => Math.min(a, b), Infinity);
  const most = middles.reduce((a, b) => Math.max(a, b), -Infinity);
  const at = new Map(
    ids.map((id, task) => [id, { x: middles[task] - least, y: rankOf[task] * (node.height + gap.y) }]),
  );
  const bends = new Map(
    ways.map(({ from, to, lanes }) => [
      `${ids[from]}>${ids[to]}`,
      lanes.map((lane) => middles[lane] - least + node.width / 2),
    ]),
  );
  return { at, bends, width: Math.max(0, most - least) + node.width, height: rows * (node.height + gap.y) - gap.y };
}

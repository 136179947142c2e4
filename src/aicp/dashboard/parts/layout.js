// Places the tasks of a run in ranks from top to bottom: each below all that it waits for, near the middle of those.

const SWEEPS = 6;

/**
 * @param {string[]} ids
 * @param {[string, string][]} edges `[task, dependent]`.
 * @returns {{ranks: string[][]}} The tasks of each rank, from left to right.
 */
export function layered(ids, edges) {
  /** @type {Map<string, string[]>} */
  const above = new Map(ids.map((id) => [id, []]));
  /** @type {Map<string, string[]>} */
  const below = new Map(ids.map((id) => [id, []]));
  for (const [from, to] of edges) {
    above.get(to)?.push(from);
    below.get(from)?.push(to);
  }
  const rankOf = ranksOf(ids, above, below);
  const ranks = [];
  for (const id of ids) (ranks[rankOf.get(id)] ??= []).push(id);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) order(ranks, sweep % 2 ? below : above, sweep % 2 === 1);
  return { ranks };
}

/** Of each task the longest way to it, without recursion: a run may be 10,000 tasks deep. */
function ranksOf(ids, above, below) {
  const rankOf = new Map();
  const missing = new Map(ids.map((id) => [id, above.get(id).length]));
  const ready = ids.filter((id) => !missing.get(id));
  for (const id of ready) {
    rankOf.set(id, Math.max(-1, ...above.get(id).map((one) => rankOf.get(one))) + 1);
    for (const next of below.get(id)) {
      missing.set(next, missing.get(next) - 1);
      if (!missing.get(next)) ready.push(next);
    }
  }
  for (const id of ids) if (!rankOf.has(id)) rankOf.set(id, 0);
  return rankOf;
}

/** Sort each rank by the mean place of its neighbours in the rank before. */
function order(ranks, neighbours, isUpwards) {
  const place = new Map();
  const walk = isUpwards ? [...ranks].reverse() : ranks;
  for (const rank of walk) {
    const middle = (id, index) => {
      const places = neighbours
        .get(id)
        .map((one) => place.get(one))
        .filter((one) => one !== undefined);
      return places.length
        ? places.reduce((sum, one) => sum + one, 0) / places.length
        : index / Math.max(1, rank.length - 1) - 0.5;
    };
    const wanted = new Map(rank.map((id, index) => [id, middle(id, index)]));
    rank.sort((a, b) => wanted.get(a) - wanted.get(b));
    rank.forEach((id, index) => place.set(id, index - (rank.length - 1) / 2));
  }
}

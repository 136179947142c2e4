// Addresses behind the "#": `#/runs/<id>?task=<name>`. Every state that can be sent to a colleague is in one.

/** @returns {{page: string, path: string[], query: Record<string, string>, key: string}} */
export function routeOf(hash) {
  const [place, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const path = place.split("/").filter(Boolean).map(decoded);
  const [first = "overview", second] = path;
  const page = first === "runs" && second ? "run" : first;
  return {
    page,
    path,
    query: Object.fromEntries(new URLSearchParams(query)),
    key: path.slice(0, 2).join("/") || "overview",
  };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

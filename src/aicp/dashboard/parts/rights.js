// What the reader's key may do. Where it may not do a thing, there is no button for it.

/** Whether the reader may do what asks for a scope; not before it is known. */
export const may = (state, scope) => state.reader?.scopes.some((one) => one === scope || one === "admin") ?? false;

const WORDS = {
  "tasks:submit": "submit tasks",
  "tasks:read": "see runs",
  "tasks:cancel": "cancel runs",
  "agents:read": "see agents",
  "agents:write": "add, drain and remove agents",
  "breakers:write": "reset, open and disable circuits",
  "metrics:read": "read metrics",
};

/** The same in words. */
export function rightsOf(reader) {
  if (reader.scopes.includes("admin")) return "everything";
  return reader.scopes.map((scope) => WORDS[scope] ?? scope).join(", ");
}

/** Whose objects the reader sees. */
export const tenantOf = (reader) => (reader.tenant === "*" ? "All tenants" : reader.tenant);

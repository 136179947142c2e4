// What is said of agents and capabilities on more than one page.
import { duration } from "./figures.js";

/** The circuits of a capability: `[agent id, circuit, agent]`, trouble first, then by id. */
export function circuitsOf(health, capability) {
  return Object.entries(health.agents)
    .filter(([, agent]) => agent.capabilities[capability])
    .map(([agentId, agent]) => [agentId, agent.capabilities[capability], agent])
    .sort(([a, one], [b, other]) => weight(other) - weight(one) || a.localeCompare(b, "en", { numeric: true }));
}

/** Every capability that an agent offers, by name. */
export const capabilitiesOf = (health) =>
  [...new Set(Object.values(health.agents).flatMap((agent) => Object.keys(agent.capabilities)))].sort();

const WEIGHTS = { OPEN: 5, FORCED_OPEN: 5, SET_ASIDE: 4, HALF_OPEN: 3, COOLING: 2, DISABLED: 1 };
const weight = (circuit) => WEIGHTS[glyphOf(circuit)] ?? (circuit.why_out ? 1 : 0);

/** The drawing of a circuit: its state, or what keeps its agent away although it is closed. */
export function glyphOf(circuit) {
  if (circuit.why_out === "set aside as misconfigured") return "SET_ASIDE";
  if (circuit.why_out === "cooling down") return "COOLING";
  return circuit.state;
}

/** Whether an agent may be used for all that it offers. */
export const isReady = (agent) => Object.values(agent.capabilities).every((circuit) => !circuit.why_out);

/** Why an agent may not be used, in a few words; empty when it may. */
export const whyOut = (agent) => Object.values(agent.capabilities).find((circuit) => circuit.why_out)?.why_out ?? "";

/** When a circuit is probed next, counted on the page's clock from `readAt`. */
export function nextProbe(circuit, readAt, now) {
  if (!circuit.why_out) return "";
  if (circuit.retry_after_s === null) return "by an operator";
  const left = circuit.retry_after_s - (now - readAt) / 1000;
  if (left <= 0) return "probing";
  return left < 60 ? `${Math.ceil(left)}\u00a0s` : duration(Math.ceil(left));
}

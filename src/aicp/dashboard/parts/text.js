// Names, reasons and errors come from agents and users: they are shown as text, on one line, without marks that hide or turn it.

const SHOWN_CHARS = 200;
const MARKS = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** Text on one line, at most 200 characters; control and bidi marks are shown as a replacement character. */
export function line(text) {
  const all = String(text ?? "");
  const shown = all.length > SHOWN_CHARS ? `${all.slice(0, SHOWN_CHARS)}…` : all;
  return shown.replace(/[\r\n\t]+/g, " ").replace(MARKS, "�");
}

/** Text of several lines, without marks that hide or turn it. */
export function lines(text) {
  return String(text ?? "")
    .split("\n")
    .map((one) => one.replace(/\t/g, "  ").replace(MARKS, "�"))
    .join("\n");
}

/** An id, cut in its middle: the first and the last four characters. */
export function short(id) {
  const [chain, ...task] = String(id).split(".");
  const cut = chain.length > 11 ? `${chain.slice(0, 4)}…${chain.slice(-4)}` : chain;
  return [cut, ...task].map(line).join(".");
}

/** The last four characters of a chain's id, which tell runs of one name apart. */
export const tail = (id) => line(String(id).slice(-4));

/** "1 task", "2 tasks". */
export const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

/** A count in full with commas, from a million on rounded. */
export function whole(count) {
  return count < 1e6 ? Math.round(count).toLocaleString("en-US") : `${(count / 1e6).toFixed(1)} M`;
}

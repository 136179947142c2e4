// The public HTTP API with the reader's key. A refusal is an error that says what, why and what to do.

export class Refusal extends Error {
  /**
   * @param {number} status HTTP status; 0 when there was no answer.
   * @param {string} code The API's word for it, such as `access_denied`.
   * @param {string} detail The sentence of the answer.
   */
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }

  /** True when a repetition may be answered. */
  get isPassing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

const AGAIN_MS = 300;

export class Api {
  /**
   * @param {string} key An API key; empty for what is open to everybody.
   * @param {number} settlesAt Until then, in milliseconds, a refusal may come from a server that does not know the key yet.
   */
  constructor(key, settlesAt = 0) {
    this.key = key;
    this.settlesAt = settlesAt;
    this.whenAnswered = () => {};
  }

  /** @returns {Promise<any>} The JSON of an answer. */
  get(path, signal) {
    return this.#ask("GET", path, undefined, signal);
  }

  /** @returns {Promise<any>} The JSON of an answer. */
  post(path, body) {
    return this.#ask("POST", path, body);
  }

  /** @returns {Promise<any>} Nothing. */
  delete(path) {
    return this.#ask("DELETE", path);
  }

  /** The answer itself, for what is read as it comes. */
  async open(path, headers, signal) {
    const answer = await this.#fetch("GET", path, { headers, signal });
    if (!answer.ok) throw await refusal(answer);
    this.whenAnswered();
    return answer;
  }

  async #ask(method, path, body, signal) {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    const answer = await this.#fetch(method, path, {
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    this.whenAnswered();
    if (!answer.ok) throw await refusal(answer);
    return answer.status === 204 ? null : answer.json();
  }

  async #fetch(method, path, { headers, ...rest }) {
    const key = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    try {
      for (;;) {
        const answer = await fetch(path, {
          method,
          cache: "no-store",
          credentials: "omit",
          headers: { ...headers, ...key },
          ...rest,
        });
        if (answer.status !== 401 || Date.now() > this.settlesAt) return answer;
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(0, "no_answer", "The server does not answer.");
    }
  }
}

async function refusal(answer) {
  try {
    const problem = await answer.json();
    return new Refusal(answer.status, problem.code ?? "", problem.detail ?? answer.statusText);
  } catch {
    return new Refusal(answer.status, "", answer.statusText || "The answer cannot be read.");
  }
}

// Calls to the server. An API key is kept for this tab only, until the tab is closed.

import { parsed, written } from "./dom.js";

const KEY = "lsr-api-key";

// An error, from the server's problem document (RFC 9457).
export class Problem extends Error {
  constructor(status, title, detail = "", errors = []) {
    super(title);
    Object.assign(this, { status, title, detail, errors });
  }
}

export function useKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

// Sends a request. If a busy server says when to retry, the request is sent again, up to `again` times.
export async function call(path, body, signal, again = 2) {
  const headers = { Accept: "application/json" };
  if (hasKey()) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  if (body) headers["Content-Type"] = "application/json";
  let answer, text;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && written(body), signal });
    text = await answer.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "The server can't be reached", "It may have been stopped, or the connection is down.");
  }
  if ([429, 503].includes(answer.status) && again && answer.headers.has("Retry-After")) {
    await pause(1000 * Math.min(10, Number(answer.headers.get("Retry-After")) || 1), signal);
    return call(path, body, signal, again - 1);
  }
  let content;
  try {
    content = parsed(text);
  } catch {
    throw new Problem(answer.status, `The server's answer can't be read (status ${answer.status})`);
  }
  if (answer.ok) return content;
  throw new Problem(answer.status, content.title ?? `Status ${answer.status}`, content.detail, content.errors);
}

// Resolves after the given number of milliseconds; rejects when the signal aborts.
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

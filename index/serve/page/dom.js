// Makes elements, and formats numbers. Content of documents becomes text nodes and attribute values, never markup.

export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false && value !== undefined) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

export const termed = (word, kind = "") => el("bdi", { class: `token ${kind}` }, word);

// A copy of the only element of a <template>.
export const copy = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

export const count = (value) => value.toLocaleString("en");
export const some = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
export const weight = (value) => value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

export function ms(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value.toFixed(value < 1 ? 2 : value < 10 ? 1 : 0)} ms`;
}

// A fraction in per cent; only zero is shown as 0 %.
export function percent(share) {
  if (share > 0 && share < 0.01) return "under 1%";
  return share > 0.99 && share < 1 ? "over 99%" : `${Math.round(100 * share)}%`;
}

// A metadata value in readable form.
export function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join(", ");
  return value !== null && typeof value === "object" ? written(value) : String(value);
}

// Parse and write JSON. Whole numbers beyond 2^53 become BigInt, to keep their digits, if the browser supports it.
export const parsed = (text) =>
  JSON.parse(text, (_, value, from) => (typeof value === "number" ? whole(from?.source, value) : value));
export const written = (value) =>
  JSON.stringify(value, (_, one) => (typeof one === "bigint" ? JSON.rawJSON(one) : one));
export const whole = (digits, value) =>
  JSON.rawJSON && !Number.isSafeInteger(value) && /^-?\d+$/.test(digits) ? BigInt(digits) : value;

// Filters on metadata: columns with the number of documents per value, useful columns first. Also the active
// filters, as text.
// `where` is a Map from column to condition in the server's format: a list of values, or {">=": a, "<=": b}.

import { count, el, plain, whole, written } from "./dom.js";

const FIRST = 6; // values of a column shown at once
const SHOWN = 5; // columns shown at once
const FEW = 200; // maximum number of distinct values of a useful column
const OFTEN = 5; // minimum number of documents per value of a useful column, on average
const LISTED = 50; // maximum number of values that the server lists per column
const RESERVED = ["and", "or", "not"]; // operators of filters
// Columns that lsr itself writes about a text's position in its file.
const PLACES = ["anchor", "digest", "end_line", "line", "page", "source", "url"];

// The columns that all of the given indexes have, as [name, column], useful ones first.
export function sharedColumns(indexes) {
  const [first, ...others] = indexes.map((index) => Object.entries(index.columns ?? {}));
  const kinds = others.map((columns) => new Map(columns.map(([name, column]) => [name, column.kind])));
  return (first ?? [])
    .filter(([name, column]) => !RESERVED.includes(name) && column.distinct > 0 && kinds.every((known) => known.get(name) === column.kind))
    .map(([name, column]) => [name, { ...column, useful: isUseful(name, column) }])
    .sort(([, a], [, b]) => b.useful - a.useful || b.documents - a.documents || a.distinct - b.distinct);
}

// Columns of numbers, and columns with few distinct values, are useful for narrowing a search.
function isUseful(name, { kind, distinct, documents }) {
  if (PLACES.includes(name) || distinct < 2) return false;
  return kind.endsWith("number") || (distinct <= FEW && distinct * OFTEN <= documents) || distinct <= FIRST;
}

// Makes a field for each column. Fields change `where` and then call `changed`. `counts`, if known, maps a column to a
// Map from value to the number of matching documents.
export function fieldsOf(columns, where, counts, changed) {
  const fields = columns
    .map(([name, column]) => [name, column, (column.kind.endsWith("number") ? range : choices)(name, column, where, counts?.get(name), changed)])
    .filter(([, , field]) => field);
  const first = fields.filter(([name, { useful }], i) => where.has(name) || (useful && i < SHOWN));
  const later = fields.filter((field) => !first.includes(field));
  const nodes = (some) => some.map(([, , field]) => field);
  if (!later.length) return nodes(first);
  const more = el("details", { class: "later", open: !first.length }, el("summary", { "data-key": "more" }, "More filters"), ...nodes(later));
  return [...nodes(first), more];
}

// The active filters, each as [column, words].
export function conditions(where) {
  return [...where].map(([name, condition]) => {
    if (Array.isArray(condition)) return [name, condition.map(plain).join(" or ")];
    const { ">=": from, "<=": to, ...others } = condition ?? {};
    if (Object(condition) !== condition || Object.keys(others).length) return [name, written(condition)];
    return [name, from === undefined ? `up to ${to}` : to === undefined ? `from ${from}` : `${from} to ${to}`];
  });
}

function field(name, ...children) {
  return el("fieldset", {}, el("legend", { dir: "auto" }, name), ...children);
}

function choices(name, column, where, counts, changed) {
  const set = where.get(name);
  const chosen = new Set(Array.isArray(set) ? set : []);
  const known = column.values ?? [];
  const values = [...new Set([...chosen, ...(counts ? counts.keys() : known)])].slice(0, chosen.size + LISTED);
  if (!values.length && known.length < LISTED) return null;
  const choose = (value, wanted) => {
    if (wanted) chosen.add(value);
    else chosen.delete(value);
    if (chosen.size) where.set(name, [...chosen]);
    else where.delete(name);
    changed();
  };
  const row = (value) => {
    const box = el("input", { type: "checkbox", "data-key": written([name, value]) });
    box.checked = chosen.has(value);
    box.addEventListener("change", () => choose(value, box.checked));
    const label = el("label", {}, box, el("bdi", {}, plain(value)));
    return el("div", { class: "value" }, label, ...(counts ? [el("small", {}, count(counts.get(value) ?? 0))] : []));
  };
  const rows = values.map(row);
  const shown = rows.length <= FIRST + 1 ? rows : [...rows.slice(0, FIRST), more(rows.slice(FIRST))];
  if (column.distinct <= LISTED) return field(name, ...shown);
  const other = el("input", { type: "text", placeholder: "another value", "aria-label": `another value of ${name}` });
  other.addEventListener("change", () => {
    if (!other.value) return;
    const value = other.value;
    other.value = "";
    if (!chosen.has(value)) choose(value, true);
  });
  return field(name, ...shown, other);
}

function more(hidden) {
  const button = el("button", { type: "button", class: "quiet" }, `${hidden.length} more values`);
  button.addEventListener("click", () => {
    button.replaceWith(...hidden);
    hidden[0].querySelector("input").focus();
  });
  return button;
}

function range(name, column, where, counts, changed) {
  const bounds = () => (Array.isArray(where.get(name)) ? {} : Object(where.get(name)));
  const input = (operator, words, limit) => {
    const box = el("input", { type: "number", step: "any", "aria-label": `${name} ${words}`, placeholder: plain(limit ?? "") });
    box.value = bounds()[operator] ?? "";
    box.addEventListener("input", () => {
      const { [operator]: _, ...others } = bounds();
      const bound = box.valueAsNumber;
      const condition = Number.isFinite(bound) ? { ...others, [operator]: whole(box.value, bound) } : others;
      if (Object.keys(condition).length) where.set(name, condition);
      else where.delete(name);
      changed();
    });
    return box;
  };
  const pair = el("div", { class: "range" }, input(">=", "at least", column.min), "to", input("<=", "at most", column.max));
  return field(name, pair);
}

// The orders in which hits can be sorted, as [the server's `sort`, words]: by columns of numbers or dates.
export function orders(columns) {
  const isDates = ({ kind, values }) => kind === "text" && values?.length > 0 && values.every((value) => /^\d{4}-\d\d/.test(value));
  return columns
    .filter(([, column]) => column.useful && column.kind === "number" ? true : isDates(column))
    .slice(0, 4)
    .flatMap(([name, column]) => (column.kind === "number"
      ? [[`-${name}`, `${name}, high to low`], [name, `${name}, low to high`]]
      : [[`-${name}`, `${name}, newest first`], [name, `${name}, oldest first`]]));
}

// Filters on metadata: a panel of the columns, and what is set as words.
// `where` is a Map from column to condition in the form that the server takes: a list of values, or {">=": a, "<=": b}.

import { el, plain, whole, written } from "./dom.js";

const FIRST = 6; // values of a column that are shown at once
const COLUMNS = 12; // columns that are shown at once
const LISTED = 50; // the server names so many values of a column; where it does there may be more
const RESERVED = ["and", "or", "not"]; // have a meaning of their own in a filter

// The columns that all of some indexes have, by name.
export function sharedColumns(indexes) {
  const [first, ...others] = indexes.map((index) => Object.entries(index.columns ?? {}));
  const kinds = others.map((columns) => new Map(columns.map(([name, column]) => [name, column.kind])));
  return (first ?? []).filter(
    ([name, column]) => !RESERVED.includes(name) && kinds.every((known) => known.get(name) === column.kind),
  );
}

// One field a column; calls `changed` when `where` has been changed.
export function fieldsOf(columns, where, changed) {
  const fields = columns
    .map(([name, column]) => (column.kind.endsWith("number") ? range : choices)(name, column, where, changed))
    .filter(Boolean);
  const hidden = fields.slice(COLUMNS);
  return hidden.length ? [...fields.slice(0, COLUMNS), more(hidden, "columns")] : fields;
}

// What is set, each as [column, words].
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

function more(hidden, what) {
  const button = el("button", { type: "button", class: "quiet" }, `${hidden.length} more ${what}`);
  button.addEventListener("click", () => {
    button.replaceWith(...hidden);
    hidden[0].querySelector("input")?.focus();
  });
  return button;
}

function choices(name, column, where, changed) {
  const set = where.get(name);
  const chosen = new Set(Array.isArray(set) ? set : []);
  const values = [...new Set([...chosen, ...(column.values ?? [])])];
  if (!values.length) return null;
  const choose = (value, wanted) => {
    if (wanted) chosen.add(value);
    else chosen.delete(value);
    if (chosen.size) where.set(name, [...chosen]);
    else where.delete(name);
    changed();
  };
  const row = (value) => {
    const box = el("input", { type: "checkbox" });
    box.checked = chosen.has(value);
    box.addEventListener("change", () => choose(value, box.checked));
    return el("label", {}, box, el("bdi", {}, plain(value)));
  };
  const rows = values.map(row);
  const shown = rows.length <= FIRST + 1 ? rows : [...rows.slice(0, FIRST), more(rows.slice(FIRST), "values")];
  if ((column.values ?? []).length < LISTED) return field(name, ...shown);
  const other = el("input", { type: "text", placeholder: "another value", "aria-label": `another value of ${name}` });
  other.addEventListener("change", () => {
    if (!other.value) return;
    const value = other.value;
    other.value = "";
    if (chosen.has(value)) return;
    choose(value, true);
    other.before(row(value));
  });
  return field(name, ...shown, other);
}

function range(name, column, where, changed) {
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

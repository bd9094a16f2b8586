// Details for engineers: how a query was searched, how long it took, and what was skipped.

import { count, el, ms, percent, termed, weight } from "./dom.js";

const WORDS = 14; // words of the query shown at once

// Rows of [name, value] about a search.
export function facts({ took, plan }, index, mode = "sparse") {
  const rows = [["searching", ms(took.search_ms)]];
  if (took.encode_ms) rows.unshift(["encoding the query", ms(took.encode_ms)]);
  if (plan) {
    const of = (part, whole) => `${count(part)} of ${count(whole)}`;
    const units = plan.algorithm === "clusters" ? "clusters scored" : "blocks scored";
    rows.push(
      ["algorithm", `${plan.algorithm}: ${plan.reason}`],
      ["terms used", count(plan.terms)],
      ["postings scored", of(plan.postings_scored, plan.postings)],
      [units, of(plan.blocks_scored, plan.blocks)],
      ["windows scanned", of(plan.windows_scanned, plan.windows)],
    );
  }
  if (mode !== "sparse") rows.push(["vectors compared", count(index.documents)]);
  rows.push(["documents", count(index.whole_documents)]);
  if (index.has_passages) rows.push(["with passages", count(index.documents)]);
  rows.push(["encoder", index.encoder]);
  return rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
}

// The share of the postings that was scored, and the share that was skipped, in words.
export function skipped({ plan }) {
  const scored = plan?.postings ? Math.min(1, plan.postings_scored / plan.postings) : 1;
  return [scored, scored < 1 ? `${percent(1 - scored)} of the postings skipped` : "nothing skipped"];
}

// Passes the words of a query and their weights, as list items, to `show`.
export function vector(words, show) {
  const weights = Object.entries(words);
  const items = weights.map(([word, value]) => {
    const bar = el("i");
    bar.style.width = `${(100 * value) / weights[0][1]}%`;
    return el("li", {}, termed(word), el("small", {}, weight(value)), bar);
  });
  if (items.length <= WORDS) return show(items);
  const button = el("button", { type: "button", class: "quiet" }, `${items.length - WORDS} more`);
  button.addEventListener("click", () => show(items));
  show([...items.slice(0, WORDS), el("li", {}, button)]);
}

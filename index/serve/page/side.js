// One ranking: an index, how it is searched, what was found, how long it took and what was skipped.

import { call, pause } from "./api.js";
import { copy, count, el, ms, percent, some, termed, weight } from "./dom.js";
import { HitView } from "./hits.js";

const TYPING = 90; // milliseconds without a key before a search
const CALM = 300; // and before the hits are explained: some encoders read the documents once more for that
const EXPLAINED = 100; // hits at most; the server's limit
const WORDS = 14; // of the query's vector that are shown at once
export const DEFAULTS = { mode: "exact", alpha: 0.8, cut: 8, heap_factor: 1 };

export class Side {
  // `indexes` are those of the server; `settings` is {index, mode, alpha, cut, heap_factor}, changed in place.
  constructor(indexes, settings, { changed, shown, refused }) {
    Object.assign(this, { indexes, settings, shown, refused, views: [] });
    this.element = copy("side");
    const select = this.part("[name=index]");
    select.append(...indexes.map(({ name }) => el("option", { value: name }, name)));
    select.closest("label").hidden = indexes.length < 2;
    this.part("[name=by]").value = this.index.has_clusters ? "clusters" : "alpha";
    this.part("form").addEventListener("submit", (event) => event.preventDefault());
    this.part("form").addEventListener("input", () => {
      this.#read();
      changed();
    });
    this.#write();
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  get index() {
    return this.indexes.find(({ name }) => name === this.settings.index);
  }

  get label() {
    return this.settings.mode === "exact" ? "exact" : "approximate";
  }

  // --- settings ---

  #read() {
    const { elements } = this.part("form");
    const { settings } = this;
    settings.index = elements.index.value;
    const by = this.index.has_clusters ? elements.by.value : "alpha";
    settings.mode = elements.mode.value === "exact" ? "exact" : by;
    for (const name of ["alpha", "cut", "heap_factor"]) settings[name] = elements[name].valueAsNumber;
    this.#write();
  }

  #write() {
    const { elements } = this.part("form");
    const { settings, index } = this;
    if (settings.mode === "clusters" && !index.has_clusters) settings.mode = "alpha";
    elements.index.value = settings.index;
    elements.mode.value = this.label;
    if (settings.mode !== "exact") elements.by.value = settings.mode;
    elements.by.closest("label").hidden = settings.mode === "exact" || !index.has_clusters;
    for (const name of ["alpha", "cut", "heap_factor"]) {
      elements[name].value = settings[name];
      elements[name].previousElementSibling.value = name === "cut" ? settings[name] : settings[name].toFixed(2);
      elements[name].closest("label").hidden = settings.mode !== (name === "alpha" ? "alpha" : "clusters");
    }
    this.part(".of").textContent = some(index.documents, "document");
  }

  #settings() {
    const { mode, alpha, cut, heap_factor } = this.settings;
    if (mode === "exact") return {};
    return mode === "alpha" ? { alpha } : { algorithm: "clusters", cut, heap_factor };
  }

  // --- searching ---

  // A later search ends an earlier one. `now` doesn't wait for somebody to stop typing.
  async search({ query, where, k }, now) {
    this.running?.abort();
    this.running = new AbortController();
    const { signal } = this.running;
    if (!query.trim()) return this.#clear();
    this.element.setAttribute("aria-busy", "true");
    try {
      await pause(now ? 0 : TYPING, signal);
      const asked = { index: this.settings.index, ...this.#query(query), k, settings: this.#settings() };
      if (where.size) asked.where = Object.fromEntries(where);
      this.#show(await call("v1/search", { ...asked, plan: true }, signal), k);
      this.element.removeAttribute("aria-busy");
      await pause(now ? 0 : CALM, signal);
      this.#explain(await call("v1/search", { ...asked, k: Math.min(k, EXPLAINED), explain: true }, signal));
    } catch (problem) {
      if (signal.aborted) return;
      if (this.element.hasAttribute("aria-busy")) this.#clear(); // hits that can't be explained are hits all the same
      this.part(".problem").replaceChildren(...described(problem));
      this.part(".problem").hidden = false;
      if (problem.status === 401) this.refused(problem);
    }
  }

  stop() {
    this.running?.abort();
  }

  // An index without an encoder of queries is asked in weights, "wing:1.2 flutter:0.8" or JSON.
  #query(text) {
    if (this.index.takes_text) return { query: text };
    if (text.trim().startsWith("{")) {
      try {
        return { vector: JSON.parse(text) };
      } catch {
        throw Object.assign(new Error("This is no JSON object yet"), { detail: 'Such as {"wing": 1.2, "flutter": 0.8}' });
      }
    }
    const pairs = text.trim().split(/\s+/).map((pair) => [pair, pair.lastIndexOf(":")]);
    return {
      vector: Object.fromEntries(pairs.map(([s, at]) => (at < 1 ? [s, 1] : [s.slice(0, at), Number(s.slice(at + 1))]))),
    };
  }

  // --- showing ---

  #clear() {
    this.element.removeAttribute("aria-busy");
    this.found = null;
    this.#list([]);
    for (const selector of [".plan", ".vector", ".unknown", ".nothing", ".more"]) this.part(selector).hidden = true;
    this.part(".of").hidden = false;
    this.part(".problem").hidden = true;
    this.shown(this);
  }

  #show(found, k) {
    this.found = found;
    this.#list(found.hits);
    this.part(".of").hidden = true;
    this.part(".problem").hidden = true;
    this.part(".nothing").hidden = this.views.length > 0;
    this.part(".more").hidden = this.views.length < k;
    this.#plan(found);
    this.#vector(found.query);
    this.shown(this);
  }

  #list(hits) {
    this.views = hits.map((hit) => new HitView(hit));
    this.part(".hits").replaceChildren(...this.views.map((view) => view.element));
  }

  // The index may have changed in between: what is no longer found stays as it is.
  #explain({ hits }) {
    const views = new Map(this.views.map((view) => [view.hit.id, view]));
    for (const { id, explanation } of hits) views.get(id)?.explain(explanation, this.views[0].hit.score);
    this.shown(this, true);
  }

  #plan({ took, plan }) {
    this.part(".plan").hidden = false;
    this.part(".time").textContent = ms(took.search_ms);
    const rows = [["searching", ms(took.search_ms)]];
    if (took.encode_ms) rows.unshift(["encoding the query", ms(took.encode_ms)]);
    const scored = plan?.postings ? Math.min(1, plan.postings_scored / plan.postings) : 1;
    this.part(".skipped").textContent = scored < 1 ? `${percent(1 - scored)} of the postings skipped` : "nothing skipped";
    this.part(".meter").hidden = scored === 1;
    this.part(".meter i").style.width = `${100 * scored}%`;
    if (plan) {
      const of = (part, whole) => `${count(part)} of ${count(whole)}`;
      const units = plan.algorithm === "clusters" ? "clusters looked into" : "blocks looked into";
      rows.push(
        ["algorithm", `${plan.algorithm}: ${plan.reason}`],
        ["terms used", count(plan.terms)],
        ["postings scored", of(plan.postings_scored, plan.postings)],
        [units, of(plan.blocks_scored, plan.blocks)],
        ["windows scanned whole", of(plan.windows_scanned, plan.windows)],
      );
    }
    rows.push(["documents", count(this.index.documents)], ["encoder", this.index.encoder]);
    const pair = ([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
    this.part(".plan dl").replaceChildren(...rows.map(pair));
  }

  #vector({ vector, unknown = [] }) {
    const terms = Object.entries(vector).sort(([, a], [, b]) => b - a);
    this.part(".vector").hidden = !terms.length;
    this.part(".unknown").hidden = terms.length > 0 && !unknown.length;
    const names = unknown.flatMap((token, i) => [i ? ", " : "", termed(token)]);
    this.part(".unknown").replaceChildren("This index knows none of these words", ...(names.length ? [": ", ...names] : ["."]));
    const words = terms.map(([token, value]) => {
      const bar = el("i");
      bar.style.width = `${(100 * value) / terms[0][1]}%`;
      return el("li", {}, termed(token), el("small", {}, weight(value)), bar);
    });
    const list = this.part(".vector ul");
    list.replaceChildren(...words.slice(0, WORDS));
    if (words.length <= WORDS) return;
    const button = el("button", { type: "button", class: "quiet" }, `${words.length - WORDS} more`);
    button.addEventListener("click", () => list.replaceChildren(...words));
    list.append(el("li", {}, button));
  }
}

// Each wrong value where they are named, or all in one sentence.
function described({ message, detail, errors }) {
  const items = (errors ?? []).map((one) => el("li", {}, ...(one.where ? [el("code", {}, one.where), ": "] : []), one.message));
  return [el("strong", {}, message), items.length ? el("ul", {}, ...items) : el("p", {}, detail ?? "")];
}

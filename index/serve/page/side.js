// One ranking: an index, its search settings, and the results.

import { call, pause } from "./api.js";
import { facts, skipped, vector } from "./details.js";
import { copy, el, ms, some, termed } from "./dom.js";
import { HitView } from "./hits.js";

const TYPING = 90; // milliseconds without a keystroke before a search
const CALM = 300; // milliseconds between a search and slower requests: origins of expansions, counts, corrections
const SHOWN = 100; // maximum number of hits, because the server doesn't explain more
const OF_GROUP = 3; // maximum number of hits per document
const NEAR = 0.5; // further hits of a document are shown if they have at least this share of its first hit's score
const COUNTED = 12; // maximum number of columns whose values are counted
export const DEFAULTS = { skip: "exact", alpha: 0.8, cut: 8, heap_factor: 1 };

export const usualMode = (index) => (index.has_dense && index.takes_text ? "hybrid" : "sparse");

export class Side {
  // `indexes` are the server's indexes; `settings` is {index, mode, skip, alpha, cut, heap_factor}, changed in place.
  constructor(indexes, settings, called) {
    Object.assign(this, { indexes, settings, called, views: [], counts: null, total: null });
    this.element = copy("side");
    const select = this.part("[name=index]");
    select.append(...indexes.map(({ name }) => el("option", { value: name }, name)));
    select.closest("label").hidden = indexes.length < 2;
    this.part("[name=by]").value = this.index.has_clusters ? "clusters" : "alpha";
    for (const form of this.element.querySelectorAll("form")) {
      form.addEventListener("submit", (event) => event.preventDefault());
      form.addEventListener("input", () => {
        this.#read();
        called.changed();
      });
    }
    this.part(".again").addEventListener("click", () => called.changed());
    for (const button of this.element.querySelectorAll(".drop")) button.addEventListener("click", () => called.dropped());
    this.#write();
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  get index() {
    return this.indexes.find(({ name }) => name === this.settings.index);
  }

  get label() {
    return this.settings.skip === "exact" ? "exact" : "approximate";
  }

  // The column to group hits by: documents of the same source become one result. Passages of a document are always one result.
  get #group() {
    const { whole_documents, columns } = this.index;
    return columns.source?.kind === "text" && columns.source.distinct < 0.9 * whole_documents ? "source" : null;
  }

  get most() {
    return this.#group ? Math.floor(SHOWN / OF_GROUP) : SHOWN;
  }

  // --- settings ---

  #field(name) {
    return this.part(`[name=${name}]`);
  }

  #read() {
    const { settings } = this;
    const before = this.index;
    settings.index = this.#field("index").value;
    settings.mode = this.index === before ? this.#field("mode").value : usualMode(this.index);
    const by = this.index.has_clusters ? this.#field("by").value : "alpha";
    settings.skip = this.part("[name=skip]:checked").value === "exact" ? "exact" : by;
    for (const name of ["alpha", "cut", "heap_factor"]) settings[name] = this.#field(name).valueAsNumber;
    this.#write();
  }

  #write() {
    const { settings, index } = this;
    const usual = usualMode(index);
    if (usual === "sparse") settings.mode = "sparse";
    if (settings.skip === "clusters" && !index.has_clusters) settings.skip = "alpha";
    this.#field("index").value = settings.index;
    this.#field("mode").value = settings.mode;
    this.#field("mode").closest("label").hidden = usual === "sparse";
    this.part(`[name=skip][value=${this.label}]`).checked = true;
    this.part(".skip").hidden = settings.mode === "dense";
    if (settings.skip !== "exact") this.#field("by").value = settings.skip;
    this.#field("by").closest("label").hidden = settings.skip === "exact" || !index.has_clusters;
    for (const name of ["alpha", "cut", "heap_factor"]) {
      const field = this.#field(name);
      field.value = settings[name];
      field.previousElementSibling.value = name === "cut" ? settings[name] : settings[name].toFixed(2);
      field.closest("label").hidden = settings.skip !== (name === "alpha" ? "alpha" : "clusters");
    }
  }

  #settings(sort) {
    const { mode, skip, alpha, cut, heap_factor } = this.settings;
    // "auto" also searches by words and meaning, but finds nothing if no word is known. Sorting needs a sparse search.
    const both = mode === "hybrid" ? "auto" : mode;
    const settings = usualMode(this.index) === "sparse" ? {} : { mode: sort ? "sparse" : both };
    if (skip === "exact" || settings.mode === "dense") return settings;
    return skip === "alpha" ? { ...settings, alpha } : { ...settings, algorithm: "clusters", cut, heap_factor };
  }

  // --- searching ---

  // A new search cancels the previous one. With `now`, it doesn't wait for a pause in typing.
  async search({ query, where, k, sort, detailed, columns }, now) {
    this.running?.abort();
    this.running = new AbortController();
    const { signal } = this.running;
    if (!query.trim()) return this.#clear();
    this.element.setAttribute("aria-busy", "true");
    try {
      await pause(now ? 0 : TYPING, signal);
      const plain = { index: this.settings.index, ...this.#query(query), ...(sort && { sort }) };
      const filter = where.size ? { where: Object.fromEntries(where) } : {};
      const settings = this.#settings(sort);
      const group = this.#group && { group_by: this.#group, per_group: OF_GROUP };
      const asked = { ...plain, ...filter, ...group, settings, k: Math.min(k, this.most), explain: true };
      const plan = detailed && settings.mode !== "dense"; // dense search reads no postings, so it has no plan
      const found = await call("v1/search", { ...asked, origins: false, plan }, signal);
      this.#show(found, asked.k, settings.mode);
      this.element.removeAttribute("aria-busy");
      await pause(now ? 0 : CALM, signal);
      const counted = { ...plain, settings: settings.mode ? { mode: settings.mode } : {}, k: 1, fields: false, total: true };
      const rest = await Promise.allSettled([
        this.#origins(asked, signal),
        this.#count(counted, where, columns, signal),
        this.index.takes_text && this.#correct(query, signal),
      ]);
      signal.throwIfAborted();
      if (this.total !== null) this.#told(sort);
      this.called.shown(this, true);
      const failed = rest.find(({ status }) => status === "rejected");
      if (failed) throw failed.reason;
    } catch (problem) {
      if (signal.aborted) return;
      if (this.element.hasAttribute("aria-busy")) this.#clear(); // if only a slower request failed, keep the hits
      this.part(".problem div").replaceChildren(...described(problem));
      this.part(".problem").hidden = false;
      const wrong = problem.status === 422 && where.size > 0;
      this.part(".problem .drop").hidden = !wrong;
      this.part(".again").hidden = wrong;
      if (problem.status === 401) this.called.refused(problem);
    }
  }

  stop() {
    this.running?.abort();
  }

  // Adds the words that expansions come from. This is slower, because some encoders read the documents again.
  async #origins(asked, signal) {
    const learned = this.views.some(({ hit }) => hit.explanation.terms.some(({ kind }) => kind === "expansion"));
    if (!learned) return;
    const { hits } = await call("v1/search", { ...asked, fields: false }, signal);
    const views = new Map(this.views.map((view) => [view.hit.passage ?? view.hit.id, view]));
    // If the index has changed since the search, hits that are no longer found stay unchanged.
    for (const { id, passage, explanation } of hits) views.get(passage ?? id)?.explain(explanation);
  }

  // Counts the matching documents, in total and for each value. The counts of a filtered column ignore the filter on this column.
  async #count(asked, where, columns, signal) {
    const names = columns.filter((name) => name in this.index.columns).slice(0, COUNTED);
    const own = names.filter((name) => where.has(name));
    const others = (name) => Object.fromEntries([...where].filter(([one]) => one !== name));
    const ask = (some, filter) => call("v1/search", { ...asked, facets: some, ...(Object.keys(filter).length && { where: filter }) }, signal);
    const [all, ...each] = await Promise.all([
      ask(names.filter((name) => !own.includes(name)), others()),
      ...own.map((name) => ask([name], others(name))),
    ]);
    this.total = all.total;
    this.counts = new Map();
    for (const { facets } of [all, ...each]) {
      for (const [name, rows] of Object.entries(facets)) {
        this.counts.set(name, new Map(rows.map(({ value, count }) => [value, count])));
      }
    }
    if (!this.views.length && where.size) {
      const { total } = await call("v1/search", { ...asked, facets: [] }, signal);
      if (total) this.#nothing(`No document matches the ${where.size > 1 ? "filters. Without them" : "filter. Without it"}, there ${total === 1 ? "is" : "are"} ${some(total, "document")}.`, true);
    }
    this.called.counted(this);
  }

  async #correct(query, signal) {
    const { corrections, did_you_mean } = await call("v1/suggest", { index: this.settings.index, text: query, limit: 1 }, signal);
    const words = Object.keys(corrections);
    this.part(".unknown").hidden = !words.length;
    if (!words.length) return;
    const near = this.settings.mode !== "sparse" && this.views.length ? " These hits are similar in meaning." : "";
    this.part(".unknown").replaceChildren("No document has ", ...listed(words), ".", near);
    if (!did_you_mean) return;
    const button = el("button", { type: "button", class: "quiet" }, did_you_mean);
    button.addEventListener("click", () => this.called.asked(did_you_mean));
    this.part(".unknown").append(" Did you mean ", button, "?");
  }

  // An index without a query encoder takes weights, such as "wing:1.2 flutter:0.8", or JSON.
  #query(text) {
    if (this.index.takes_text) return { query: text };
    if (text.trim().startsWith("{")) {
      try {
        return { vector: JSON.parse(text) };
      } catch {
        throw Object.assign(new Error("This isn't a JSON object yet"), { detail: 'It should look like {"wing": 1.2, "flutter": 0.8}' });
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
    Object.assign(this, { found: null, counts: null, total: null });
    this.#list([]);
    for (const selector of [".plan", ".vector", ".unknown", ".nothing", ".more", ".problem"]) this.part(selector).hidden = true;
    this.part(".total").textContent = some(this.index.whole_documents, "document");
    this.called.shown(this);
    this.called.counted(this);
  }

  #show(found, k, mode) {
    Object.assign(this, { found, total: null });
    this.part(".total").textContent = "";
    this.#list(found.hits);
    this.part(".problem").hidden = true;
    this.part(".unknown").hidden = true;
    const { vector: weights, unknown = [] } = found.query;
    const groups = this.views.filter(({ same }) => !same).length;
    if (this.views.length) this.part(".nothing").hidden = true;
    else if (!Object.keys(weights).length) this.#nothing("This index knows none of these words. Try other words.");
    else this.#nothing("Nothing found. Try other words, or fewer words.");
    this.part(".more").hidden = groups < k || k >= this.most;
    if (unknown.length) {
      this.part(".unknown").hidden = false;
      this.part(".unknown").replaceChildren("No document has ", ...listed(unknown), ".");
    }
    this.#plan(found, mode);
    this.called.shown(this);
  }

  #nothing(text, filtered = false) {
    this.part(".nothing").hidden = false;
    this.part(".nothing p").textContent = text;
    this.part(".nothing .drop").hidden = !filtered;
  }

  // Hits that were already shown keep their state (opened, for instance).
  #list(hits) {
    const before = new Map(this.views.map((view) => [view.hit.passage ?? view.hit.id, view]));
    const names = this.called.names();
    const group = this.#group;
    const values = hits.map(({ metadata }) => (group ? metadata?.[group] : undefined) ?? null);
    const first = hits.map((hit, i) => hits[values[i] === null ? i : values.indexOf(values[i])]);
    this.views = hits
      .filter((hit, i) => first[i].score - hit.score <= NEAR * Math.abs(first[i].score))
      .map((hit) => {
        const view = new HitView(hit, names);
        if (before.get(hit.passage ?? hit.id)?.opened) view.open(true);
        view.same = first[hits.indexOf(hit)] !== hit; // of the same group as an earlier hit
        view.element.classList.toggle("same", view.same);
        view.compareWith(hits[0].score);
        return view;
      });
    this.part(".hits").replaceChildren(...this.views.map((view) => view.element));
  }

  #told(sort) {
    const { mode } = this.settings;
    const order = sort ? "sorted" : mode === "sparse" ? "" : "best first";
    this.part(".total").textContent = [some(this.total, "document"), order].filter(Boolean).join(", ");
  }

  #plan(found, mode) {
    const [scored, words] = skipped(found);
    this.part(".plan").hidden = false;
    this.part(".time").textContent = ms(found.took.search_ms);
    this.part(".skipped").textContent = found.plan ? words : "";
    this.part(".meter").hidden = scored === 1;
    this.part(".meter i").style.width = `${100 * scored}%`;
    this.part(".plan dl").replaceChildren(...facts(found, this.index, mode));
    this.part(".vector").hidden = mode === "dense" || !Object.keys(found.query.words).length;
    vector(found.query.words, (items) => this.part(".vector ul").replaceChildren(...items));
  }
}

const listed = (words) => words.flatMap((word, i) => [i ? ", " : "", termed(word)]);

// Describes a problem: as a list of invalid values if there are any, else in one sentence.
function described({ status, message, detail, errors }) {
  const items = (errors ?? []).map((one) => el("li", {}, ...(one.where ? [el("code", {}, one.where), ": "] : []), one.message));
  const title = status === 422 ? "This search is invalid" : message;
  return [el("strong", {}, title), items.length ? el("ul", {}, ...items) : el("p", {}, detail ?? "")];
}

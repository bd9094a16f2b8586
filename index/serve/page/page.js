// The page as a whole: query, filters and sides. The URL's fragment keeps the state, so that a search can be shared.

import { call, hasKey, useKey } from "./api.js";
import { el, parsed, some, written } from "./dom.js";
import { conditions, fieldsOf, orders, sharedColumns } from "./filters.js";
import { DEFAULTS, Side, usualMode } from "./side.js";

const K = 10;
const wide = matchMedia("(min-width: 62rem)");
const at = (id) => document.getElementById(id);
const state = { query: "", k: K, where: new Map(), sort: "", detailed: false, columns: [] };
let indexes = [];
let sides = [];
let shared = []; // columns that all sides have, useful ones first
let sent = "";

// --- the state and the fragment ---

function save(push = false) {
  const values = new URLSearchParams();
  if (state.query) values.set("q", state.query);
  if (state.k !== K) values.set("k", state.k);
  if (state.sort) values.set("sort", state.sort);
  if (state.detailed) values.set("details", 1);
  if (state.where.size) values.set("where", written(Object.fromEntries(state.where)));
  sides.forEach(({ settings, index }, i) => {
    const suffix = i ? "2" : "";
    if (i || settings.index !== indexes[0].name) values.set(`index${suffix}`, settings.index);
    for (const [name, usual] of Object.entries({ ...DEFAULTS, mode: usualMode(index) })) {
      if (settings[name] !== usual) values.set(name + suffix, settings[name]);
    }
  });
  const fragment = `#${values}`;
  document.title = state.query ? `${state.query} · lsr` : "lsr";
  // Typing replaces the newest history entry; a submitted search gets an entry of its own.
  if (push && fragment !== sent) history.pushState(null, "", (sent = fragment));
  else if (fragment !== (location.hash || "#")) history.replaceState(null, "", fragment);
}

// Invalid parts of a fragment are ignored, because people may edit it by hand.
function load() {
  const values = new URLSearchParams(location.hash.slice(1));
  const number = (name, usual, least, most) => {
    const value = Number(values.get(name) ?? usual);
    return value >= least && value <= most ? value : usual;
  };
  state.query = values.get("q") ?? "";
  state.k = Math.round(number("k", K, 1, 100));
  state.sort = values.get("sort") ?? "";
  state.detailed = values.get("details") === "1";
  try {
    const where = parsed(values.get("where") ?? "{}");
    state.where = new Map(Array.isArray(where) ? [] : Object.entries(where));
  } catch {
    state.where = new Map();
  }
  const settings = ["", "2"].map((suffix) => {
    const one = (name, known, usual) => known.find((value) => value === values.get(name + suffix)) ?? usual;
    const index = indexes.find(({ name }) => name === values.get(`index${suffix}`)) ?? indexes[0];
    return {
      index: index.name,
      mode: one("mode", ["sparse", "hybrid", "dense"], usualMode(index)),
      skip: one("skip", ["exact", "alpha", "clusters"], DEFAULTS.skip),
      alpha: number(`alpha${suffix}`, DEFAULTS.alpha, 0.3, 1),
      cut: Math.round(number(`cut${suffix}`, DEFAULTS.cut, 1, 32)),
      heap_factor: number(`heap_factor${suffix}`, DEFAULTS.heap_factor, 0.5, 1.5),
    };
  });
  at("query").value = state.query;
  arrange(values.has("index2") ? settings : settings.slice(0, 1));
}

// --- sides ---

function arrange(settings) {
  for (const side of sides) side.stop();
  const called = {
    changed: () => changed({ panel: true }),
    dropped: () => {
      state.where.clear();
      changed({ now: true, panel: true });
    },
    asked,
    counted: (side) => side === sides[0] && showFilters(),
    names: () => shared.filter(([, { useful }]) => useful).map(([name]) => name),
    shown,
    refused,
  };
  sides = settings.map((one) => new Side(indexes, one, called));
  at("sides").before(at("tools")); // so that the tools aren't removed with a side
  at("sides").replaceChildren(...sides.map((side) => side.element));
  document.body.classList.toggle("two", sides.length > 1);
  at("two").setAttribute("aria-pressed", sides.length > 1);
  if (sides.length === 1) sides[0].part(".top").append(at("tools"));
  for (const side of sides) {
    side.part(".more").addEventListener("click", () => {
      state.k = Math.min(side.most, state.k + K);
      changed({ now: true });
    });
  }
  changed({ now: true, panel: true });
}

// The second side shows another index, or the same index with other settings.
function toggleSides() {
  if (sides.length > 1) return arrange([sides[0].settings]);
  const { settings, index } = sides[0];
  const other = indexes.find(({ name }) => name !== settings.index);
  if (other) return arrange([settings, { ...settings, index: other.name, mode: usualMode(other) }]);
  if (settings.mode !== "sparse") return arrange([settings, { ...settings, mode: "sparse" }]);
  const approximate = index.has_clusters ? "clusters" : "alpha";
  arrange([settings, { ...settings, skip: settings.skip === "exact" ? approximate : "exact" }]);
}

function changed({ now = false, push = false, panel = false } = {}) {
  if (panel) showColumns();
  save(push);
  showConditions();
  document.body.classList.toggle("detailed", state.detailed);
  at("details").setAttribute("aria-pressed", state.detailed);
  at("hints").hidden = state.query.trim() !== "";
  for (const side of sides) side.search(state, now);
}

function asked(query) {
  state.query = at("query").value = query;
  state.k = K;
  changed({ now: true, push: true });
  at("query").focus();
}

// Called when a side shows new content; `calm` means that this was the last update.
function shown(side, calm = false) {
  if (sides.length > 1 && sides.every(({ found }) => found)) compare();
  if (calm && sides.includes(side)) {
    at("status").textContent = sides.map(({ views, label }) => `${some(views.length, "hit")}, ${label}`).join("; ");
  }
}

function compare() {
  const ranks = sides.map(({ views }) => new Map(views.map((view) => [view.hit.id, view.hit.rank])));
  sides.forEach(({ views }, i) => {
    for (const view of views) {
      const other = ranks[1 - i].get(view.hit.id);
      const by = other - view.hit.rank;
      if (other === undefined) view.compare("only here");
      else view.compare(i && by ? `${by > 0 ? "↑" : "↓"} ${Math.abs(by)}` : "");
    }
  });
  const both = [...ranks[0].keys()].filter((id) => ranks[1].has(id)).length;
  const words = `${both} of ${Math.max(ranks[0].size, ranks[1].size)} in both`;
  for (const side of sides) side.part(".both").textContent = words;
}

// --- filters and order ---

function showColumns() {
  shared = sharedColumns(sides.map((side) => side.index));
  state.columns = shared.filter(([name, { useful, kind }]) => state.where.has(name) || (useful && !kind.endsWith("number"))).map(([name]) => name);
  const known = orders(shared);
  if (!known.some(([value]) => value === state.sort)) state.sort = "";
  at("sort").replaceChildren(el("option", { value: "" }, "Best first"), ...known.map(([value, words]) => el("option", { value }, words)));
  at("sort").value = state.sort;
  at("sort").closest("label").hidden = !known.length;
  showFilters();
}

function showFilters() {
  const active = document.activeElement;
  const panel = at("filters");
  const inside = panel.contains(active);
  if (inside && active.matches("[type=number], [type=text]")) return; // don't replace a field while someone types in it
  const open = panel.querySelector(".later")?.open;
  const fields = fieldsOf(shared, state.where, sides[0]?.counts, () => changed({}));
  panel.replaceChildren(...fields);
  if (open && panel.querySelector(".later")) panel.querySelector(".later").open = true;
  if (inside) [...panel.querySelectorAll("input, summary")].find(({ dataset }) => dataset.key === active.dataset.key)?.focus();
  at("filter").hidden = !fields.length;
  placeFilters();
}

// Puts the filters next to the hits if there is room, else in a sheet.
function placeFilters() {
  const beside = wide.matches && sides.length < 2 && shared.some(([name, { useful }]) => useful || state.where.has(name));
  const home = at(beside ? "aside" : "sheet-filters");
  if (at("filters").parentElement !== home) home.append(at("filters"));
  at("aside").hidden = !beside;
  document.body.classList.toggle("beside", beside);
  if (beside && at("sheet").open) at("sheet").close();
}

function showConditions() {
  const chips = conditions(state.where).map(([name, words]) => {
    const button = el("button", { type: "button" }, el("bdi", {}, name), " ", el("bdi", {}, words), el("span", { "aria-hidden": "true" }, " ×"));
    button.setAttribute("aria-label", `Remove the filter ${name} ${words}`);
    button.addEventListener("click", () => {
      state.where.delete(name);
      changed({ now: true, panel: true });
      (at("conditions").querySelector("button") ?? at("query")).focus();
    });
    return el("li", {}, button);
  });
  at("conditions").replaceChildren(...chips);
  at("filter").textContent = chips.length ? `Filters (${chips.length})` : "Filters";
}

// --- the key ---

function refused({ detail }) {
  if (at("key").open) return;
  at("key-problem").textContent = hasKey() ? detail || "This key was refused." : "";
  useKey(null);
  at("key").showModal();
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(at("key-value").value.trim());
  at("key-value").value = "";
  at("key").close();
  start();
});

// --- typing and keys ---

at("query").addEventListener("input", () => {
  state.query = at("query").value;
  state.k = K;
  changed();
});
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  changed({ now: true, push: true });
});
at("filter").addEventListener("click", () => at("sheet").showModal());
at("sheet-close").addEventListener("click", () => at("sheet").close());
at("sort").addEventListener("input", () => {
  state.sort = at("sort").value;
  changed({ now: true });
});
at("details").addEventListener("click", () => {
  state.detailed = !state.detailed;
  changed({ now: true });
});
at("two").addEventListener("click", toggleSides);
wide.addEventListener("change", placeFilters);
addEventListener("hashchange", () => indexes.length && load());

// "/" moves to the query. Arrow keys move through the hits, and between the two sides.
addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const { target, key } = event;
  const typing = target.matches("input, select, textarea");
  const hits = sides.map(({ views }) => views.map((view) => view.button));
  const side = hits.findIndex((buttons) => buttons.includes(target));
  const row = side < 0 ? -1 : hits[side].indexOf(target);
  let next;
  if (key === "/" && !typing) next = at("query");
  else if (key === "ArrowDown" && target === at("query")) next = hits[0]?.[0];
  else if (row < 0) return;
  else if (key === "ArrowDown") next = hits[side][row + 1];
  else if (key === "ArrowUp") next = row ? hits[side][row - 1] : at("query");
  else if (key === "ArrowRight" || key === "ArrowLeft") next = hits[key === "ArrowRight" ? 1 : 0]?.[row];
  else if (key === "Escape") next = at("query");
  if (!next) return;
  event.preventDefault();
  next.focus();
  next.scrollIntoView({ block: "nearest" });
});

// --- start ---

async function start() {
  at("sides").before(at("tools"));
  at("sides").replaceChildren();
  try {
    ({ indexes } = await call("v1/indexes"));
  } catch (problem) {
    if (problem.status === 401) return refused(problem);
    at("status").textContent = `${problem.message}. ${problem.detail}`;
    const again = el("button", { type: "button" }, "Try again");
    again.addEventListener("click", start);
    const told = el("div", {}, el("strong", {}, problem.message), el("p", {}, problem.detail));
    return at("sides").replaceChildren(el("div", { class: "problem", role: "alert" }, told, again));
  }
  const [{ takes_text, examples }] = indexes;
  const queries = takes_text ? examples : ["wing:1.2 flutter:0.8"];
  at("asking").textContent = takes_text ? "Try" : "Queries of this index are weights of terms, such as";
  at("asking").hidden = !queries.length;
  at("examples").replaceChildren(
    ...queries.map((query) => {
      const button = el("button", { type: "button", dir: "auto" }, query);
      button.addEventListener("click", () => asked(query));
      return el("li", {}, button);
    }),
  );
  load();
}

start();

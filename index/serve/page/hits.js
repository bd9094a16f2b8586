// A hit: its origin, its heading and the best part of its text. An opened hit shows the whole text and a table of the
// score by word.

import { copy, el, percent, plain, termed, weight } from "./dom.js";
import { Content } from "./marks.js";
import { Shown } from "./snippet.js";
import { kindOf } from "./text.js";

const BRIEF = 32; // longer metadata values are shown only in opened hits
const HOW = { match: "in the text", expansion: "learned" };
const DENSE = "dense vector";
// If the terms of a word differ in kind, the word has the first of these kinds.
const KINDS = ["match", "expansion", "", "unweighted", "missing"];

export class HitView {
  // `names` are the columns whose values are shown next to the text.
  constructor(hit, names) {
    this.hit = hit;
    this.element = copy("hit");
    this.more = this.#part(".open");
    this.link = linkOf(hit.metadata ?? {});
    this.kind = kindOf([hit.metadata?.source, this.link?.pathname, hit.id].filter((name) => typeof name === "string"), hit.text);
    this.button = this.link
      ? el("a", { href: this.link.href, target: "_blank", rel: "noopener noreferrer", dir: "auto" })
      : el("button", { type: "button", dir: "auto" });
    this.#part("h2").append(this.button);
    this.#part(".rank").textContent = hit.rank;
    this.#part(".score").textContent = weight(hit.score);
    this.#part(".from").replaceChildren(...this.#from());
    const toggle = () => this.open(!this.opened);
    this.more.addEventListener("click", toggle);
    if (!this.link) this.button.addEventListener("click", toggle);
    this.#about(names);
    this.#explained(hit.explanation);
    this.open(false);
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  get opened() {
    return this.more.getAttribute("aria-expanded") === "true";
  }

  open(wanted) {
    this.more.setAttribute("aria-expanded", wanted);
    this.more.textContent = wanted ? "Show less" : "Show all";
    this.more.setAttribute("aria-label", `${this.more.textContent} of ${this.hit.title || this.hit.id}`);
    if (!this.link) this.button.setAttribute("aria-expanded", wanted);
    this.element.classList.toggle("opened", wanted);
    this.#show();
  }

  // Marks the words of an explanation in the text, and shows what they add to the score.
  explain(explanation) {
    this.#explained(explanation);
    this.#show();
  }

  #explained(explanation) {
    const { title, text } = this.hit;
    this.content = new Content(title, text, explanation?.terms);
    this.text = new Shown(this.content, this.kind);
    this.words = explanation && parts(explanation);
  }

  // The bar's length is the hit's score divided by the best hit's score.
  compareWith(best) {
    this.#part(".bar").style.width = `${best > 0 ? (100 * this.hit.score) / best : 0}%`;
  }

  // Shows how the hit's rank differs from its rank in the other ranking.
  compare(text) {
    this.#part(".moved").textContent = text;
  }

  #show() {
    const { opened, hit } = this;
    this.button.replaceChildren(...(hit.title ? this.#title() : [hit.id]));
    this.#part(".text").replaceChildren(...(opened ? this.text.whole() : this.text.snippet()));
    this.#part(".text").classList.toggle("lines", this.kind === "plain" && opened);
    this.#part("dl").hidden = !opened;
    this.#part(".why").hidden = !opened || !this.words;
    if (!this.words) return;
    const there = this.words.filter(({ score, share }) => score > 0 && share > 0);
    this.#part(".bar").replaceChildren(
      ...there.map((word) => {
        const part = el("i", { class: word.kind });
        part.style.flexGrow = word.share;
        return part;
      }),
    );
    this.#part(".because").replaceChildren(
      ...there.slice(0, 4).map((word) => el("li", {}, termed(word.word, word.kind), ` ${percent(word.share)}`)),
    );
    if (opened) this.#contributions(there);
  }

  // A passage's title consists of the headings above the passage; the first and the last of them are shown.
  #title() {
    const { content, hit } = this;
    const path = hit.passage ? hit.title.split(" > ") : [hit.title];
    if (path.length < 2) return content.title();
    const length = (text) => Array.from(text).length;
    const last = content.body - 1 - length(path.at(-1));
    const between = path.length > 2 ? " › … › " : " › ";
    return [...content.nodes(0, length(path[0])), between, ...content.nodes(last, content.body - 1)];
  }

  #from() {
    const { hit, link } = this;
    const { source, page } = hit.metadata ?? {};
    let names = [typeof source === "string" ? source : hit.id];
    if (link && link.origin !== location.origin) names = [link.host, ...link.pathname.split("/").filter(Boolean).map(decoded)];
    return [el("bdi", {}, names.join(" › ")), ...(Number.isInteger(page) ? [`, page ${page}`] : [])];
  }

  #contributions(there) {
    const most = Math.max(...there.map(({ score }) => score));
    this.#part("tbody").replaceChildren(
      ...there.map((word) => {
        const bar = el("i", { class: word.kind });
        bar.style.width = `${(100 * word.score) / most}%`;
        const sum = `${weight(word.query_weight)} × ${weight(word.impact)} = ${weight(word.score)}`;
        return el(
          "tr",
          {},
          el("th", { scope: "row" }, termed(word.word), el("small", {}, ...this.#how(word))),
          el("td", { class: "share" }, el("span", { class: "line" }, bar)),
          el("td", { class: "number" }, percent(word.share), el("small", {}, sum)),
        );
      }),
    );
    const named = (label, unweighted) => {
      const absent = this.words.filter(({ score, kind }) => !(score > 0) && kind !== "dense");
      const some = absent.filter(({ kind }) => (kind === "unweighted") === unweighted);
      return some.length ? [label, ...some.flatMap(({ word }, i) => [i ? ", " : "", termed(word)]), ". "] : [];
    };
    const far = this.words.filter(({ score, kind }) => kind === "dense" && score < 0);
    this.#part(".missing").replaceChildren(
      ...far.flatMap((part) => [`The dense vector lowers the score by ${weight(-part.score)}: `, ...this.#how(part), ". "]),
      ...named("Not in this document: ", false),
      ...named("In the text, but without weight: ", true),
    );
  }

  #how({ kind, spans, origin, cosine, z }) {
    if (kind === "dense") {
      const far = z === null ? "" : `, ${Math.abs(z).toFixed(1)} standard deviations ${z < 0 ? "below" : "above"} the mean`;
      return [`cosine ${cosine.toFixed(2)}${far}`];
    }
    if (origin) return [HOW.expansion, ", from “", el("bdi", {}, this.content.slice(...origin)), "”"];
    return [kind === "match" && spans.length > 1 ? `${HOW.match}, ${spans.length} times` : (HOW[kind] ?? "")];
  }

  #about(names) {
    const { id, passage, metadata } = this.hit;
    const values = Object.entries(metadata ?? {}).map(([key, value]) => [key, plain(value)]);
    const brief = values.filter(([key, value]) => names.includes(key) && value && key.length + value.length <= BRIEF);
    this.#part(".about").replaceChildren(
      ...brief.slice(0, 4).map(([key, value]) => el("li", {}, el("bdi", {}, key), " ", el("bdi", {}, value))),
    );
    const all = [["id", id], ...(passage ? [["passage", passage]] : []), ...values];
    this.#part("dl").replaceChildren(
      ...all.map(([key, value]) => el("div", {}, el("dt", { dir: "auto" }, key), el("dd", { dir: "auto" }, value))),
    );
  }
}

// A document's address: its "url", or its "source" if this is an address. Only http and https are allowed, because they
// can't run code.
function linkOf({ url, source, anchor }) {
  for (const [address, relative] of [[url, true], [source, false]]) {
    if (typeof address !== "string" || !address.trim() || !(relative || /^https?:\/\//i.test(address))) continue;
    if (!URL.canParse(address, location.href)) continue;
    const link = new URL(address, location.href);
    if (!["http:", "https:"].includes(link.protocol)) continue;
    if (!link.hash && typeof anchor === "string") link.hash = anchor;
    return link;
  }
  return null;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

// What each word and the dense vector add to the score, heaviest first.
function parts({ terms, dense }) {
  if (!dense) return words(terms);
  const impact = dense.weight ? dense.score / dense.weight : 0;
  const part = { ...dense, word: DENSE, kind: "dense", query_weight: dense.weight, impact, spans: [], origin: null };
  return [part, ...words(terms)].sort((a, b) => b.score - a.score);
}

// What each word adds to the score, heaviest first: the sum over its terms, as in Explanation.by_word.
function words(terms) {
  const found = new Map();
  for (const term of terms) {
    const key = term.word.toLowerCase();
    const known = found.get(key);
    if (!known) {
      found.set(key, { ...term, spans: [...term.spans] });
      continue;
    }
    known.query_weight += term.query_weight;
    known.score += term.score;
    known.share += term.share;
    known.spans.push(...term.spans);
    known.origin ??= term.origin;
    if (KINDS.indexOf(term.kind) < KINDS.indexOf(known.kind)) known.kind = term.kind;
  }
  return [...found.values()]
    .map((word) => {
      const spans = apart(word.spans);
      const impact = word.query_weight ? word.score / word.query_weight : 0;
      return { ...word, impact, spans, origin: spans.length ? null : word.origin };
    })
    .sort((a, b) => b.score - a.score);
}

// Sorts places and merges those that overlap or touch.
function apart(spans) {
  const found = [];
  for (const [start, end] of spans.toSorted((a, b) => a[0] - b[0] || a[1] - b[1])) {
    const last = found.at(-1);
    if (last && start <= last[1]) last[1] = Math.max(last[1], end);
    else found.push([start, end]);
  }
  return found;
}

// A hit: heading, the best part of its text, what it was found by; opened, its whole text and its score term by term.

import { copy, el, percent, plain, termed, weight } from "./dom.js";
import { Content } from "./marks.js";

const SNIPPET = 300; // code points
const WHOLE = 20_000; // of longer texts an opened hit shows the best part of this size
const BRIEF = 32; // metadata of more characters is shown only when a hit is opened
const HOW = { match: "in the text", expansion: "learned" };

export class HitView {
  constructor(hit) {
    this.hit = hit;
    this.element = copy("hit");
    this.button = this.#part("h3 button");
    this.content = new Content(hit.title, hit.text);
    this.#part(".rank").textContent = hit.rank;
    this.#part(".score").textContent = weight(hit.score);
    this.button.addEventListener("click", () => this.open(!this.opened));
    this.#about();
    this.#show();
  }

  #part(selector) {
    return this.element.querySelector(selector);
  }

  get opened() {
    return this.button.getAttribute("aria-expanded") === "true";
  }

  open(wanted) {
    this.button.setAttribute("aria-expanded", wanted);
    this.#show();
  }

  // Mark its words and show what its terms add to its score; the bar's length is the score's part of the best hit's.
  explain({ terms }, best) {
    const { title, text } = this.hit;
    this.content = new Content(title, text, terms);
    this.terms = terms.filter((term) => term.score > 0);
    this.missing = terms.filter((term) => !(term.score > 0));
    this.#part(".bar").style.width = `${best > 0 ? (100 * this.hit.score) / best : 0}%`;
    this.#show();
  }

  // How another ranking, beside this one, sees it.
  compare(text) {
    this.#part(".moved").textContent = text;
  }

  #show() {
    const { content, opened, hit } = this;
    this.button.replaceChildren(...(hit.title ? content.title() : [hit.id]));
    this.#part(".text").replaceChildren(...content.nodes(...content.best(opened ? WHOLE : SNIPPET), true));
    this.#part(".text").hidden = !hit.text;
    this.#part("dl").hidden = !opened;
    this.#part(".foot").hidden = opened;
    this.#part(".why").hidden = !opened || !this.terms;
    if (!this.terms) return;
    this.#part(".bar").replaceChildren(
      ...this.terms.map((term) => {
        const part = el("i", { class: term.kind });
        part.style.flexGrow = term.share;
        return part;
      }),
    );
    this.#part(".because").replaceChildren(
      ...this.terms.slice(0, 4).map((term) => el("li", {}, termed(term.token, term.kind), ` ${percent(term.share)}`)),
    );
    if (opened) this.#contributions();
  }

  #contributions() {
    const most = Math.max(...this.terms.map((term) => term.score));
    this.#part("tbody").replaceChildren(
      ...this.terms.map((term) => {
        const bar = el("i", { class: term.kind });
        bar.style.width = `${(100 * term.score) / most}%`;
        const sum = `${weight(term.query_weight)} × ${weight(term.impact)} = ${weight(term.score)}`;
        return el(
          "tr",
          {},
          el("th", { scope: "row" }, termed(term.token), el("small", {}, ...this.#how(term))),
          el("td", { class: "share" }, el("span", { class: "line" }, bar)),
          el("td", { class: "number" }, percent(term.share), el("small", {}, sum)),
        );
      }),
    );
    const named = (label, unweighted) => {
      const terms = this.missing.filter(({ kind }) => (kind === "unweighted") === unweighted);
      return terms.length ? [label, ...terms.flatMap((term, i) => [i ? ", " : "", termed(term.token)]), ". "] : [];
    };
    this.#part(".missing").replaceChildren(
      ...named("Not in this document: ", false),
      ...named("In the text, but without weight: ", true),
    );
  }

  #how({ kind, spans, origin }) {
    if (origin) return [HOW.expansion, ", from “", el("bdi", {}, this.content.slice(...origin)), "”"];
    return [kind === "match" && spans.length > 1 ? `${HOW.match}, ${spans.length} times` : (HOW[kind] ?? "")];
  }

  #about() {
    const { id, passage, title, metadata } = this.hit;
    const values = Object.entries(metadata ?? {}).map(([key, value]) => [key, plain(value)]);
    const brief = values.filter(([key, value]) => value && key.length + value.length <= BRIEF).slice(0, 4);
    const item = (key, value) => el("li", {}, el("bdi", {}, key), " ", el("bdi", {}, value));
    this.#part(".about").replaceChildren(
      ...(title ? [el("li", {}, el("bdi", {}, id))] : []),
      ...brief.map((pair) => item(...pair)),
    );
    const all = [["id", id], ...(passage ? [["passage", passage]] : []), ...values];
    this.#part("dl").replaceChildren(
      ...all.map(([key, value]) => el("div", {}, el("dt", { dir: "auto" }, key), el("dd", { dir: "auto" }, value))),
    );
  }
}

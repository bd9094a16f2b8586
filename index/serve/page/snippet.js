// Selects the part of a document's text to show: the sentences or lines of code that match best, or the whole text.

import { el } from "./dom.js";
import { NAMES, bestPart, widened } from "./marks.js";
import { blocksOf, codePoints } from "./text.js";

const LENGTH = 220; // characters of a snippet
const LINES = 4; // lines of code in a snippet
const PROSE_FIRST = 0.8; // prose is preferred over code if its score is at least this share of the code's
const WHOLE = 20_000; // characters; a longer text is cut to its best part of this length
const STYLES = { b: "strong", i: "em", c: "code" };

const segmenter = Intl.Segmenter && new Intl.Segmenter("en", { granularity: "sentence" });

// A text in blocks; each character of a block has its position in the content.
export class Shown {
  constructor(content, kind) {
    this.content = content;
    const [start, end] = content.best(WHOLE);
    const text = content.slice(start, end);
    this.cut = [start > content.body, end < content.characters.length];
    const point = codePoints(text);
    this.blocks = blocksOf(text, kind).map(({ type, level, runs }) => {
      const block = { type, level, at: [], styles: [] };
      for (const run of runs) {
        for (let at = point(run.start); at < point(run.end); at += 1) {
          block.at.push(start + at);
          block.styles.push(run.style);
        }
      }
      return block;
    });
  }

  // The whole text, as elements.
  whole() {
    const nodes = [];
    const list = (element) => (nodes.at(-1)?.tagName === "UL" ? nodes.at(-1) : (nodes.push(el("ul")), nodes.at(-1))).append(element);
    for (const block of this.blocks) {
      const inner = this.#nodes(block, 0, block.at.length);
      if (block.type === "code") nodes.push(el("pre", {}, el("code", {}, ...inner)));
      else if (block.type === "item") list(el("li", {}, ...inner));
      else nodes.push(el("p", { class: block.type }, ...inner));
    }
    if (this.cut[0]) nodes.unshift(el("p", {}, "…"));
    if (this.cut[1]) nodes.push(el("p", {}, "…"));
    return nodes;
  }

  // The best part of the text, as one element.
  snippet() {
    const units = this.#units();
    if (!units.length) return [];
    let [first, last] = best(units);
    const { type } = units[first];
    if (type === "code") {
      [first, last] = this.#around(units, first, last);
      const indents = units.slice(first, last + 1).filter(({ blank }) => !blank).map(({ indent }) => indent);
      const indent = Math.min(...indents);
      const lines = units.slice(first, last + 1).map(({ block, from, to }) => this.#nodes(block, Math.min(to, from + indent), to));
      return [el("pre", {}, el("code", {}, ...lines.flatMap((line, i) => (i ? ["\n", ...line] : line))))];
    }
    let length = 0;
    for (let i = first; i <= last; i += 1) length += units[i].to - units[i].from;
    const fits = (unit) => unit?.type === type && length + unit.to - unit.from <= LENGTH;
    for (; fits(units[last + 1]); last += 1) length += units[last + 1].to - units[last + 1].from;
    for (; fits(units[first - 1]); first -= 1) length += units[first - 1].to - units[first - 1].from;
    if (length > LENGTH) return [el("p", {}, ...this.#cut(units[first]))];
    const nodes = [];
    for (const { block, from, to } of units.slice(first, last + 1)) {
      const ended = /[.!?:;,…。！？]\s*$/.test(nodes.at(-1)?.textContent ?? nodes.at(-1) ?? ".");
      if (nodes.length) nodes.push(ended ? " " : " · ");
      nodes.push(...this.#nodes(block, from, to));
    }
    return [el("p", {}, units[first].whole[0] ? "" : "… ", ...nodes, units[last].whole[1] ? "" : " …")];
  }

  // Sentences and lines of code, each with its terms; headings are included only if there is nothing else.
  #units() {
    const of = (wanted) => this.blocks.filter(wanted).flatMap((block) => (block.type === "code" ? this.#lines(block) : this.#sentences(block)));
    const found = of(({ type }) => type !== "heading");
    const units = found.some(({ blank }) => !blank) ? found : of(() => true);
    for (const place of this.content.places) {
      for (const unit of units) {
        const { at } = unit.block;
        if (place.start <= at[unit.to - 1] && place.end > at[unit.from]) unit.terms.set(place.term, place.share);
      }
    }
    return units;
  }

  #lines(block) {
    const units = [];
    const text = this.#text(block);
    let from = 0;
    text.concat("\n").forEach((character, to) => {
      if (character !== "\n") return;
      const line = text.slice(from, to).join("");
      units.push({ block, from, to, type: "code", terms: new Map(), blank: !line.trim(), indent: line.length - line.trimStart().length });
      from = to + 1;
    });
    return units;
  }

  #sentences(block) {
    const text = this.#text(block).join("").replaceAll("\n", " ");
    const parts = segmenter ? [...segmenter.segment(text)].map(({ segment }) => segment) : text.split(/(?<=[.!?]\s+|[。！？])/u);
    const units = [];
    let at = 0;
    for (const part of parts) {
      const clauses = part.length > LENGTH ? part.split(/(?<=[;:—] )/u) : [part];
      clauses.forEach((clause, i) => {
        const characters = Array.from(clause);
        const [lead, inner] = [characters.findIndex((one) => /\S/.test(one)), Array.from(clause.trimEnd()).length];
        const whole = [!i, i === clauses.length - 1]; // whether the clause begins a sentence, and whether it ends one
        if (lead >= 0) units.push({ block, from: at + lead, to: at + inner, type: "prose", terms: new Map(), whole });
        at += characters.length;
      });
    }
    return units;
  }

  // A few lines of code with the best ones in the middle.
  #around(units, first, last) {
    const { block } = units[first];
    const within = (unit) => unit?.block === block && !unit.blank;
    while (last - first + 1 < LINES && (within(units[last + 1]) || within(units[first - 1]))) {
      if (within(units[last + 1])) last += 1;
      if (last - first + 1 < LINES && within(units[first - 1])) first -= 1;
    }
    return [first, last];
  }

  // The best part of a sentence that is too long.
  #cut({ block, from, to }) {
    const { at } = block;
    const text = this.#text(block);
    const index = (place) => at.findIndex((one) => one >= place);
    const places = this.content.places
      .filter(({ start, end }) => start >= at[from] && end <= at[to - 1] + 1)
      .map((place) => ({ ...place, start: index(place.start), end: index(place.end - 1) + 1 }));
    const [first, last] = widened(...bestPart(places, to - from, LENGTH, from), from, to, LENGTH, (i) => /\s/.test(text[i - 1] + text[i]));
    return [first > from ? "… " : "", ...this.#nodes(block, first, last), last < to ? " …" : ""];
  }

  #text(block) {
    return block.at.map((place) => this.content.characters[place]);
  }

  // A part of a block with its styles, and important parts in <mark>.
  #nodes({ type, at, styles }, from, to) {
    const nodes = [];
    for (let i = from, j; i < to; i = j) {
      for (j = i; j < to && styles[j] === styles[i]; ) j += 1;
      let inner = this.#marked(at, i, j);
      for (const style of type === "code" ? "" : styles[i]) inner = [el(STYLES[style], {}, ...inner)];
      nodes.push(...inner);
    }
    return nodes;
  }

  #marked(at, from, to) {
    const { kinds, characters } = this.content;
    const nodes = [];
    for (let i = from, j; i < to; i = j) {
      const kind = kinds[at[i]];
      const part = [];
      for (j = i; j < to && kinds[at[j]] === kind; j += 1) part.push(characters[at[j]]);
      nodes.push(kind ? el("mark", { class: NAMES[kind] }, part.join("")) : part.join(""));
    }
    return nodes;
  }
}

// Finds the run of units that together have the largest share of the score. Returns the first and the last of them.
function best(units) {
  const prose = units.findIndex(({ type }) => type === "prose");
  const start = prose < 0 ? units.findIndex(({ blank }) => !blank) : prose;
  let [found, most] = [[start, start], 0];
  units.forEach((first, i) => {
    if (!first.terms.size) return;
    const terms = new Map();
    let length = 0;
    for (let j = i; j < units.length; j += 1) {
      const unit = units[j];
      length += unit.to - unit.from;
      if (unit.type !== first.type || (unit.type === "code" && unit.block !== first.block)) break;
      if (j > i && (unit.type === "code" ? j - i >= LINES : length > LENGTH)) break;
      for (const [term, share] of unit.terms) terms.set(term, share);
      const share = [...terms.values()].reduce((sum, one) => sum + one, 0) * (unit.type === "code" ? PROSE_FIRST : 1);
      if (share > most + 1e-9) [found, most] = [[i, j], share];
    }
  });
  return found;
}

// A document's text and its important parts, by the rules of index/search/highlight.py.
// Places are counted in code points, as in Python, not in JavaScript's UTF-16 units.

import { el } from "./dom.js";

const EXPANSION = 1;
const MATCH = 2; // where kinds overlap, the larger number wins
export const NAMES = { [EXPANSION]: "expansion", [MATCH]: "match" };

export class Content {
  constructor(title, text, terms = []) {
    this.characters = Array.from(title ? `${title} ${text}` : text);
    this.body = title ? Array.from(title).length + 1 : 0; // where the text begins
    this.kinds = new Uint8Array(this.characters.length);
    this.places = terms.filter(({ marked }) => marked).flatMap(({ term, share, spans, origin }) => [
      ...spans.map((span) => this.#place(span, term, share, MATCH)),
      ...(origin ? [this.#place(origin, term, share, EXPANSION)] : []),
    ]);
    this.places.sort((a, b) => a.start - b.start || a.end - b.end);
    for (const kind of [EXPANSION, MATCH]) {
      for (const { start, end } of this.places.filter((place) => place.kind === kind)) this.kinds.fill(kind, start, end);
    }
    // An origin that overlaps a match counts as a match.
    const matched = this.kinds.slice();
    for (const { start, end, kind } of this.places) {
      if (kind === EXPANSION && matched.subarray(start, end).includes(MATCH)) this.kinds.fill(MATCH, start, end);
    }
  }

  // Extends a place over combining characters (accents, for instance) after its last letter.
  #place([start, end], term, share, kind) {
    while (end < this.characters.length && /\p{M}/u.test(this.characters[end])) end += 1;
    return { start, end, term, share, kind };
  }

  slice(start, end) {
    return this.characters.slice(start, end).join("");
  }

  title() {
    return this.nodes(0, Math.max(0, this.body - 1));
  }

  // A part of the content, with important parts in <mark>, and an ellipsis where text is left out.
  nodes(start, end, cut = false) {
    const nodes = cut && start > this.body ? ["… "] : [];
    for (let from = start, to; from < end; from = to) {
      const kind = this.kinds[from];
      to = from + 1;
      while (to < end && this.kinds[to] === kind) to += 1;
      const part = this.slice(from, to);
      nodes.push(kind ? el("mark", { class: NAMES[kind] }, part) : part);
    }
    return cut && end < this.characters.length ? [...nodes, " …"] : nodes;
  }

  // The part of the text, of about the given length, whose terms have the largest share of the score.
  best(length) {
    const { body } = this;
    const all = this.characters.length;
    const places = this.places.filter(({ start }) => start >= body);
    const [from, to] = bestPart(places, all - body, length, body);
    return widened(from, to, body, all, length, (at) => /\s/.test(this.slice(at - 1, at + 1)));
  }
}

// Finds the part of at most the given length whose places have the largest total share; each term counts once. Returns
// where the first place starts and where the last place ends.
export function bestPart(places, size, length, first = 0) {
  if (size <= length) return [first, first + size];
  let [from, to, most] = [first, first, 0];
  places.forEach((begin, i) => {
    const shares = new Map();
    let last = begin.end;
    for (let j = i; j < places.length && places[j].start < begin.start + length; j += 1) {
      if (places[j].end > begin.start + length) continue;
      shares.set(places[j].term, places[j].share);
      last = Math.max(last, places[j].end);
    }
    const share = [...shares.values()].reduce((sum, one) => sum + one, 0);
    if (share > most + 1e-9) [from, to, most] = [begin.start, last, share];
  });
  return [from, to];
}

// Extends a part on both sides up to a length, without cutting words if there are spaces.
export function widened(from, to, least, most, length, isBetween) {
  if (most - least <= length) return [least, most];
  const spare = Math.max(0, length - (to - from));
  const start = Math.max(least, Math.min(from - Math.floor(spare / 2), most - length));
  const end = Math.min(most, start + length);
  const between = (at) => at === least || at === most || isBetween(at);
  let [first, last] = [start, end];
  while (first < from && !between(first)) first += 1;
  while (last > Math.max(to, start + 1) && !between(last)) last -= 1;
  return [between(first) ? first : start, between(last) ? last : end];
}

// A document's text as blocks: prose, headings, items and code, without the markup of Markdown and reStructuredText.
// A block consists of runs, which are ranges of the text with a style. Content of documents never becomes HTML.

const CODE = /\.(bash|cc?|cfg|clj|cpp|cs|cxx|dart|el|ex|exs|f90|fs|go|gradle|hh?|hpp|hs|ini|java|jl|js|json|jsx|kts?|lisp|lua|m|mjs|ml|php|pl|proto|ps1|pxd|pyx?|pyi|r|rb|rs|scala|scm|sh|sol|sql|swift|tcl|tf|toml|tsx?|vim|vue|ya?ml|zig|zsh)$/i;
const LONG = 5000; // characters; parsing marks takes quadratic time, so longer parts aren't parsed
const MARKDOWN = /\.(md|markdown|mdx|qmd|rmd|ipynb)$/i;
const RST = /\.(rst|rest)$/i;
const LOOKS_LIKE_MARKDOWN = /^ {0,3}(#{1,6} \S|```|~~~)|\[[^\]\n]+\]\([^)\s]+\)|\*\*[^\s*][^*\n]*\*\*/m;
const FENCE = /^\s*(`{3,}|~{3,})/;
const ITEM = /^\s*([-*+•]|\d{1,3}[.)]|#\.)\s+/;
const UNDERLINE = /^([=\-~^"'`#*+.:_])\1{2,}\s*$/;
const DIRECTIVE = /^\s*\.\. ?([\w:.-]+)::\s*/;
const LISTINGS = ["code", "code-block", "sourcecode", "parsed-literal", "literalinclude", "doctest", "math"];
// Lines that only a site generator reads.
const COMMANDS = /^\s*(\/{3,}( .*)?|:{3,}.*|[!?]{3}\+? .*|\{[*%{].*[*%}]\}|<!--.*-->|\[[^\]]+\]: *\S+.*|([-*_] *){3,}|-+8<-+.*|\[TOC\])\s*$/;

// The format of a text, by its file name or its content.
export function kindOf(names, text) {
  for (const name of names) {
    if (MARKDOWN.test(name)) return "markdown";
    if (RST.test(name)) return "rst";
    if (CODE.test(name)) return "code";
  }
  return LOOKS_LIKE_MARKDOWN.test(text) ? "markdown" : "plain";
}

// Blocks, each {type, level, runs}: type is "prose", "heading", "item" or "code"; runs are [{start, end, style}] in
// UTF-16 units. A style consists of any of the letters b, i and c (bold, italic, code).
export function blocksOf(text, kind) {
  if (kind === "code") return text.trim() ? [{ type: "code", runs: [trimmed(text, 0, text.length)] }] : [];
  const lines = [];
  for (let start = 0; start <= text.length; ) {
    const newline = text.indexOf("\n", start);
    const end = newline < 0 ? text.length : newline;
    lines.push({ start, end, text: text.slice(start, end) });
    start = end + 1;
  }
  const found = [];
  let open = null; // the block that the next line may belong to
  const begin = (type, start, end, level) => found.push((open = { type, level, parts: [{ start, end }] }));
  const close = () => (open = null);
  const listing = (i, isInside) => {
    const first = i;
    while (i < lines.length && isInside(lines[i].text)) i += 1;
    const run = i > first && trimmed(text, lines[first].start, lines[i - 1].end);
    if (run && run.end > run.start) found.push({ type: "code", runs: [run] });
    close();
    return i;
  };
  const indented = (i) => {
    while (i < lines.length && /^(\s*|\s+:[\w-]+:.*)$/.test(lines[i].text)) i += 1;
    return listing(i, (line) => !line.trim() || /^\s/.test(line));
  };
  const cut = kind === "markdown" ? closingFence(lines) : -1;
  for (let i = cut < 0 ? 0 : listing(0, (line) => line !== lines[cut].text) + 1; i < lines.length; ) {
    const { start, end, text: line } = lines[i];
    const next = lines[i + 1]?.text ?? "";
    const fence = kind === "markdown" && FENCE.exec(line);
    const directive = kind === "rst" && DIRECTIVE.exec(line);
    const heading = kind === "markdown" && /^ {0,3}(#{1,6})\s+/.exec(line);
    const item = ITEM.exec(line);
    if (!line.trim()) {
      close();
    } else if (kind === "plain") {
      if (open) open.parts[0].end = end;
      else begin("prose", start, end);
    } else if (fence) {
      const closing = (one) => one.trim().startsWith(fence[1]) && !one.trim().replaceAll(fence[1][0], "");
      i = listing(i + 1, (one) => !closing(one));
    } else if (directive) {
      close();
      if (LISTINGS.includes(directive[1])) {
        i = indented(i + 1);
        continue;
      }
      if (directive[0].length < line.length && !/^(image|figure|toctree|include|contents|index|raw)$/.test(directive[1])) {
        begin("prose", start + directive[0].length, end);
      }
    } else if (kind === "rst" && /^\s*\.\.( |$)|^\s*:[\w-]+:( |$)/.test(line)) {
      close(); // a comment, a target, or an option
    } else if (heading) {
      const shown = line.replace(/\s*(\{[^{}]*\})?\s*#*\s*$/, "");
      begin("heading", start + heading[0].length, start + shown.length, heading[1].length);
      close();
    } else if (UNDERLINE.test(line) && open?.type === "prose" && !text.slice(open.parts[0].start, start - 1).includes("\n")) {
      Object.assign(open, { type: "heading", level: 2 });
      close();
    } else if (COMMANDS.test(line) || (kind === "rst" && UNDERLINE.test(line))) {
      close();
    } else if (kind === "markdown" && /^\s*\|?(\s*:?-{2,}:?\s*\|)+\s*(:?-{2,}:?)?\s*$/.test(line)) {
      // The line between the head of a table and its body isn't shown.
    } else if (kind === "markdown" && /^\s*\|.*\|\s*$/.test(line)) {
      close();
      begin("prose", start, end);
      close();
    } else if (!open && !item && /^( {4}|\t)/.test(line) && kind === "markdown") {
      i = listing(i, (one) => !one.trim() || /^( {4}|\t)/.test(one));
      continue;
    } else if (item && (open?.type !== "prose" || /^\s*[-*+•]/.test(line) || /^\s*1[.)]/.test(line))) {
      begin("item", start + item[0].length, end);
    } else {
      const quote = kind === "markdown" ? /^\s*(>\s?)*/.exec(line)[0].length : /^\s*/.exec(line)[0].length;
      const last = open?.parts.at(-1);
      if (!open) begin("prose", start + quote, end);
      else if (!quote) last.end = end;
      else {
        last.end += 1; // include the line break between the parts
        open.parts.push({ start: start + quote, end });
      }
    }
    if (kind === "rst" && open && /::\s*$/.test(line) && !next.trim()) {
      open.parts.at(-1).end -= /::\s*$/.exec(line)[0].length - 1;
      i = indented(i + 1);
      continue;
    }
    i += 1;
  }
  for (const block of found) block.runs ??= block.parts.flatMap((part) => inline(text, part, kind, ""));
  return found.filter(({ runs }) => runs.some(({ start, end }) => text.slice(start, end).trim()));
}

// If a passage begins within a code block, returns the line of the fence that closes the block, else -1. Only opening
// fences may name a language.
function closingFence(lines) {
  const fences = lines.filter(({ text }) => FENCE.test(text));
  const isBare = (line) => /^\s*(`+|~+)\s*$/.test(line.text);
  let inside = false;
  let wrong = false; // whether reading the first fence as an opening fence leads to nested code or to unclosed code
  for (const fence of fences) {
    wrong ||= inside && !isBare(fence);
    inside = isBare(fence) ? !inside : true;
  }
  wrong ||= inside && isBare(fences.at(-1));
  return wrong && isBare(fences[0]) ? lines.indexOf(fences[0]) : -1;
}

// Removes empty lines at both ends of a range.
function trimmed(text, start, end) {
  const part = text.slice(start, end);
  const lead = /^(\s*\n)?/.exec(part)[0].length;
  return { start: start + lead, end: start + Math.max(lead, part.trimEnd().length), style: "c" };
}

const INLINE = {
  markdown: [
    [/(`+)(?!`)([\s\S]*?[^`])\1(?!`)/y, "c"],
    [/!?\[((?:[^[\]\\]|\\.|\[[^\]]*\])*)\](?:\((?:[^()\s]|\([^()]*\))*(?:\s+"[^"]*")?\)|\[[^\]]*\])(?:\{[^{}]*\})?/y, ""],
    [/<(https?:\/\/[^<>\s]+)>/y, ""],
    [/<\/?[a-zA-Z][^<>]*>|<!--[\s\S]*?-->|\[\^[^\]\s]+\]:?|\{[.:#][^{}]*\}|\{ *#[^{}]*\}/y, null],
    [/\\([!-/:-@[-`{-~])/y, ""],
    [/\*\*(?=\S)([\s\S]*?\S)\*\*/y, "b"],
    [/(?<!\w)__(?=\S)([\s\S]*?\S)__(?!\w)/y, "b"],
    [/~~(?=\S)([\s\S]*?\S)~~/y, ""],
    [/\*(?=[^\s*])([^*]*?[^\s*])\*(?!\*)/y, "i"],
    [/(?<!\w)_(?=[^\s_])([^_]*?[^\s_])_(?!\w)/y, "i"],
    [/\|/y, null],
  ],
  rst: [
    [/``([\s\S]+?)``/y, "c"],
    [/:[\w:.+-]+:`(?:[~!])?([^`<]+?)(?:\s*<[^`<>]*>)?`/y, "c"],
    [/`([^`<]+?)(?:\s*<[^`<>]*>)?`__?/y, ""],
    [/`([^`]+)`/y, "i"],
    [/\*\*(?=\S)([\s\S]*?\S)\*\*/y, "b"],
    [/\*(?=[^\s*])([^*]*?[^\s*])\*(?!\*)/y, "i"],
    [/(?<!\w)\|(\w[\w -]*)\|_{0,2}/y, ""],
    [/\\([!-/:-@[-`{-~])/y, ""],
  ],
};
const MAY_BEGIN = { markdown: /[`![<{\\*_~|]/g, rst: /[`:*|\\]/g };

// Parses a part of a block into runs; the marks around a run give its style.
function inline(text, { start, end }, kind, style) {
  if (kind === "plain" || end - start > LONG) return end > start ? [{ start, end, style }] : [];
  const runs = [];
  let from = start;
  const add = (to) => to > from && runs.push({ start: from, end: to, style });
  const within = text.slice(0, end);
  for (let at = start; at < end; ) {
    const may = MAY_BEGIN[kind];
    may.lastIndex = at;
    const candidate = may.exec(within);
    if (!candidate) break;
    at = candidate.index;
    let matched = false;
    for (const [pattern, inner] of INLINE[kind]) {
      pattern.lastIndex = at;
      const found = pattern.exec(within);
      if (!found) continue;
      add(at);
      const content = found.at(-1);
      if (inner !== null && content) {
        const first = at + (inner === "c" && kind === "markdown" ? found[1].length : found[0].indexOf(content));
        const part = { start: first, end: first + content.length };
        if (inner === "c" || found[0][0] === "\\") runs.push({ ...part, style: style + inner });
        else runs.push(...inline(text, part, kind, style + inner));
      }
      at = from = at + found[0].length;
      matched = true;
      break;
    }
    if (!matched) at += 1;
  }
  add(end);
  return runs;
}

// Converts places from UTF-16 units to code points, because Python counts in code points.
export function codePoints(text) {
  if (!/[\ud800-\udfff]/.test(text)) return (at) => at;
  const points = new Uint32Array(text.length + 1);
  let point = 0;
  for (let at = 0; at < text.length; ) {
    const step = text.codePointAt(at) > 0xffff ? 2 : 1;
    points.fill(point, at, at + step);
    point += 1;
    at += step;
  }
  points[text.length] = point;
  return (at) => points[at];
}

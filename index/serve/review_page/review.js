// Shows one document after the other: y and n answer, b goes back to the previous one. The server saves every answer.

import { call } from "./api.js";
import { count, some } from "./dom.js";

const by = (id) => document.getElementById(id);
let shown = null; // the server's latest response
let busy = false;

function show(state) {
  shown = state;
  const { document: one, read, total, found, why, answer } = state;
  by("progress").textContent = `${count(found)} relevant among ${count(read)} read, of ${some(total, "document")}`;
  by("done").hidden = Boolean(one);
  by("done").textContent = one ? "" : `The review is complete: ${why}. The server can be stopped.`;
  by("document").hidden = !one;
  if (one) {
    by("title").textContent = one.title || one.id;
    by("text").textContent = one.text;
    const known = answer === null ? "" : `, answered: ${answer ? "relevant" : "not relevant"}`;
    by("about").textContent = `${one.title ? one.id : "Document"}${known}`;
    scrollTo(0, 0);
    by("title").focus({ preventScroll: true }); // screen readers read the new document
  }
  for (const [id, value] of [["yes", true], ["no", false]]) {
    by(id).disabled = !one;
    by(id).setAttribute("aria-pressed", String(answer === value));
  }
  by("back").disabled = !state.back;
}

async function ask(path, body) {
  if (busy) return;
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    show(await call(path, body));
    by("problem").hidden = true;
  } catch (problem) {
    by("problem").textContent = [problem.message, problem.detail].filter(Boolean).join(": ");
    by("problem").hidden = false;
  }
  busy = false;
  document.body.removeAttribute("aria-busy");
}

const judge = (relevant) => shown?.document && ask("v1/review", { id: shown.document.id, relevant });
const back = () => shown?.back && ask("v1/review/back", { id: shown.document?.id ?? null });

by("yes").addEventListener("click", () => judge(true));
by("no").addEventListener("click", () => judge(false));
by("back").addEventListener("click", back);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const action = { y: () => judge(true), n: () => judge(false), b: back }[event.key.toLowerCase()];
  if (action) {
    event.preventDefault();
    action();
  }
});
ask("v1/review");

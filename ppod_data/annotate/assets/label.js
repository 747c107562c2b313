"use strict";
// One question at a time: shown, answered, kept by the server, and only then the next.
const at = (id) => document.getElementById(id);
const RETRY = 1000; // milliseconds
const PATIENCE = 15000; // after which what did not come is asked for again
let annotator = localStorage.getItem("annotator") || "";
let turn = null; // what the server asked
let busy = false;
let focused = null; // what had the focus when an answer was given: it has it again in the next question
const PAUSE = 250; // milliseconds in which a new question takes no answer: a key pressed once more is meant for the last one

async function send(path, body) {
  for (;;) {
    try {
      const answer = await fetch(path, {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ annotator, ...body }),
        signal: AbortSignal.timeout(PATIENCE),
      });
      const told = await answer.json().catch(() => ({ error: answer.statusText }));
      if (answer.ok) { trouble(""); return told; }
      if (answer.status === 409) {
        trouble(told.error);
        return told;
      }
      if (answer.status < 500) { trouble(told.error); return null; }
      trouble(told.error);
    } catch {
      trouble("No connection. The page sends your last answer again until it is saved.");
    }
    await new Promise((go) => setTimeout(go, RETRY));
  }
}

async function act(path, body) {
  if (busy) return;
  busy = true;
  const next = await send(path, body);
  busy = false;
  if (next || turn) show(next || turn); else ask_name();
}

function show(next) {
  turn = next;
  at("enter").hidden = true;
  at("progress").hidden = false;
  at("progress").max = Math.max(1, turn.wanted);
  at("progress").value = turn.done;
  name_shown();
  const over = turn.prompt === null;
  at("ask").hidden = over;
  at("end").hidden = !over;
  document.body.classList.toggle("asking", !over);
  for (const undo of [at("undo"), at("undo-end")]) undo.disabled = turn.number === 0;
  if (over) {
    at("ended").textContent = `There is nothing left to compare. You answered ${turn.number}.`;
    return;
  }
  at("prompt").textContent = turn.prompt;
  const count = turn.shown.length;
  const images = at("images");
  images.className = "waiting";
  images.replaceChildren(...turn.shown.map(choice));
  arrange();
  at("keys").textContent = count === 2
    ? "Keys: ← or 1, → or 2, T no difference, S skip, Z back" : `Keys: 1 to ${count}, T no difference, S skip, Z back`;
  enable(false);
  const asked = turn;
  const loads = [...images.querySelectorAll("img")].map(loaded);
  Promise.all(loads).then(() => {
    if (turn !== asked) return;
    images.classList.remove("waiting");
    arrange();
    setTimeout(() => {
      if (turn !== asked) return;
      enable(true);
      if (focused) focused().focus({ preventScroll: true });
      focused = null;
      document.body.dataset.ready = String(turn.number);
    }, PAUSE);
  }, () => {
    if (turn !== asked) return;
    trouble("An image could not be loaded. The page tries again.");
    // The whole question: a server that was started again has no image in memory until it asks.
    setTimeout(() => { if (turn === asked) act("/api/next", {}); }, RETRY);
  });
}

// As many columns as make the images largest in the room that is left.
function arrange() {
  const images = at("images");
  const count = images.children.length;
  const first = images.querySelector("img");
  if (!first) return;
  const aspect = first.naturalWidth ? first.naturalWidth / first.naturalHeight : 1;
  const size = (columns) => {
    const rows = Math.ceil(count / columns);
    return Math.min(images.clientWidth / columns - 14, (images.clientHeight / rows - 32) * aspect);
  };
  let best = 1;
  for (let columns = 2; columns <= count; columns++) if (size(columns) > size(best)) best = columns;
  images.style.setProperty("--columns", best);
  images.style.setProperty("--rows", Math.ceil(count / best));
}

function loaded(image) { // not decode(): it waits for a frame to be drawn, which may never come
  return new Promise((found, failed) => {
    image.addEventListener("load", found);
    image.addEventListener("error", failed);
    setTimeout(failed, PATIENCE);
  });
}

function choice(id, place) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  const key = document.createElement("kbd");
  button.className = "choice";
  image.src = `/image/${id}`;
  image.alt = `image ${place + 1} of ${turn.shown.length}`;
  key.textContent = String(place + 1);
  button.append(image, key);
  button.addEventListener("click", () => answer(place));
  return button;
}

function enable(ready) {
  for (const button of document.querySelectorAll(".choice, #tie, #skip")) button.disabled = !ready;
}

function answer(said) {
  if (busy || !turn || turn.prompt === null || at("tie").disabled) return;
  focused = place_of(document.activeElement);
  enable(false);
  if (typeof said === "number") at("images").children[said].classList.add("chosen");
  delete document.body.dataset.ready;
  act("/api/answer", { number: turn.number, shown: turn.shown, answer: said, ticket: turn.ticket });
}

function place_of(element) {
  const index = [...at("images").children].indexOf(element);
  if (index >= 0) return () => at("images").children[index] ?? document.body;
  return at("others").contains(element) ? () => element : null;
}

function undo() {
  if (turn && turn.number > 0) act("/api/undo", { number: turn.number });
}

function trouble(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = !text;
}

function name_shown() {
  const change = document.createElement("button");
  change.textContent = "not you?";
  change.addEventListener("click", () => { localStorage.removeItem("annotator"); location.reload(); });
  at("who").replaceChildren(`${annotator}, ${turn.number} answered · ${turn.done} of ${turn.wanted} by all · `, change);
}

function ask_name() {
  at("enter").hidden = false;
  at("name").value = annotator;
  at("name").focus();
}

at("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  annotator = at("name").value.trim();
  if (!annotator) return;
  localStorage.setItem("annotator", annotator);
  act("/api/next", {});
});
at("tie").addEventListener("click", () => answer("tie"));
at("skip").addEventListener("click", () => answer("skip"));
at("undo").addEventListener("click", undo);
at("undo-end").addEventListener("click", undo);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !at("enter").hidden || at("how").open || !turn) return;
  const key = event.key.toLowerCase();
  const count = turn.shown.length;
  const arrows = count === 2 ? { arrowleft: 0, arrowright: 1 } : {};
  const place = key in arrows ? arrows[key] : /^[1-9]$/.test(key) && Number(key) <= count ? Number(key) - 1 : null;
  if (place !== null) answer(place);
  else if (key === "t") answer("tie");
  else if (key === "s") answer("skip");
  else if (key === "z") undo();
  else return;
  event.preventDefault();
});
at("help").addEventListener("click", () => at("how").showModal());
new ResizeObserver(arrange).observe(at("images"));
fetch("/api/page").then((answer) => answer.json()).then((page) => {
  at("title").textContent = page.title;
  document.title = `ppod: ${page.question}`;
  for (const one of document.querySelectorAll(".question")) one.textContent = page.question;
  for (const one of document.querySelectorAll(".instructions")) one.textContent = page.instructions;
}).catch(() => {});
if (annotator) act("/api/next", {}); else ask_name();

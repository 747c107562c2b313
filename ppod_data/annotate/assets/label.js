"use strict";
// The page shows the next question once the server has kept the answer.
const at = (id) => document.getElementById(id);
const RETRY_DELAY = 1000; // milliseconds
const TIMEOUT = 15000; // milliseconds until a request or an image counts as failed
let annotator = localStorage.getItem("annotator") || "";
let current = null; // the question that the page shows
let busy = false;
let ready = false; // false while images load, and for PAUSE after they are there
const PAUSE = 250; // milliseconds without answers to a new question; a repeated key press is meant for the last question

async function send(path, body) {
  for (;;) {
    try {
      const response = await fetch(path, {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ annotator, ...body }),
        signal: AbortSignal.timeout(TIMEOUT),
      });
      const reply = response.ok ? await response.json() // fails if the server is killed between headers and body
        : await response.json().catch(() => ({ error: `${response.status} ${response.statusText}` }));
      if (response.ok) { showError(""); return reply; }
      if (response.status === 409) {
        showError(reply.error);
        return reply;
      }
      if (response.status === 403) { // the address, opened in another tab, lets this request pass
        showError(`No access: ${reply.error}. The page sends your last answer again until it is saved.`);
      } else {
        showError(reply.error);
        if (response.status < 500) return null;
      }
    } catch {
      showError("No connection. The page sends your last answer again until it is saved.");
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_DELAY));
  }
}

async function act(path, body) {
  if (busy) return;
  busy = true;
  const next = await send(path, body);
  busy = false;
  if (next || current) show(next || current); else askName();
}

function show(next) {
  current = next;
  at("enter").hidden = true;
  at("progress").hidden = false;
  at("progress").max = Math.max(1, current.wanted);
  at("progress").value = current.done;
  showName();
  const finished = current.prompt === null;
  at("ask").hidden = finished;
  at("end").hidden = !finished;
  document.body.classList.toggle("asking", !finished);
  for (const undo of [at("undo"), at("undo-end")]) undo.disabled = current.number === 0;
  enable(false);
  const requested = current;
  if (finished) {
    at("images").replaceChildren();
    at("ended").textContent = `There is nothing left to compare. You answered ${current.number}.`;
    pauseBefore(requested);
    return;
  }
  at("prompt").textContent = current.prompt;
  const count = current.shown.length;
  const images = at("images");
  images.className = "waiting";
  images.replaceChildren(...current.shown.map(choiceButton));
  arrange();
  at("keys").textContent = count === 2
    ? "Keys: ← or 1, → or 2, T no difference, S skip, Z back" : `Keys: 1 to ${count}, T no difference, S skip, Z back`;
  const loads = [...images.querySelectorAll("img")].map(whenLoaded);
  Promise.all(loads).then(() => {
    if (current !== requested) return;
    images.classList.remove("waiting");
    arrange();
    pauseBefore(requested);
  }, () => {
    if (current !== requested) return;
    showError("An image could not be loaded. The page tries again.");
    // Request the whole question: a restarted server loads images only with their question.
    setTimeout(() => { if (current === requested) act("/api/next", {}); }, RETRY_DELAY);
  });
}

// Accept answers to a question after a pause, unless the page shows another question by then.
function pauseBefore(requested) {
  setTimeout(() => {
    if (current !== requested) return;
    enable(true);
    keepFocus();
    document.body.dataset.ready = String(current.number);
  }, PAUSE);
}

// Return the focus to where it was before the images were replaced or the page was reloaded; else to the heading.
function keepFocus() {
  if (at("how").open || document.activeElement !== document.body) return;
  const options = { preventScroll: true };
  at(sessionStorage.getItem("focus") || "prompt")?.focus(options);
  if (document.activeElement === document.body) at(current.prompt === null ? "thanks" : "prompt").focus(options);
}

// Choose the number of columns with the largest images.
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
  at("prompt").tabIndex = at("prompt").scrollHeight > at("prompt").clientHeight ? 0 : -1; // to scroll it by keys
  let best = 1;
  for (let columns = 2; columns <= count; columns++) if (size(columns) > size(best)) best = columns;
  images.style.setProperty("--columns", best);
  images.style.setProperty("--rows", Math.ceil(count / best));
}

function whenLoaded(image) { // decode() could wait forever, for a frame that is never drawn
  return new Promise((resolve, reject) => {
    image.addEventListener("load", resolve);
    image.addEventListener("error", reject);
    setTimeout(reject, TIMEOUT);
  });
}

function choiceButton(id, index) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  const key = document.createElement("kbd");
  button.className = "choice";
  button.id = `choice-${index + 1}`;
  image.src = `/image/${id}`;
  image.alt = `image ${index + 1} of ${current.shown.length}`;
  key.textContent = String(index + 1);
  button.append(image, key);
  button.addEventListener("click", () => answer(index));
  return button;
}

function enable(now) {
  ready = now;
  if (!ready) delete document.body.dataset.ready;
  for (const button of document.querySelectorAll(".choice, #tie, #skip")) button.disabled = !ready;
}

function answer(choice) {
  if (busy || !ready || current.prompt === null) return;
  enable(false);
  if (typeof choice === "number") at("images").children[choice].classList.add("chosen");
  act("/api/answer", { number: current.number, shown: current.shown, answer: choice, ticket: current.ticket });
}

function undo() {
  if (busy || !ready || current.number === 0) return;
  enable(false);
  act("/api/undo", { number: current.number });
}

function showError(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = !text;
}

function showName() {
  const change = document.createElement("button");
  change.textContent = "not you?";
  change.addEventListener("click", () => { localStorage.removeItem("annotator"); location.reload(); });
  at("who").replaceChildren(`${annotator}, ${current.number} answered · ${current.done} of ${current.wanted} by all · `, change);
}

function askName() {
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
  if (event.repeat && event.key === "Enter" && current) event.preventDefault(); // a held key would click again and again
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !at("enter").hidden || at("how").open || !current) return;
  const key = event.key.toLowerCase();
  const count = current.shown.length;
  const arrows = count === 2 ? { arrowleft: 0, arrowright: 1 } : {};
  const index = key in arrows ? arrows[key] : /^[1-9]$/.test(key) && Number(key) <= count ? Number(key) - 1 : null;
  if (index !== null) answer(index);
  else if (key === "t") answer("tie");
  else if (key === "s") answer("skip");
  else if (key === "z") undo();
  else return;
  event.preventDefault();
});
document.addEventListener("focusin", (event) => sessionStorage.setItem("focus", event.target.id));
at("help").addEventListener("click", () => at("how").showModal());
new ResizeObserver(arrange).observe(at("images"));
fetch("/api/page").then((response) => response.json()).then((page) => {
  at("title").textContent = page.title;
  document.title = `ppod: ${page.question}`;
  for (const element of document.querySelectorAll(".question")) element.textContent = page.question;
  for (const element of document.querySelectorAll(".instructions")) element.textContent = page.instructions;
}).catch(() => {});
if (annotator) act("/api/next", {}); else askName();

"use strict";

// The sample browser: everything that is shown comes from the page's JSON, and gets into the page as text.
const make = (name, values = {}, ...children) => {
  const element = Object.assign(document.createElement(name), values);
  element.append(...children);
  return element;
};
// form is [digits, whether they are of a power of ten]; more is a number of further digits.
const number = (value, [digits, isPower] = [2, false], more = 0) =>
  value === null || value === undefined ? "–"
    : (isPower ? value.toExponential(digits + more) : value.toFixed(digits + more))
      .replace(/^-(?=0(\.0*)?(e|$))/, "").replace("e+", "e").replaceAll("-", "−");

for (const browser of document.querySelectorAll(".browser")) {
  const { scores, forms, margins, prompts, images, pairs, aspect } = JSON.parse(browser.querySelector("script").textContent);
  const controls = browser.querySelector(".controls");
  const shown = browser.querySelector(".shown");
  const STEP = 120; // tiles at a time
  const seen = new Set(); // flagged images that were asked for
  const state = { view: "samples", prompt: -1, score: 0, low: null, high: null, order: "prompt", pairs: Object.keys(pairs)[0], limit: STEP };

  const picture = (image) => {
    const shown = make("img", { src: image.src, alt: prompts[image.prompt], loading: "lazy", style: `aspect-ratio:${aspect}` });
    if (image.damaged) return make("small", { className: "damaged", textContent: image.damaged, style: `aspect-ratio:${aspect}` });
    if (image.flagged && !seen.has(image.id)) Object.assign(shown, { className: "flagged", alt: "flagged by the safety checker", title: "flagged by the safety checker: click to see it" });
    return shown;
  };
  // The first click on a flagged image shows it everywhere; true where this was that click.
  const unveiled = (image) => {
    if (!image.flagged || seen.has(image.id)) return false;
    seen.add(image.id);
    show();
    return true;
  };
  const scoreOf = (image) => (scores.length ? image.scores[state.score] : null);
  const scoreText = (image) => (scores.length ? number(scoreOf(image), forms[state.score]) : "");

  // One image, large, with all that is known about it.
  const dialog = make("dialog");
  browser.append(dialog);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  let turn = () => {};
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  const open = (list, at) => {
    const image = list[at];
    const rows = [["sample_id", image.id], ["image_index", image.k], ...(image.flagged ? [["flagged", "by the model's safety checker"]] : []), ...scores.map((name, i) => [name, number(image.scores[i], forms[i], 1)])];
    const table = make("table", {}, make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((text) => make("td", { textContent: text }))))));
    turn = (by) => open(list, (at + by + list.length) % list.length);
    const large = picture(image);
    large.onclick = () => { if (unveiled(image)) open(list, at); };
    dialog.replaceChildren(
      large,
      make("h4", { className: "prompt", textContent: prompts[image.prompt] }),
      table,
      make("div", { className: "turn" },
        make("button", { textContent: "‹ back", onclick: () => turn(-1) }),
        make("button", { textContent: "next ›", onclick: () => turn(1) }),
        make("button", { textContent: "close", onclick: () => dialog.close() })));
    if (!dialog.open) dialog.showModal();
  };

  const inRange = (value) =>
    (state.low === null || (value !== null && value >= state.low)) && (state.high === null || (value !== null && value <= state.high));
  const wanted = (image) => (state.prompt < 0 || image.prompt === state.prompt) && inRange(scoreOf(image));

  const showSamples = () => {
    const list = images.filter(wanted);
    const ends = { best: -Infinity, worst: Infinity };
    const key = (image) => scoreOf(image) ?? ends[state.order];
    if (state.order === "best") list.sort((a, b) => key(b) - key(a));
    if (state.order === "worst") list.sort((a, b) => key(a) - key(b));
    const tile = (image, at) => {
      const button = make("button", { className: "sample", type: "button", title: prompts[image.prompt], onclick: () => { if (!unveiled(image)) open(list, at); } });
      const score = make("b", { textContent: scoreText(image) });
      button.append(picture(image), make("span", {}, score, make("i", { textContent: `k ${image.k}`, style: "font-style:normal" })));
      return button;
    };
    const parts = [];
    if (state.order === "prompt") {
      let grid = null, last = -1;
      list.slice(0, state.limit).forEach((image, at) => {
        if (image.prompt !== last) {
          const of = list.filter((other) => other.prompt === image.prompt).length;
          grid = make("div", { className: "grid-of-samples" });
          parts.push(make("h4", { className: "prompt" }, prompts[image.prompt], make("small", { textContent: `${of} shown` })), grid);
          last = image.prompt;
        }
        grid.append(tile(image, at));
      });
    } else {
      parts.push(make("div", { className: "grid-of-samples" }, ...list.slice(0, state.limit).map(tile)));
    }
    return [list.length, "images", parts];
  };

  const showPairs = () => {
    const list = pairs[state.pairs].filter(([a, b]) => wanted(images[a]) && wanted(images[b]));
    if (state.order !== "prompt") list.sort((a, b) => (state.order === "best" ? 1 : -1) * ((b[3] ?? 0) - (a[3] ?? 0)));
    const half = (pair, side) => {
      const image = images[pair[side]];
      const button = make("button", { className: side ? "half" : "half chosen", type: "button", onclick: () => { if (!unveiled(image)) open([images[pair[0]], images[pair[1]]], side); } });
      button.append(picture(image), make("span", {}, make("b", { textContent: side ? "rejected" : "✓ chosen" }), make("i", { textContent: scoreText(image), style: "font-style:normal" })));
      return button;
    };
    const card = (pair) => {
      const [, , label, margin, source, votes] = pair;
      const facts = [label === 1 ? null : `label ${number(label)}`, margin === null ? null : `margin ${number(margin, margins[state.pairs])}`, votes === null ? null : `${votes} votes`, source];
      return make("div", { className: "pair" },
        make("p", { className: "prompt", textContent: prompts[images[pair[0]].prompt] }),
        make("div", { className: "sides" }, half(pair, 0), half(pair, 1)),
        make("small", { textContent: facts.filter((fact) => fact !== null).join(", ") }));
    };
    return [list.length, "pairs", [make("div", { className: "grid-of-pairs" }, ...list.slice(0, state.limit).map(card))]];
  };

  const show = () => {
    const [count, what, parts] = state.view === "pairs" ? showPairs() : showSamples();
    shown.replaceChildren(make("p", { className: "count", textContent: `${count} ${what}` }), ...parts);
    if (count > state.limit) {
      shown.append(make("button", { className: "more", textContent: "show more", onclick: () => { state.limit += STEP; show(); } }));
    }
  };
  const change = (key, value) => { state[key] = value; state.limit = STEP; show(); };

  const choice = (label, key, options, className = "") => {
    const select = make("select", { onchange: (event) => change(key, key === "pairs" || key === "order" ? event.target.value : Number(event.target.value)) },
      ...options.map(([value, text]) => make("option", { value, textContent: text })));
    return make("label", { className }, label, select);
  };
  const bound = (label, key) =>
    make("label", {}, label, make("input", { type: "number", step: "any", placeholder: "any", oninput: (event) => change(key, event.target.value === "" ? null : Number(event.target.value)) }));

  if (Object.keys(pairs).length) {
    const table = choice("pair table", "pairs", Object.keys(pairs).map((name) => [name, name]));
    table.hidden = true;
    const tabs = ["samples", "pairs"].map((view) => make("button", { type: "button", textContent: view }));
    tabs.forEach((tab) => {
      tab.onclick = () => {
        tabs.forEach((other) => other.setAttribute("aria-pressed", String(other === tab)));
        table.hidden = tab.textContent !== "pairs";
        change("view", tab.textContent);
      };
    });
    controls.append(make("div", { className: "tabs" }, ...tabs), table);
    tabs[0].setAttribute("aria-pressed", "true");
    tabs[1].setAttribute("aria-pressed", "false");
  }
  const byName = prompts.map((text, i) => [i, text.length > 90 ? `${text.slice(0, 89)}…` : text]);
  controls.append(choice("prompt", "prompt", [[-1, `all ${prompts.length} prompts`], ...byName], "wide"));
  if (scores.length) {
    controls.append(choice("score", "score", scores.map((name, i) => [i, name])), bound("from", "low"), bound("to", "high"));
    controls.append(choice("order", "order", [["prompt", "by prompt"], ["best", "highest first"], ["worst", "lowest first"]]));
  }
  show();
}

"use strict";

// Values under the pointer: data-hover is [[x in the chart's box, heading, [[colour, name, value], …]], …].
const tip = document.getElementById("tip");
for (const svg of document.querySelectorAll("svg[data-hover]")) {
  const columns = JSON.parse(svg.dataset.hover);
  const cursor = svg.querySelector(".cursor");
  const hide = () => { tip.hidden = true; cursor.style.visibility = "hidden"; };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const nearest = columns.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
    cursor.setAttribute("x1", nearest[0]);
    cursor.setAttribute("x2", nearest[0]);
    cursor.style.visibility = "visible";
    tip.replaceChildren(Object.assign(document.createElement("b"), { textContent: nearest[1] }));
    for (const [colour, name, value] of nearest[2]) {
      const row = document.createElement("div");
      row.className = "key";
      row.style.setProperty("--c", getComputedStyle(svg).getPropertyValue("--c" + colour));
      row.textContent = nearest[2].length > 1 ? name + "  " + value : value;
      tip.append(row);
    }
    tip.hidden = false;
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = Math.max(8, event.clientY - tip.offsetHeight - 12) + "px";
  });
  svg.addEventListener("pointerleave", hide);
}

// Sample grids: every tile is a window on its evaluation's contact sheet.
for (const viewer of document.querySelectorAll(".viewer")) {
  const { columns, rows, steps, first, kept } = JSON.parse(viewer.querySelector("script").textContent);
  const show = (which, step) => {
    for (const tile of viewer.querySelectorAll(`.tiles[data-which="${which}"] .tile`)) {
      const row = Number(tile.dataset.row);
      const column = Number(tile.dataset.column);
      tile.style.backgroundImage = `url(${step.sheet})`;
      tile.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
      tile.style.backgroundPosition = `${columns > 1 ? 100 * column / (columns - 1) : 0}% ${rows > 1 ? 100 * row / (rows - 1) : 0}%`;
      const correct = step.correct[row][column];
      tile.classList.toggle("right", correct === true);
      tile.classList.toggle("wrong", correct === false);
    }
  };
  const choose = (index) => {
    show("now", steps[index]);
    for (const label of viewer.querySelectorAll(".now")) label.textContent = steps[index].label;
    const output = viewer.querySelector("output");
    if (output) output.textContent = steps[index].label;
  };
  if (first) show("first", first);
  if (kept !== null) show("kept", steps[kept] || first);
  const slider = viewer.querySelector("input");
  if (slider) slider.addEventListener("input", () => choose(Number(slider.value)));
  choose(steps.length - 1);
}

// A link of the contents opens its part.
for (const link of document.querySelectorAll(".contents a")) {
  link.addEventListener("click", () => {
    const part = document.getElementById(link.hash.slice(1));
    if (part instanceof HTMLDetailsElement) part.open = true;
  });
}

// A sample is enlarged by a click, and closed by another one or Escape.
const zoom = document.createElement("dialog");
zoom.className = "zoom";
zoom.addEventListener("click", () => zoom.close());
document.body.append(zoom);
for (const tile of document.querySelectorAll(".viewer .tile")) {
  tile.tabIndex = 0;
  const enlarge = () => { zoom.replaceChildren(tile.cloneNode(true)); zoom.showModal(); };
  tile.addEventListener("click", enlarge);
  tile.addEventListener("keydown", (event) => { if (event.key === "Enter") enlarge(); });
}

// A click on a head of the table of runs sorts it, largest first, and again the other way round.
const cellValue = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const value = parseFloat(text.replace("\u2212", "-").replace(/[\s,+%]/g, ""));
  return Number.isNaN(value) ? text : value;
};
for (const table of document.querySelectorAll("table.sortable")) {
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const button = Object.assign(document.createElement("button"), { textContent: head.textContent });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
      const sign = order === "descending" ? -1 : 1;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [cellValue(a, column), cellValue(b, column)];
        if (typeof x === typeof y) return sign * (typeof x === "number" ? x - y : x.localeCompare(y));
        return typeof x === "number" ? -1 : 1; // what has no number comes last
      });
      table.tBodies[0].append(...rows);
    });
  }
}

// Filters of the tables, and what a score says when it is pointed at, tapped, or reached with the arrow keys.
// Sorting is sortable.min.js.

function filterTable(view) {
  const form = view.querySelector(".filters");
  const wanted = [...form.querySelectorAll("select")].map((select) => select.value);
  const words = form.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...view.querySelectorAll("tbody tr")];
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden =
      !words.every((word) => text.includes(word)) ||
      !wanted.every((value, index) => !value || row.getAttribute(`data-f${index}`) === value);
  }
  const shown = rows.filter((row) => !row.hidden).length;
  form.querySelector("output").textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
}

const tip = document.getElementById("tip");
let pointed = null; // the cell that the tip is of

function showTip(cell) {
  const [line, texts] = data.scores[cell.dataset.tip], [name, ...rest] = data.lines[line];
  const paragraph = (text) => Object.assign(document.createElement("p"), { textContent: text });
  hideTip();
  pointed = cell;
  tip.replaceChildren(...[name, ...texts, ...rest].map(paragraph));
  tip.hidden = false;
  placeTip();
  cell.setAttribute("aria-describedby", "tip");
}

// A cell that gets the focus may scroll into sight: the tip goes with it.
function placeTip() {
  if (!pointed) return;
  const box = pointed.getBoundingClientRect(), own = tip.getBoundingClientRect();
  if (box.bottom < 0 || box.top > innerHeight) return hideTip();
  const below = box.bottom + 6, above = box.top - own.height - 6;
  tip.style.top = `${below + own.height <= innerHeight || above < 0 ? below : above}px`;
  tip.style.left = `${Math.max(6, Math.min(box.right - own.width, innerWidth - own.width - 6))}px`;
}

function hideTip() {
  tip.hidden = true;
  pointed?.removeAttribute("aria-describedby");
  pointed = null;
}

// One score of a table is reached with Tab, its neighbours with the arrow keys.
function moveFrom(cell, key) {
  const row = cell.parentElement, table = cell.closest("table");
  let found = null;
  if (key === "ArrowRight" || key === "ArrowLeft") {
    const cells = [...row.querySelectorAll("[data-tip]")];
    found = cells[cells.indexOf(cell) + (key === "ArrowRight" ? 1 : -1)];
  } else {
    const rows = [...table.querySelectorAll("tbody tr:not([hidden])")].filter((r) => r.cells[cell.cellIndex].dataset.tip);
    found = rows[rows.indexOf(row) + (key === "ArrowDown" ? 1 : -1)]?.cells[cell.cellIndex];
  }
  if (!found) return;
  cell.tabIndex = -1;
  found.tabIndex = 0;
  found.focus();
}

function prepareTables() {
  for (const view of document.querySelectorAll(".view")) {
    const form = view.querySelector(".filters");
    form?.addEventListener("input", () => filterTable(view));
    form?.addEventListener("submit", (event) => event.preventDefault());
    view.querySelectorAll("[data-tip]").forEach((cell, index) => (cell.tabIndex = index ? -1 : 0));
  }
  const scoreOf = (event) => event.target.closest?.("[data-tip]");
  document.addEventListener("mouseover", (event) => (scoreOf(event) ? showTip(scoreOf(event)) : hideTip()));
  document.addEventListener("focusin", (event) => (scoreOf(event) ? showTip(scoreOf(event)) : hideTip()));
  document.addEventListener("scroll", placeTip, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
    if (event.key.startsWith("Arrow") && scoreOf(event)) {
      event.preventDefault();
      moveFrom(scoreOf(event), event.key);
    }
  });
}

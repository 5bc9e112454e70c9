// The samples that pass the filters, one a line; for the keyboard what the plane is for the mouse.

const SHOWN = 100; // lines at first, and more at each push of the button

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const number = (value, digits = 3) =>
  value === null || Number.isNaN(value) ? "–" : Math.abs(value) >= 1e6 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));

function describe(sample) {
  const line = first(), row = view.rows[sample], parts = [];
  if (line.quadrant[row]) parts.push(`Q${line.quadrant[row]}`);
  if (meta.kind[sample] >= 0) parts.push(meta.kinds[meta.kind[sample]]);
  parts.push(
    view.fate[sample] === DROPPED ? "dropped" : `${line.kept_tokens[row]} of ${columns.tokens[sample]} tokens kept`,
    `PPL ${number(view.y[sample])}`,
    `entropy ${number(view.x[sample])}`,
  );
  return parts.join(" · ");
}

function drawList(most = SHOWN) {
  const list = document.getElementById("list"), lines = document.createDocumentFragment();
  for (const sample of view.samples.slice(0, most)) {
    const line = element("button", undefined, { type: "button", "data-sample": sample });
    if (sample === chosen.sample) line.setAttribute("aria-current", "true");
    line.append(element("b", `#${columns.number[sample]}`), element("span", describe(sample)), element("bdi", meta.excerpts[sample]));
    lines.append(line);
  }
  if (view.samples.length > most) {
    const more = element("button", `${view.samples.length - most} more`, { type: "button", id: "more" });
    more.addEventListener("click", () => {
      drawList(most + SHOWN);
      list.children[most].focus();
    });
    lines.append(more);
  }
  if (!view.samples.length) lines.append(element("p", "No sample passes these filters.", { class: "hint" }));
  list.replaceChildren(lines);
}

function wireList() {
  const list = document.getElementById("list");
  list.addEventListener("click", (event) => {
    const line = event.target.closest("[data-sample]");
    if (line) choose(Number(line.dataset.sample));
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = step && document.activeElement[step];
    if (next) {
      next.focus();
      event.preventDefault();
    }
  });
}

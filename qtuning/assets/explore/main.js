// Controls, and what happens when one of them changes.

const byId = (id) => document.getElementById(id);

function redraw() {
  derive();
  drawLegend();
  drawPlane();
  drawList();
  drawSample();
  byId("top").textContent = view.top ? `(${view.top} times)` : "";
  byId("count").textContent = `${view.samples.length} of ${columns.number.length} samples`;
  const line = first(), epoch = line.epochs.filter((start) => start <= chosen.update).length;
  let when = `${chosen.update + 1} of ${line.updates}, epoch ${epoch} of ${line.epochs.length}`;
  if (second() && second().updates !== line.updates) when += ` (${second().label}: ${updateOf(second()) + 1} of ${second().updates})`;
  byId("when").textContent = when;
  drawNotes();
}

function drawNotes() {
  const by = new Map(); // note -> the labels of the lines that have it
  for (const line of new Set([first(), second() ?? first()]))
    for (const note of line.notes) by.set(note, [...(by.get(note) ?? []), line.label]);
  const told = [...by].map(([note, labels]) => `${labels.join("; ")}: ${note}`);
  if (view.borrowed.size) told.push(`Samples stand where ${[...view.borrowed].map((line) => line.label).join(", ")} saw them.`);
  byId("notes").replaceChildren(...told.map((text) => element("p", text, { class: "note" })));
}

// A class of a colouring is a button: pushed in, its samples are shown.
function drawLegend() {
  const known = colourings();
  byId("legend").replaceChildren(chips(chosen.colour, known[chosen.colour]));
  byId("chips").replaceChildren(...Object.keys(known).filter((key) => key !== chosen.colour).map((key) => chips(key, known[key])));
  byId("active").textContent = active() ? `Filters (${active()} active)` : "Filters";
}

function chips(key, way) {
  const group = element("div", undefined, { class: "chips", role: "group", "aria-label": way.title });
  group.append(element("span", `${way.title[0].toUpperCase()}${way.title.slice(1)}`));
  way.names.forEach((name, index) => {
    const out = filters[key].has(way.values[index]);
    const chip = element("button", name, { type: "button", "aria-pressed": String(!out), "data-filter": key, "data-value": way.values[index] });
    if (way.hints) chip.title = way.hints[index];
    if (key === chosen.colour) chip.style.setProperty("--dot", `var(${way.colours[index % way.colours.length]})`);
    chip.addEventListener("click", () => {
      filters[key][out ? "delete" : "add"](way.values[index]);
      redraw();
      document.querySelector(`[data-filter="${key}"][data-value="${way.values[index]}"]`).focus();
    });
    group.append(chip);
  });
  return group;
}

function drawFilters() {
  const box = byId("filters");
  const kinds = element("select", undefined, { id: "pruned-kind" });
  kinds.append(new Option("of any kind, or none", -1));
  meta.tokenKinds.forEach((name, index) => kinds.append(new Option(name, index)));
  kinds.addEventListener("change", () => {
    filters.prunedKind = chosen.mark = Number(kinds.value);
    redraw();
  });
  const often = element("select", undefined, { id: "often" });
  OFTEN.forEach((name, index) => often.append(new Option(name, index)));
  often.addEventListener("change", () => {
    filters.often = Number(often.value);
    redraw();
  });
  const lengths = [["least", "from", 0], ["most", "to", Infinity]].map(([key, label, none]) => {
    const input = element("input", undefined, { id: key, type: "number", min: 0, step: 1, "aria-label": `Response tokens, ${label}` });
    input.addEventListener("change", () => {
      filters[key] = input.value === "" ? none : Number(input.value);
      redraw();
    });
    return input;
  });
  const scored = element("input", undefined, { id: "scored", type: "checkbox" });
  scored.addEventListener("change", () => {
    filters.scored = scored.checked;
    redraw();
  });
  const reset = element("button", "All samples", { type: "button", id: "reset" });
  reset.addEventListener("click", () => {
    for (const key of SETS) filters[key].clear();
    Object.assign(filters, ANY);
    drawFilters();
    redraw();
    byId("reset").focus();
  });
  const labelled = (text, ...controls) => {
    const label = element(controls.length > 1 ? "span" : "label", `${text} `);
    label.append(...controls);
    return label;
  };
  const top = element("output", "", { id: "top" });
  box.replaceChildren(
    labelled("Response tokens", lengths[0], " to ", lengths[1]),
    labelled("Pruned tokens", kinds),
    labelled("Over the training", often),
    top,
    labelled("With scores of tokens", scored),
    reset,
  );
}

function choose(sample) {
  chosen.sample = sample;
  drawPlane();
  document.querySelector("#list [aria-current]")?.removeAttribute("aria-current");
  document.querySelector(`#list [data-sample="${sample}"]`)?.setAttribute("aria-current", "true");
  // on a phone the sample stands below the plane
  drawSample().then(() => {
    if (matchMedia("(max-width: 60rem)").matches) byId("sample").scrollIntoView({ block: "start" });
  });
}

function walk(step) {
  const at = view.samples.indexOf(chosen.sample), next = view.samples[at < 0 ? 0 : at + step];
  if (next !== undefined) choose(next);
}

function fillColours() {
  const select = byId("colour"), known = colourings();
  select.replaceChildren(...Object.entries(known).map(([key, { title }]) => new Option(title, key, false, key === chosen.colour)));
}

function wireControls() {
  const names = lines.map((line, index) => [line.label, index]);
  byId("first").append(...names.map(([name, index]) => new Option(name, index)));
  byId("second").append(new Option("no other", -1), ...names.map(([name, index]) => new Option(name, index)));
  byId("second").value = String(chosen.second);
  const slider = byId("update");
  const fit = () => {
    slider.max = first().updates - 1;
    slider.value = chosen.update;
    byId("time").hidden = first().updates < 2;
  };
  byId("first").addEventListener("change", (event) => {
    const done = (chosen.update + 1) / first().updates;
    chosen.first = Number(event.target.value);
    chosen.update = Math.max(0, Math.ceil(done * first().updates) - 1);
    fit();
    redraw();
  });
  byId("second").addEventListener("change", (event) => {
    chosen.second = Number(event.target.value);
    if (chosen.second < 0) {
      filters.between.clear();
      if (chosen.colour === "between") chosen.colour = "quadrant";
    }
    fillColours();
    redraw();
  });
  byId("colour").addEventListener("change", (event) => {
    chosen.colour = event.target.value;
    redraw();
  });
  slider.addEventListener("input", () => {
    chosen.update = Number(slider.value);
    redraw();
  });
  byId("in").addEventListener("click", () => zoom(0.5));
  byId("out").addEventListener("click", () => zoom(2));
  byId("whole").addEventListener("click", () => zoom(Infinity));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  fit();
}

load().then(() => {
  chosen.second = meta.beside;
  chosen.update = first().updates - 1;
  wireControls();
  wireList();
  drawFilters();
  fillColours();
  redraw();
  document.body.dataset.ready = "true";
});

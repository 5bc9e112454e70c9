// The chosen sample: its prompt, and its response as one or two methods saw it.

const SHADES = {
  ppl: ["perplexity (PPL)", 6, "--heat"], // name, natural logarithm or nats at full shade, colour
  entropy: ["entropy", 4, "--cool"],
  s: ["smoothed score s", 6, "--heat"],
};
const SPECIAL = "▫"; // a token that holds no character of its own

async function drawSample() {
  const sample = chosen.sample, box = document.getElementById("sample");
  if (sample < 0) return;
  const text = await textsOf(sample);
  if (sample !== chosen.sample) return; // another one was chosen meanwhile
  const parts = document.createDocumentFragment();
  const head = element("div", undefined, { class: "head" });
  head.append(element("h2", `Sample ${columns.number[sample]}`));
  for (const [step, label] of [[-1, "Previous"], [1, "Next"]]) {
    const button = element("button", label, { type: "button" });
    button.addEventListener("click", () => walk(step));
    head.append(button);
  }
  const facts = [`${columns.prompt_tokens[sample]} + ${text.pieces.length} tokens`];
  if (meta.kind[sample] >= 0) facts.push(`kind: ${meta.kinds[meta.kind[sample]]}`);
  if (text.id !== null) facts.push(`id: ${text.id}`);
  head.append(element("p", facts.join(" · ")), ...controls(text));
  parts.append(head, element("h3", "Prompt"), element("div", text.prompt, { class: "text", dir: "auto", id: "prompt" }));
  const columnsBox = element("div", undefined, { class: "responses" });
  [chosen.first, chosen.second].filter((index) => index >= 0).forEach((index, side) => {
    const rows = side ? view.others : view.rows;
    columnsBox.append(response(sample, text, index, rows[sample]));
  });
  parts.append(columnsBox, element("p", "Point at a token, or move through a response with the arrow keys.", { id: "token", "aria-live": "polite" }));
  box.replaceChildren(parts);
}

function controls(text) {
  const shade = element("label", "Shade tokens by "), mark = element("label", "Outline ");
  const select = element("select", undefined, { id: "shade" });
  for (const [key, [name]] of Object.entries(SHADES)) select.append(new Option(name, key, false, key === chosen.shade));
  shade.append(select);
  select.addEventListener("change", () => refocus("shade", () => (chosen.shade = select.value)));
  const kinds = element("select", undefined, { id: "mark" });
  kinds.append(new Option("no kind of token", -1));
  meta.tokenKinds.forEach((name, index) => kinds.append(new Option(name, index, false, index === chosen.mark)));
  mark.append(kinds);
  kinds.addEventListener("change", () => refocus("mark", () => (chosen.mark = Number(kinds.value))));
  const wrong = text.wrong && text.wrong.length ? [element("span", "planted errors are underlined", { class: "key" })] : [];
  const scale = element("span", undefined, { class: "key" });
  const [, top, colour] = SHADES[chosen.shade];
  const bar = element("i", undefined, { class: "bar" });
  bar.style.setProperty("--shade", `var(${colour})`);
  const ends = chosen.shade === "entropy" ? ["0", `${top} nats`] : ["1", `${number(Math.exp(top), 2)} and more`];
  scale.append(ends[0], bar, ends[1]);
  return [shade, scale, mark, ...wrong];
}

async function refocus(id, change) {
  change();
  await drawSample();
  document.getElementById(id).focus();
}

// s_t = (1 - lambda) PPL_t + factor (PPL_{t-1} + PPL_{t+1}), neighbours outside the response 0 (eq. 7)
function smooth(nll, [lambda, factor]) {
  const ppl = nll.map((value) => (value === null ? null : Math.exp(value)));
  return ppl.map((value, i) => {
    const beside = [ppl[i - 1] ?? (i ? null : 0), ppl[i + 1] ?? (i < ppl.length - 1 ? null : 0)];
    return value === null || beside.includes(null) ? null : (1 - lambda) * value + factor * (beside[0] + beside[1]);
  });
}

function response(sample, text, index, row) {
  const line = lines[index], box = element("article", undefined, { "data-line": index }), count = text.pieces.length;
  box.append(element("h3", line.label));
  if (row < 0) {
    box.append(element("p", "Not decided yet at this point of training.", { class: "facts" }));
    return box;
  }
  const [mask, nll, entropy] = text.lines[index][row - line.starts[sample]];
  const fate = fateOf(line, row, count), kept = mask ? unpackMask(mask, count) : null;
  box.append(element("p", facts(line, row, fate, count), { class: "facts" }));
  if (fate === PRUNED && !kept) box.append(element("p", "Which tokens were pruned is not known: the trace has no mask.", { class: "note" }));
  const values = { ppl: nll && decode(nll), entropy: entropy && decode(entropy) };
  values.s = values.ppl && smooth(values.ppl, line.smoothing);
  if (!values[chosen.shade]) box.append(element("p", missing(line, row, sample), { class: "note" }));
  const body = element("div", undefined, { class: "text tokens", dir: "auto", tabindex: 0, role: "group" });
  body.setAttribute("aria-label", `Response, ${line.label}`);
  if (fate === DROPPED) body.classList.add("dropped");
  const [, top, colour] = SHADES[chosen.shade];
  body.style.setProperty("--shade", `var(${colour})`);
  text.pieces.forEach((piece, i) => {
    const token = element("span", piece || SPECIAL);
    const value = values[chosen.shade]?.[i] ?? null;
    if (value !== null) {
      const share = chosen.shade === "s" ? Math.log(Math.max(value, 1)) / top : value / top;
      token.style.setProperty("--v", `${Math.round(100 * Math.min(1, share))}%`);
    }
    if (kept && !kept[i] && fate !== DROPPED) token.classList.add("pruned");
    if (text.wrong?.includes(i)) token.classList.add("wrong");
    if (text.kinds[i] === chosen.mark) token.classList.add("mark");
    if (!piece) token.classList.add("empty");
    body.append(token);
  });
  if (text.rest) body.append(element("span", text.rest, { class: "rest", title: "behind the cutoff, never trained" }));
  wireTokens(body, (i) => {
    const fateOfToken = fate === DROPPED ? "not trained, the sample is dropped" : fate === WHOLE || kept?.[i] ? "trained" : kept ? "pruned" : "not known whether pruned";
    const wrong = text.wrong?.includes(i) ? " · a planted error" : "";
    const ppl = values.ppl?.[i] ?? null;
    return (
      `Token ${i + 1} of ${count} · ${fateOfToken} · ${meta.tokenKinds[text.kinds[i]]}${wrong} · ` +
      `PPL ${number(ppl === null ? null : Math.exp(ppl))} · entropy ${number(values.entropy?.[i] ?? null)} · s ${number(values.s?.[i] ?? null)}`
    );
  });
  box.append(body);
  return box;
}

function facts(line, row, fate, count) {
  const parts = [`Update ${line.update[row] + 1} of ${line.updates}, epoch ${line.epoch[row] + 1} of ${line.epochs.length}`];
  if (line.quadrant[row]) parts.push(`Q${line.quadrant[row]}`);
  parts.push(FATES[fate] + (line.flags[row] & SUPPLEMENT ? " (supplement)" : ""));
  if (!(line.flags[row] & TOLD)) parts.push("the epoch was drawn without it");
  if (fate !== DROPPED) parts.push(`${line.kept_tokens[row]} of ${count} tokens`);
  if (!Number.isNaN(line.ppl[row])) parts.push(`PPL ${number(line.ppl[row], 4)}`, `entropy ${number(line.entropy[row], 4)}`);
  if (!Number.isNaN(line.loss[row])) parts.push(`loss of what was trained ${number(line.loss[row])}`);
  if (!Number.isNaN(line.weight[row]) && line.weight[row] !== 1) parts.push(`weight ${number(line.weight[row])}`);
  return parts.join(" · ");
}

function missing(line, row, sample) {
  const name = SHADES[chosen.shade][0];
  const drawn = lines.some((each) => each.flags.slice(each.starts[sample], each.starts[sample + 1]).some((flags) => flags & SCORED));
  if (drawn || !lines.some((each) => each.flags.some((flags) => flags & SCORED))) return `No ${name} of its tokens is known of this decision.`;
  return `No ${name} of its tokens: traces keep them of a draw of the samples, and this one is not in it.`;
}

function wireTokens(body, tell) {
  let current = -1;
  const show = (i) => {
    body.children[current]?.classList.remove("current");
    current = i;
    body.children[i].classList.add("current");
    document.getElementById("token").textContent = tell(i);
  };
  const at = (event) => {
    const i = Array.prototype.indexOf.call(body.children, event.target);
    if (i >= 0 && !event.target.classList.contains("rest")) show(i);
  };
  body.addEventListener("pointerover", at);
  body.addEventListener("click", at);
  body.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], count = body.querySelectorAll("span:not(.rest)").length;
    if (!step) return;
    show(Math.max(0, Math.min(count - 1, current + step)));
    event.preventDefault();
  });
}

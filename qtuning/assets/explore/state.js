// What is chosen, and what follows from it for each sample.

const KEPT = 1, SUPPLEMENT = 2, TOLD = 4, SCORED = 8; // flags of a decision (explore/columns.py)
const WHOLE = 0, PRUNED = 1, DROPPED = 2, UNDECIDED = 3;
const FATES = ["kept whole", "kept, tokens pruned", "dropped", "not decided yet"];
const BETWEEN = ["both", "first only", "second only", "neither"];
const OFTEN = ["any number of times", "most often kept", "most often dropped", "most often pruned of tokens"];

const chosen = {
  first: 0,
  second: -1, // a line, or -1 for none
  update: 0, // of the first line, from 0
  colour: "quadrant",
  sample: -1,
  shade: "ppl",
  mark: -1, // a kind of tokens that is outlined
};

const first = () => lines[chosen.first];
const second = () => (chosen.second < 0 ? null : lines[chosen.second]);

// Trainings may make different numbers of updates, so they are compared at the same share of the way.
function updateOf(line) {
  return line === first() ? chosen.update : Math.ceil(((chosen.update + 1) / first().updates) * line.updates) - 1;
}

// For each sample the row of its newest decision at this point of training, or -1.
function rowsAt(line) {
  const update = updateOf(line), count = columns.number.length, rows = new Int32Array(count).fill(-1);
  for (let sample = 0; sample < count; sample++)
    for (let row = line.starts[sample]; row < line.starts[sample + 1] && line.update[row] <= update; row++)
      rows[sample] = row;
  return rows;
}

function fateOf(line, row, tokens) {
  if (row < 0) return UNDECIDED;
  if (!(line.flags[row] & KEPT)) return DROPPED;
  return line.kept_tokens[row] < tokens ? PRUNED : WHOLE;
}

// In how many decisions of the whole training a sample was kept, dropped, or lost tokens.
function counted(line, often) {
  const wanted = [[], [WHOLE, PRUNED], [DROPPED], [PRUNED]][often]; // as OFTEN
  return Uint16Array.from(columns.number, (_, sample) => {
    let count = 0;
    for (let row = line.starts[sample]; row < line.starts[sample + 1]; row++)
      count += wanted.includes(fateOf(line, row, columns.tokens[sample]));
    return count;
  });
}

// of a set the values that are left out, of the others the one that is asked for
const SETS = ["quadrant", "fate", "kind", "between"];
const ANY = { prunedKind: -1, often: 0, least: 0, most: Infinity, scored: false };
const filters = { ...Object.fromEntries(SETS.map((key) => [key, new Set()])), ...ANY };
const active = () => SETS.filter((key) => filters[key].size).length + Object.keys(ANY).filter((key) => filters[key] !== ANY[key]).length;

let view; // of the samples that pass: what the plane and the list show
function derive() {
  const rows = rowsAt(first()), others = second() ? rowsAt(second()) : null, count = columns.number.length;
  const counts = filters.often ? counted(first(), filters.often) : null;
  const top = counts ? counts.reduce((a, b) => Math.max(a, b), 0) : 0;
  // without scores of its own, a sample stands where another method saw it
  const rest = [second(), ...lines].filter((line) => line && line !== first());
  const elsewhere = rest.map((line) => [line, line === second() ? others : null]);
  view = { rows, others, samples: [], x: new Float64Array(count), y: new Float64Array(count), borrowed: new Set(), top };
  view.fate = new Uint8Array(count);
  view.between = new Int8Array(count).fill(-1);
  for (let sample = 0; sample < count; sample++) {
    const row = rows[sample], tokens = columns.tokens[sample];
    const fate = (view.fate[sample] = fateOf(first(), row, tokens));
    if (others) {
      const theirs = fateOf(second(), others[sample], tokens);
      if (fate < UNDECIDED && theirs < UNDECIDED)
        view.between[sample] = fate === DROPPED ? (theirs === DROPPED ? 3 : 2) : theirs === DROPPED ? 1 : 0; // as BETWEEN
    }
    let from = first(), at = row;
    if (at < 0 || Number.isNaN(from.ppl[at]))
      for (const pair of elsewhere) {
        const places = (pair[1] ??= rowsAt(pair[0]));
        if (places[sample] >= 0 && !Number.isNaN(pair[0].ppl[places[sample]])) {
          [from, at] = [pair[0], places[sample]];
          if (row >= 0) view.borrowed.add(from);
          break;
        }
      }
    view.x[sample] = at < 0 ? NaN : from.entropy[at];
    view.y[sample] = at < 0 ? NaN : from.ppl[at];
    if (passes(sample, row, counts, top)) view.samples.push(sample);
  }
  view.samples.sort((a, b) => (counts ? counts[b] - counts[a] : 0) || columns.number[a] - columns.number[b]);
}

function passes(sample, row, counts, top) {
  if (row < 0) return false;
  const line = first(), tokens = columns.tokens[sample];
  return (
    !filters.quadrant.has(line.quadrant[row]) &&
    !filters.fate.has(view.fate[sample]) &&
    !filters.kind.has(meta.kind[sample]) &&
    !(chosen.second >= 0 && filters.between.has(view.between[sample])) &&
    tokens >= filters.least &&
    tokens <= filters.most &&
    (filters.prunedKind < 0 || Boolean(line.pruned_kinds[row] & (1 << filters.prunedKind))) &&
    (!counts || (top > 0 && counts[sample] === top)) &&
    (!filters.scored || Boolean(line.flags[row] & SCORED))
  );
}

// The ways to colour: [name, names of the classes, class of a sample, colours]
function colourings() {
  const quadrants = [1, 2, 3, 4, 0];
  const found = {
    quadrant: {
      title: "quadrant",
      names: ["Q1", "Q2", "Q3", "Q4", "in none"],
      values: quadrants,
      hints: quadrants.map((q) => meta.quadrants[q] ?? "between the thresholds, or the method has no quadrants"),
      of: (sample) => quadrants.indexOf(first().quadrant[view.rows[sample]]),
      colours: ["--q1", "--q2", "--q3", "--q4", "--q0"],
    },
    fate: {
      title: "kept or dropped",
      names: FATES.slice(0, 3),
      values: [WHOLE, PRUNED, DROPPED],
      of: (sample) => view.fate[sample],
      colours: ["--q4", "--q2", "--q0"],
    },
  };
  if (meta.kinds.length)
    found.kind = {
      title: "kind of sample",
      names: [...meta.kinds, ...(meta.kind.includes(-1) ? ["no kind"] : [])],
      values: [...meta.kinds.keys(), -1],
      of: (sample) => (meta.kind[sample] < 0 ? meta.kinds.length : meta.kind[sample]),
      colours: ["--q4", "--q2", "--q0", "--k3", "--q1", "--k5", "--k6"],
    };
  if (second())
    found.between = {
      title: "kept by",
      names: BETWEEN,
      values: [0, 1, 2, 3],
      of: (sample) => view.between[sample],
      colours: ["--q4", "--q2", "--q1", "--q0"],
    };
  return found;
}

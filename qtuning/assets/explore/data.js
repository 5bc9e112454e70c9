// The data of the page: blocks of gzip in base64 (explore/blocks.py).

const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };

function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function unpack(name) {
  const packed = new Blob([bytesOf(document.getElementById(`block-${name}`).textContent)]);
  return new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function readJson(name) {
  return JSON.parse(new TextDecoder().decode(await unpack(name)));
}

async function readArrays(name) {
  const raw = await unpack(name), head = new DataView(raw).getUint32(0, true), found = {};
  for (const [key, type, start, length] of JSON.parse(new TextDecoder().decode(new Uint8Array(raw, 4, head))))
    found[key] = new ARRAYS[type](raw, 4 + head + start, length);
  return found;
}

// The texts of the samples of one chunk, unpacked when the first of them is looked at.
const chunks = new Map();
function textsOf(sample) {
  const chunk = Math.floor(sample / meta.chunk);
  if (!chunks.has(chunk)) chunks.set(chunk, readJson(`texts-${chunk}`));
  return chunks.get(chunk).then((texts) => texts[sample % meta.chunk]);
}

// Eight tokens a byte, the first in the highest bit (train/decision.py, pack_mask).
function unpackMask(base64, count) {
  const bytes = bytesOf(base64);
  return Array.from({ length: count }, (_, i) => Boolean(bytes[i >> 3] & (128 >> (i & 7))));
}

// Nats from bytes (train/token_scores.py, decode); null where a value is not known.
function decode(base64) {
  return Array.from(bytesOf(base64), (code) => (code === meta.unknown ? null : (code / meta.scale) ** 2));
}

let meta, columns, lines;
async function load() {
  meta = await readJson("meta");
  columns = await readArrays("columns");
  lines = meta.lines.map((line, index) => {
    const own = { ...line };
    for (const [key, array] of Object.entries(columns))
      if (key.startsWith(`${index}.`)) own[key.slice(`${index}.`.length)] = array;
    // rows are sorted by sample: starts[i] to starts[i + 1] are those of sample i
    own.starts = new Uint32Array(columns.number.length + 1);
    for (const place of own.place) own.starts[place + 1]++;
    for (let i = 0; i < columns.number.length; i++) own.starts[i + 1] += own.starts[i];
    return own;
  });
}

// Views: `state` says what is shown; arrays are unpacked when they are first needed.

const state = { input: 0, layer: index.layers[0].number, head: index.heads[0] };
const keyOf = (s) => `${s.input}-${s.layer}-${s.head}`;
const infoOf = (s) => index.views[keyOf(s)];
const headName = (layer, head) => `L${layer} H${head}`;
const blockColour = (block) => index.colours[block];
const blockInk = (block) => index.inks[block];
const isExact = (info) => info.cells[0] === info.queries && info.cells[1] === info.keys;

const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };

async function unpack(id) {
  const buffer = await unzip(id);
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const table = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  const arrays = {};
  for (const { name, type, shape, offset } of table) {
    const length = shape.reduce((a, b) => a * b, 1);
    arrays[name] = { shape, data: new TYPES[type](buffer, 8 + size + offset, length) };
  }
  return arrays;
}

const cache = new Map();

async function viewOf(key) {
  if (cache.has(key)) return cache.get(key);
  const [arrays, sample] = await Promise.all([unpack(`data-${key}`), unpack(`data-${key}-sample`)]);
  const info = index.views[key];
  const view = { info, ...arrays, ...sample };
  view.queryBlock = blockOfToken(view.queryOrder.data, info.order.blocks, info.order.querySizes);
  view.keyBlock = blockOfToken(view.keyOrder.data, info.order.blocks, info.order.keySizes);
  if (cache.size > 24) cache.delete(cache.keys().next().value);
  cache.set(key, view);
  return view;
}

function blockOfToken(order, blocks, sizes) {
  const out = new Int32Array(order.length);
  let position = 0;
  sizes.forEach((size, i) => {
    for (let j = 0; j < size; j++) out[order[position++]] = blocks[i];
  });
  return out;
}

/** A strength in words. */
function strengthWord(strength) {
  const { rankOne, clear } = index.strengths;
  return strength < rankOne ? "none" : strength < clear ? "weak" : "clear";
}

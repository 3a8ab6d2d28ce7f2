"use strict";
// One page of views. `state` says what is shown; `select` changes it and draws everything anew.

const $ = (id) => document.getElementById(id);
const index = JSON.parse($("index").textContent);
const state = { input: 0, layer: index.layers[0].number, head: index.heads[0] };
const SCALE = [
  [0, "#ffffff"], [0.12, "#e6f0f9"], [0.35, "#a9cfe8"], [0.6, "#4c9aca"], [0.82, "#175fa6"],
  [1, "#06264f"],
];
const PALETTE = [
  "#4269d0", "#efb118", "#ff725c", "#3ca951", "#a463f2", "#6cc5b0", "#ff8ab7", "#9c6b4e",
  "#2d9bb5", "#b8c43a", "#d1495b", "#7b8794",
];
const CELLS = 260;
const CONFIG = {
  responsive: true, displaylogo: false, scrollZoom: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "toImage", "autoScale2d"],
};
const FONT = { family: "system-ui, sans-serif", size: 12, color: "#1d2733" };
const AXIS = { gridcolor: "#eceff2", zeroline: false, linecolor: "#b9c3ce" };

const percent = (x, digits = 1) => `${(100 * x).toFixed(digits)} %`;
const density = (x) => percent(x, x < 0.01 ? 2 : 1);
const whole = (x) => Math.round(x).toLocaleString("en");
const escape = (text) => String(text).replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
const keyOf = (s) => `${s.input}-${s.layer}-${s.head}`;
const infoOf = (s) => index.views[keyOf(s)];
const headName = (layer, head) => `L${layer} H${head}`;

// Data ///////////////////////////////////////////////////////////////////////////////////////////

function bytesOf(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function unzip(id) {
  const stream = new Blob([bytesOf($(id).textContent)]).stream();
  return new Response(stream.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

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

const blockColour = (block) => index.colours[block];

// Adjacency //////////////////////////////////////////////////////////////////////////////////////

const edgeOf = (cell, cells, size) => Math.floor((cell * size) / cells);

/** Cells [first, last) of one axis that cover the range, in groups of `step` aligned to 0. */
function groups(range, cells, size) {
  const low = Math.max(0, Math.min(...range)), high = Math.min(size, Math.max(...range));
  let first = Math.floor((low * cells) / size), last = Math.ceil((high * cells) / size);
  last = Math.max(last, first + 1);
  const step = Math.ceil((last - first) / CELLS);
  first -= first % step;
  const starts = [];
  for (let cell = first; cell < last; cell += step) starts.push(cell);
  starts.push(Math.min(cells, starts[starts.length - 1] + step));
  return { starts, edges: starts.map((cell) => edgeOf(cell, cells, size)) };
}

/** Means of a grid of cell totals over groups of cells. */
function zoomed(total, shape, sizes, xRange, yRange) {
  if (!shape[0] || !shape[1]) return { x: [0, 1], y: [0, 1], z: [[0]], largest: 0 };
  const rows = groups(yRange, shape[0], sizes[0]), columns = groups(xRange, shape[1], sizes[1]);
  let largest = 0;
  const z = [];
  for (let i = 0; i + 1 < rows.starts.length; i++) {
    const sums = new Float64Array(columns.starts.length - 1);
    for (let r = rows.starts[i]; r < rows.starts[i + 1]; r++)
      for (let j = 0; j < sums.length; j++)
        for (let c = columns.starts[j]; c < columns.starts[j + 1]; c++) sums[j] += total(r, c);
    const height = rows.edges[i + 1] - rows.edges[i];
    z.push(Array.from(sums, (sum, j) => sum / (height * (columns.edges[j + 1] - columns.edges[j]))));
    largest = z[i].reduce((a, b) => Math.max(a, b), largest);
  }
  return { x: columns.edges, y: rows.edges, z, largest };
}

function sampleGrid(view, xRange, yRange) {
  const { info, sample } = view;
  const exact = info.cells[0] === info.queries && info.cells[1] === info.keys;
  const data = sample.data, stride = sample.shape[1];
  const total = exact
    ? (r, c) => (data[r * stride + (c >> 3)] >> (7 - (c & 7))) & 1
    : (r, c) => data[r * stride + c];
  return zoomed(total, info.cells, [info.queries, info.keys], xRange, yRange);
}

function expectedGrid(view, xRange, yRange) {
  const { info, expected } = view;
  const [rows, columns] = expected.shape;
  const total = (r, c) =>
    (expected.data[r * columns + c] / 255) * info.scale *
    (edgeOf(r + 1, rows, info.queries) - edgeOf(r, rows, info.queries)) *
    (edgeOf(c + 1, columns, info.keys) - edgeOf(c, columns, info.keys));
  return zoomed(total, expected.shape, [info.queries, info.keys], xRange, yRange);
}

function adjacencyTraces(view, xRange, yRange) {
  const grids = [sampleGrid(view, xRange, yRange), expectedGrid(view, xRange, yRange)];
  const cells = grids[0].z.flat();
  const exact = grids[0].x.length > 1 && grids[0].x[1] - grids[0].x[0] === 1;
  const top = exact ? 0 : cells.sort((a, b) => a - b)[Math.floor(0.995 * (cells.length - 1))];
  return { grids, zmax: Math.min(1, Math.max(grids[1].largest, top, 1e-3)) };
}

/** Ticks with the words themselves, where there are few enough to read. */
function wordTicks(order, tickangle, offset = 0.5) {
  const { words } = index.inputs[state.input];
  if (index.image || order.length > 40) return { tickmode: "auto" };
  const places = Array.from(order, (_, i) => i + offset);
  const labels = Array.from(order, (token) => escape(String(words[token]).slice(0, 8)));
  return {
    tickmode: "array", tickvals: places, ticktext: labels, tickfont: { size: 10 },
    tickangle: order.length > 12 ? tickangle : 0,
  };
}

function blockMarks(view) {
  const { order } = view.info;
  const shapes = [];
  const strip = (axis, sizes, places) => {
    let start = 0;
    sizes.forEach((size, i) => {
      const end = start + size;
      const fillcolor = blockColour(order.blocks[i]);
      for (const place of places)
        shapes.push({ type: "rect", line: { width: 0 }, fillcolor, ...axis(start, end, place) });
      start = end;
    });
  };
  const across = (x0, x1, xref) => ({ xref, yref: "paper", x0, x1, y0: 1.004, y1: 1.03 });
  const down = (y0, y1, domain) => ({ xref: "paper", yref: "y", y0, y1, x0: domain - 0.015, x1: domain - 0.002 });
  strip(across, order.keySizes, ["x", "x2"]);
  strip(down, order.querySizes, [0, 0.51]);
  return shapes;
}

function drawAdjacency(view) {
  const { info } = view;
  const exact = info.cells[0] === info.queries && info.cells[1] === info.keys;
  const bin = Math.ceil(info.queries / Math.max(info.cells[0], 1));
  $("adjacency-hint").textContent =
    `Left: the ${whole(info.edges)} edges that were sampled. Right: their probabilities. Tokens are ` +
    "sorted by strongest block (coloured strips). Drag to zoom, double-click to return. " +
    (exact ? "Zoomed in, a cell is one edge." : `A cell is at least ${bin} × ${bin} tokens, to keep the file small.`);
  const xRange = [0, Math.max(info.keys, 1)], yRange = [Math.max(info.queries, 1), 0];
  const { grids, zmax } = adjacencyTraces(view, xRange, yRange);
  const traces = grids.map((grid, i) => ({
    type: "heatmap", x: grid.x, y: grid.y, z: grid.z, zmin: 0, zmax, colorscale: SCALE,
    xaxis: i ? "x2" : "x", yaxis: i ? "y2" : "y", hoverinfo: "none", showscale: i === 1,
    name: i ? "expected" : "sampled",
    colorbar: { title: { text: "edge density", side: "right" }, thickness: 11, tickformat: ".1~%", outlinewidth: 0 },
  }));
  const axis = { ...AXIS, showgrid: false, range: xRange, autorange: false, mirror: true, showline: true };
  const across = {
    ...axis, ...wordTicks(view.keyOrder.data, -90), automargin: true,
    title: { text: "key, sorted by block", standoff: 6 },
  };
  const down = { ...axis, ...wordTicks(view.queryOrder.data, 0), range: yRange };
  const layout = {
    font: FONT, margin: { l: 56, r: 10, t: 44, b: 44 }, shapes: blockMarks(view), dragmode: "zoom",
    xaxis: { ...across, domain: [0, 0.485] },
    xaxis2: { ...across, domain: [0.51, 0.995], matches: "x" },
    yaxis: { ...down, ticklabelstandoff: 9, automargin: true, title: { text: "query, sorted by block", standoff: 6 } },
    yaxis2: { ...down, matches: "y", anchor: "x2", showticklabels: false },
    annotations: ["sampled", "expected"].map((name, i) => ({
      text: `<b>${name}</b> ${density(i ? info.expected : info.sampled)}`, showarrow: false,
      xref: "paper", yref: "paper", x: i ? 0.7525 : 0.2425, y: 1.04, yanchor: "bottom",
    })),
  };
  const plot = $("adjacency");
  Plotly.react(plot, traces, layout, CONFIG);
  plot.removeAllListeners?.("plotly_relayout");
  plot.on("plotly_relayout", (change) => {
    if (Object.keys(change).some((name) => /axis\d?\.(range|autorange)/.test(name))) refine(view);
  });
  plot.removeAllListeners?.("plotly_hover");
  plot.removeAllListeners?.("plotly_unhover");
  plot.on("plotly_hover", (event) => describePair(view, event));
  plot.on("plotly_unhover", hideTooltip);
}

function refine(view) {
  const plot = $("adjacency");
  const { grids, zmax } = adjacencyTraces(view, plot.layout.xaxis.range, plot.layout.yaxis.range);
  Plotly.restyle(plot, {
    x: grids.map((g) => g.x), y: grids.map((g) => g.y), z: grids.map((g) => g.z), zmax,
  });
}

function describePair(view, { points: [point], event }) {
  const { x: keys, y: queries } = point.data;
  const [row, column] = point.pointNumber;
  const words = index.inputs[state.input].words;
  const span = (edges, i, order, name) => {
    const first = edges[i], last = edges[i + 1] - 1;
    if (first < last) return `${name} at places ${first} to ${last}`;
    return `${name} ${order[first]} ${quote(words[order[first]])}`;
  };
  showTooltip(event, [
    span(queries, row, view.queryOrder.data, "query"), span(keys, column, view.keyOrder.data, "key"),
    `${point.data.name}: ${density(point.z)}`,
  ].join("\n"));
}

// Input //////////////////////////////////////////////////////////////////////////////////////////

const quote = (word) => (index.image ? `(grey ${word})` : `“${word}”`);
let pinned = null;

function drawTokens(view) {
  const box = $("tokens");
  pinned = null;
  box.replaceChildren();
  box.classList.remove("fade");
  (index.image ? drawImage : drawWords)(view, box);
  describeToken(view, null);
}

function tokenColour(view, token) {
  const mode = $("colour").value;
  if (mode === "query") return blockColour(view.queryBlock[token]) + "59";
  if (mode === "key") return blockColour(view.keyBlock[token]) + "59";
  if (mode === "received") return `rgb(var(--hot), ${(view.received.data[token] / 255).toFixed(3)})`;
  return "none";
}

function drawWords(view, box) {
  const { words } = index.inputs[state.input];
  box.classList.toggle("characters", words.every((word) => word.length <= 1));
  const spans = words.map((word, token) => {
    const span = document.createElement("span");
    span.className = "token";
    span.textContent = word === "\n" ? "⏎" : word === "" ? "␀" : word;
    span.style.background = tokenColour(view, token);
    span.dataset.token = token;
    return span;
  });
  box.append(...spans);
  const choose = (token) => {
    for (const span of spans) {
      span.classList.remove("edge", "chosen");
      span.style.removeProperty("--strength");
    }
    box.classList.toggle("fade", token !== null);
    if (token === null) return;
    spans[token].classList.add("chosen");
    for (const [other, strength] of neighboursOf(view, token)) {
      spans[other].classList.add("edge");
      if (strength > 0) spans[other].style.setProperty("--strength", (0.13 + 0.8 * strength).toFixed(3));
    }
  };
  const tokenAt = (event) => {
    const target = event.target.closest(".token");
    return target ? Number(target.dataset.token) : null;
  };
  listen(box, view, tokenAt, choose);
}

function drawImage(view, box) {
  const [height, width] = index.image;
  const pixel = Math.max(1, Math.floor(380 / Math.max(height, width)));
  const canvas = document.createElement("canvas");
  canvas.width = width * pixel;
  canvas.height = height * pixel;
  box.append(canvas);
  const context = canvas.getContext("2d");
  const { words } = index.inputs[state.input];
  const at = (token) => [(token % width) * pixel, Math.floor(token / width) * pixel, pixel, pixel];
  const choose = (token) => {
    words.forEach((grey, i) => {
      context.fillStyle = `rgb(${grey} ${grey} ${grey})`;
      context.fillRect(...at(i));
      const colour = tokenColour(view, i).replace("var(--hot)", "255, 114, 20");
      if (token !== null || colour === "none") return;
      context.fillStyle = colour;
      context.fillRect(...at(i));
    });
    if (token === null) return;
    for (const [other, strength] of neighboursOf(view, token)) {
      context.fillStyle = `rgb(255 114 20 / ${0.3 + 0.65 * strength})`;
      context.fillRect(...at(other));
    }
    context.strokeStyle = "#00c2ff";
    context.lineWidth = 2;
    context.strokeRect(...at(token));
  };
  choose(null);
  const tokenAt = (event) => {
    if (event.target !== canvas) return null;
    const column = Math.floor(event.offsetX / pixel), row = Math.floor(event.offsetY / pixel);
    return row < height && column < width ? row * width + column : null;
  };
  listen(box, view, tokenAt, choose);
}

function listen(box, view, tokenAt, choose) {
  let shown = null;
  const show = (token) => {
    if (token === shown) return;
    shown = token;
    choose(token);
    describeToken(view, token);
  };
  box.onmousemove = (event) => pinned === null && show(tokenAt(event));
  box.onmouseleave = () => pinned === null && show(null);
  box.onclick = (event) => {
    const token = tokenAt(event);
    pinned = token === pinned ? null : token;
    show(token);
  };
}

/** Neighbours of a token and the strength (0 to 1) of each; 0 where only the edge is known. */
function neighboursOf(view, token) {
  const out = new Map();
  const { info } = view;
  const outgoing = $("direction").value === "out";
  const exact = info.cells[0] === info.queries && info.cells[1] === info.keys;
  if (exact) {
    const { data, shape: [, stride] } = view.sample;
    const order = (outgoing ? view.queryOrder : view.keyOrder).data;
    const others = (outgoing ? view.keyOrder : view.queryOrder).data;
    const place = order.indexOf(token);
    others.forEach((other, i) => {
      const [r, c] = outgoing ? [place, i] : [i, place];
      if ((data[r * stride + (c >> 3)] >> (7 - (c & 7))) & 1) out.set(other, 0);
    });
  }
  const kept = view.neighbour.shape[1];
  const strengthOf = (entry) => view.weight.data[entry] / 255;
  if (outgoing) {
    for (let entry = token * kept; entry < (token + 1) * kept; entry++)
      if (view.weight.data[entry]) out.set(view.neighbour.data[entry], strengthOf(entry));
    return out;
  }
  view.neighbour.data.forEach((key, entry) => {
    if (key === token && view.weight.data[entry]) out.set(Math.floor(entry / kept), strengthOf(entry));
  });
  return out;
}

function describeToken(view, token) {
  const { info } = view;
  if (token === null) {
    $("token-info").textContent =
      `${whole(info.queries)} tokens. ` +
      (info.isolated ? `${whole(info.isolated)} attend to nothing.` : "Each attends to something.");
    return;
  }
  const { words } = index.inputs[state.input];
  const kept = view.neighbour.shape[1];
  const strongest = [];
  for (let entry = token * kept; entry < (token + 1) * kept && strongest.length < 6; entry++) {
    if (!view.weight.data[entry]) break;
    const weight = (view.weight.data[entry] / 255) * view.largest.data[token];
    const key = view.neighbour.data[entry];
    strongest.push(`${key} ${quote(words[key])}${info.attention ? " " + percent(weight, 0) : ""}`);
  }
  $("token-info").textContent =
    `Token ${token} ${quote(words[token])}: block ${view.queryBlock[token]} as query, ` +
    `${view.keyBlock[token]} as key. Attends to ${whole(view.degree.data[token])} of ` +
    `${whole(info.keys)} tokens` + (strongest.length ? `; most to ${strongest.join(", ")}.` : ".");
}

// Blocks /////////////////////////////////////////////////////////////////////////////////////////

function drawBlocks(view) {
  const { blocks, clusters, effectiveBlocks, deadBlocks } = view.info;
  const kind = $("mass").value;
  const mass = blocks[kind];
  const count = blocks.top.length;
  const covered = mass.flat().reduce((a, b) => a + b, 0);
  $("blocks-hint").textContent =
    `From key block to query block; width is the share of ${kind} edges. ` +
    (count < clusters ? `The ${count} strongest of ${clusters} blocks, with ${percent(covered, 0)} of the edges; ` : "") +
    `${effectiveBlocks.toFixed(1)} blocks in effect, ${deadBlocks} dead.`;
  const angle = (i) => Math.PI / 2 - (2 * Math.PI * i) / count;
  const place = (i) => (count === 1 ? [0, 0] : [Math.cos(angle(i)), Math.sin(angle(i))]);
  const pairs = [];
  mass.forEach((row, query) => row.forEach((share, key) => pairs.push({ share, query, key })));
  pairs.sort((a, b) => b.share - a.share);
  const drawn = pairs.slice(0, 48).filter((pair) => pair.share > 0);
  const most = drawn.length ? drawn[0].share : 1;
  const marks = { x: [], y: [], angle: [], colour: [], size: [], text: [] };
  const shapes = drawn.reverse().map(({ share, query, key }) => {
    const strength = share / most;
    const colour = blockColour(blocks.top[key]);
    const path = query === key ? loop(place(key)) : bend(place(key), place(query));
    marks.x.push(path.mark[0]);
    marks.y.push(path.mark[1]);
    marks.angle.push(path.angle);
    marks.colour.push(colour);
    marks.size.push(6 + 8 * strength);
    marks.text.push(
      `keys of block ${blocks.top[key]} → queries of block ${blocks.top[query]}<br>` +
      `${percent(blocks.expected[query][key], 2)} of expected, ${percent(blocks.sampled[query][key], 2)} of sampled edges`
    );
    return {
      type: "path", path: path.svg, layer: "below", opacity: 0.25 + 0.65 * strength,
      line: { color: colour, width: 0.6 + 9 * strength },
    };
  });
  const nodes = blocks.top.map((_, i) => place(i));
  const traces = [
    {
      type: "scatter", mode: "markers", x: marks.x, y: marks.y, hoverinfo: "text", text: marks.text,
      marker: { symbol: "triangle-up", angle: marks.angle, size: marks.size, color: marks.colour, line: { width: 1, color: "#fff" } },
    },
    {
      type: "scatter", mode: "markers+text", x: nodes.map((p) => p[0]), y: nodes.map((p) => p[1]),
      text: blocks.top.map(String), textfont: { size: 12, color: "#fff" }, hoverinfo: "text",
      hovertext: blocks.top.map((b, i) => `block ${b}: ${percent(blocks.share[i])} of expected edges`),
      marker: {
        size: blocks.share.map((share) => 22 + 34 * Math.sqrt(share)), color: blocks.top.map(blockColour),
        line: { width: 2, color: "#fff" }, opacity: 1,
      },
    },
  ];
  const axis = { visible: false, range: [-1.58, 1.58], fixedrange: true };
  Plotly.react($("blocks"), traces, {
    font: FONT, margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, shapes, hovermode: "closest",
    xaxis: axis, yaxis: { ...axis, scaleanchor: "x" },
  }, { ...CONFIG, displayModeBar: false });
}

function bend([x0, y0], [x1, y1]) {
  const cx = (x0 + x1) / 2 - 0.18 * (y1 - y0), cy = (y0 + y1) / 2 + 0.18 * (x1 - x0);
  const t = 0.66, s = 1 - t;
  const mark = [s * s * x0 + 2 * s * t * cx + t * t * x1, s * s * y0 + 2 * s * t * cy + t * t * y1];
  const dx = s * (cx - x0) + t * (x1 - cx), dy = s * (cy - y0) + t * (y1 - cy);
  return { svg: `M${x0},${y0} Q${cx},${cy} ${x1},${y1}`, mark, angle: (Math.atan2(dx, dy) * 180) / Math.PI };
}

function loop([x, y]) {
  const length = Math.hypot(x, y) || 1;
  const ux = length === 1 && !x && !y ? 0 : x / length, uy = !x && !y ? 1 : y / length;
  const out = 0.68, side = 0.38;
  const a = [x + out * ux - side * uy, y + out * uy + side * ux];
  const b = [x + out * ux + side * uy, y + out * uy - side * ux];
  const mark = [0.25 * x + 0.375 * (a[0] + b[0]), 0.25 * y + 0.375 * (a[1] + b[1])];
  return {
    svg: `M${x},${y} C${a[0]},${a[1]} ${b[0]},${b[1]} ${x},${y}`, mark,
    angle: (Math.atan2(uy, -ux) * 180) / Math.PI,
  };
}

// Memberships ////////////////////////////////////////////////////////////////////////////////////

function drawMemberships(view) {
  const { info } = view;
  const ranked = info.blocks.membership;
  const transpose = ({ shape: [cells, blocks], data }) =>
    Array.from({ length: blocks }, (_, b) => Array.from({ length: cells }, (_, c) => data[c * blocks + b] / 255));
  const edges = (cells, size) => Array.from({ length: cells + 1 }, (_, i) => edgeOf(i, cells, size) - 0.5);
  const binned = view.query.shape[0] < info.queries;
  $("memberships-hint").textContent =
    `How strongly each token belongs to each block, strongest block on top` +
    (ranked.length < info.clusters ? ` (${ranked.length} of ${info.clusters} shown)` : "") +
    (binned ? `; a column is the mean of ${Math.ceil(info.queries / view.query.shape[0])} tokens.` : ".");
  const sides = [[view.query, info.queries, "as queries"], [view.key, info.keys, "as keys"]];
  const top = Math.max(...sides.map(([side]) => side.data.reduce((a, b) => Math.max(a, b), 0))) / 255 || 1;
  const traces = sides.map(([side, size, name], i) => ({
    type: "heatmap", name, x: edges(side.shape[0], size), z: transpose(side), zmin: 0, zmax: top,
    y: ranked.map((_, b) => b), colorscale: SCALE, xaxis: "x", yaxis: i ? "y2" : "y", showscale: i === 0,
    text: undefined, customdata: transpose(side).map((row, b) => row.map(() => ranked[b])),
    hovertemplate: "token %{x:.0f}, block %{customdata}: %{z:.3f}<extra></extra>",
    colorbar: { title: { text: "membership", side: "right" }, thickness: 11, outlinewidth: 0 },
  }));
  const inOrder = Array.from({ length: info.queries }, (_, token) => token);
  const few = ranked.length <= 16;
  const axis = {
    ...AXIS, showgrid: false, autorange: "reversed", tickmode: "array",
    tickvals: ranked.map((_, b) => b).filter((b) => few || b % 6 === 0),
    ticktext: ranked.filter((_, b) => few || b % 6 === 0).map(String),
  };
  Plotly.react($("memberships"), traces, {
    font: FONT, margin: { l: 62, r: 10, t: 30, b: 40 },
    xaxis: { ...AXIS, ...wordTicks(inOrder, -90, 0), automargin: true, showgrid: false, anchor: "y2", title: { text: "token", standoff: 6 } },
    yaxis: { ...axis, domain: [0.53, 1], title: { text: "block, as queries" } },
    yaxis2: { ...axis, domain: [0, 0.47], title: { text: "block, as keys" } },
  }, CONFIG);
}

// Overview, history, inputs //////////////////////////////////////////////////////////////////////

function drawThumbnails() {
  const box = $("thumbnails");
  box.style.gridTemplateColumns = `repeat(${Math.min(index.heads.length, 4)}, minmax(60px, 180px))`;
  box.replaceChildren(...index.layers.flatMap(({ number }) => index.heads.map((head) => thumbnail(number, head))));
}

function thumbnail(layer, head) {
  const key = keyOf({ input: state.input, layer, head });
  const { thumbnail: [rows, columns], sampled } = index.views[key];
  const button = document.createElement("button");
  button.type = "button";
  button.className = "thumb";
  button.setAttribute("aria-pressed", String(layer === state.layer && head === state.head));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(columns, 1);
  canvas.height = Math.max(rows, 1);
  const context = canvas.getContext("2d");
  bytesOf(index.thumbnails[key]).forEach((value, i) => {
    context.fillStyle = shade(value / 255);
    context.fillRect(i % columns, Math.floor(i / columns), 1, 1);
  });
  const caption = document.createElement("span");
  caption.textContent = `${headName(layer, head)} · ${density(sampled)}`;
  button.append(canvas, caption);
  button.onclick = () => select({ layer, head });
  return button;
}

function shade(value) {
  const upper = Math.max(1, SCALE.findIndex(([stop]) => stop >= value));
  const [low, from] = SCALE[upper - 1], [high, to] = SCALE[upper];
  const part = (value - low) / (high - low);
  const mix = (i) => {
    const [a, b] = [from, to].map((colour) => parseInt(colour.slice(i, i + 2), 16));
    return Math.round(a + part * (b - a));
  };
  return `rgb(${mix(1)} ${mix(3)} ${mix(5)})`;
}

function drawTable() {
  const columns = ["head", "expected", "sampled", "mean ± sd", "blocks"];
  const titles = [
    "", "expected density on this input", "sampled density on this input",
    "sampled density over the inputs of this page",
    "blocks in effect (exponential of the entropy of their shares) of all",
  ];
  const head = document.createElement("tr");
  columns.forEach((name, i) => {
    const cell = document.createElement("th");
    cell.textContent = name;
    cell.title = titles[i];
    head.append(cell);
  });
  const rows = index.layers.flatMap(({ number, name }) => index.heads.map((h) => {
    const info = infoOf({ input: state.input, layer: number, head: h });
    const all = index.inputs.map((_, input) => infoOf({ input, layer: number, head: h }).sampled);
    const mean = all.reduce((a, b) => a + b, 0) / all.length;
    const sd = Math.sqrt(all.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(all.length - 1, 1));
    const row = document.createElement("tr");
    row.title = name;
    row.setAttribute("aria-selected", String(number === state.layer && h === state.head));
    const cells = [
      headName(number, h), density(info.expected), density(info.sampled),
      all.length > 1 ? `${(100 * mean).toFixed(1)} ± ${(100 * sd).toFixed(1)} %` : "–",
      `${info.effectiveBlocks.toFixed(1)} / ${info.clusters}`,
    ];
    cells.forEach((text) => row.insertCell().append(text));
    row.onclick = () => select({ layer: number, head: h });
    return row;
  }));
  const header = document.createElement("thead"), body = document.createElement("tbody");
  header.append(head);
  body.append(...rows);
  $("densities").replaceChildren(header, body);
}

function drawHistory() {
  const lines = index.history;
  $("history-hint").textContent = lines.length
    ? "Sampled density of each head; the bold line is the chosen one."
    : "The run has no logged densities.";
  $("history").hidden = !lines.length;
  if (!lines.length) return;
  const traces = lines.map((line, i) => {
    const chosen = line.layer === state.layer && line.head === state.head;
    return {
      type: "scatter", mode: line.step.length > 1 ? "lines" : "markers", x: line.step, y: line.density,
      name: headName(line.layer, line.head), opacity: chosen ? 1 : 0.45,
      line: { color: PALETTE[i % PALETTE.length], width: chosen ? 3.2 : 1.3 },
      hovertemplate: "step %{x}: %{y:.1%}<extra>%{fullData.name}</extra>",
    };
  });
  Plotly.react($("history"), traces, {
    font: FONT, margin: { l: 52, r: 8, t: 6, b: 62 }, hovermode: "closest",
    legend: { orientation: "h", y: -0.22 }, showlegend: lines.length <= 12,
    xaxis: { ...AXIS, title: { text: "step", standoff: 4 } },
    yaxis: { ...AXIS, tickformat: ".0~%", rangemode: "tozero", title: { text: "density" } },
  }, { ...CONFIG, displayModeBar: false });
}

function drawInputs() {
  const lengths = index.inputs.map((item) => item.length);
  const byLength = new Set(lengths).size > 1;
  const x = byLength ? lengths : lengths.map((_, i) => i);
  const traces = index.layers.flatMap(({ number }) => index.heads
    .filter((head) => number !== state.layer || head !== state.head)
    .map((head) => ({
      type: "scatter", mode: "markers", x, hoverinfo: "none", marker: { color: "#b9c3ce", size: 5 },
      y: lengths.map((_, input) => infoOf({ input, layer: number, head }).sampled),
      name: headName(number, head),
    })));
  const own = lengths.map((_, input) => infoOf({ ...state, input }));
  const mark = (name, symbol, size) => ({
    type: "scatter", mode: "markers", x, name, y: own.map((info) => info[name]),
    hovertemplate: `input %{customdata}: %{y:.2%} ${name}<extra></extra>`,
    customdata: index.inputs.map((item) => escape(item.name)),
    marker: {
      symbol, size, line: { width: 2 },
      color: own.map((_, i) => (i === state.input ? "#d1495b" : "#175fa6")),
    },
  });
  traces.push(mark("expected", "circle-open", 13), mark("sampled", "circle", 7));
  const plot = $("inputs");
  Plotly.react(plot, traces, {
    font: FONT, margin: { l: 52, r: 8, t: 6, b: 62 }, showlegend: false, hovermode: "closest",
    xaxis: { ...AXIS, title: { text: byLength ? "tokens" : "input", standoff: 4 } },
    yaxis: { ...AXIS, tickformat: ".0~%", rangemode: "tozero", title: { text: "density" } },
  }, { ...CONFIG, displayModeBar: false });
  plot.removeAllListeners?.("plotly_click");
  plot.on("plotly_click", ({ points: [point] }) => select({ input: point.pointNumber }));
}

// Page ///////////////////////////////////////////////////////////////////////////////////////////

function showTooltip(event, text) {
  const tip = $("tooltip");
  tip.textContent = text;
  tip.hidden = false;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${left}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
}

function hideTooltip() {
  $("tooltip").hidden = true;
}

function fillMenus() {
  const option = (value, text) => new Option(text, value);
  const about = (item) => [
    `input ${item.name}`, `${whole(item.length)} tokens`, item.label,
    item.prediction && `predicted ${item.prediction}`,
  ].filter(Boolean).join(" · ");
  $("input").replaceChildren(...index.inputs.map((item, i) => option(i, about(item))));
  $("layer").replaceChildren(...index.layers.map(({ number, name }) => option(number, `${number} (${name})`)));
  $("head").replaceChildren(...index.heads.map((head) => option(head, head)));
  const facts = Object.entries(index.summary).map(([name, text]) => {
    const box = document.createElement("div");
    const term = document.createElement("dt"), value = document.createElement("dd");
    term.textContent = name;
    value.textContent = text;
    box.append(term, value);
    return box;
  });
  $("summary").replaceChildren(...facts);
}

function showState() {
  for (const name of ["input", "layer", "head"]) $(name).value = state[name];
  const info = infoOf(state);
  $("facts").textContent =
    `${density(info.expected)} expected · ${density(info.sampled)} sampled · ${whole(info.edges)} edges`;
  const hash = `#input=${state.input}&layer=${state.layer}&head=${state.head}`;
  if (location.hash !== hash) history.replaceState(null, "", hash);
}

async function select(change) {
  Object.assign(state, change);
  const key = keyOf(state);
  delete document.body.dataset.shown;
  showState();
  const view = await viewOf(key);
  if (key !== keyOf(state)) return;
  hideTooltip();
  drawThumbnails();
  drawTable();
  drawAdjacency(view);
  drawTokens(view);
  drawBlocks(view);
  drawMemberships(view);
  drawHistory();
  drawInputs();
  document.body.dataset.shown = key;
}

function readHash() {
  const wanted = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  for (const name of ["input", "layer", "head"]) {
    const value = Number(wanted[name]);
    const known = [...$(name).options].some((option) => option.value === String(value));
    if (wanted[name] !== undefined && known) state[name] = value;
  }
}

function fail(error) {
  $("failure").textContent = `The report cannot be shown: ${error.message ?? error}`;
  $("failure").hidden = false;
}

async function start() {
  fillMenus();
  readHash();
  if (typeof DecompressionStream === "undefined")
    throw new Error("this browser is too old (it needs Chrome 80, Firefox 113 or Safari 16.4)");
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await unzip("plotly"));
  document.head.append(script);
  for (const name of ["input", "layer", "head"])
    $(name).onchange = (event) => select({ [name]: Number(event.target.value) });
  const step = (by) => {
    const size = index.inputs.length;
    select({ input: (state.input + by + size) % size });
  };
  $("previous").onclick = () => step(-1);
  $("next").onclick = () => step(1);
  for (const [name, draw] of [["direction", drawTokens], ["colour", drawTokens], ["mass", drawBlocks]])
    $(name).onchange = async () => draw(await viewOf(keyOf(state)));
  if (index.image) $("colour").value = "none";
  await select({});
}

start().catch(fail);

// The sampled adjacency beside its expectation, sorted by block; finer where one zooms in.

const CELLS = 260;

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
  const data = sample.data, stride = sample.shape[1];
  const total = isExact(info)
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

/** Ticks with the words themselves, where each has room to be read. */
function wordTicks(order, pixels, tickangle, offset = 0.5) {
  const { words } = index.inputs[state.input];
  if (index.image || order.length * 11 > pixels) return { tickmode: "auto", nticks: Math.ceil(pixels / 60) };
  const places = Array.from(order, (_, i) => i + offset);
  const labels = Array.from(order, (token) => escape(String(words[token]).slice(0, 8)));
  return {
    tickmode: "array", tickvals: places, ticktext: labels, tickfont: { size: 10 },
    tickangle: order.length > 12 ? tickangle : 0,
  };
}

/** Strips in the blocks' colours beside the axes, numbered where there is room. */
function blockMarks(view, places, size) {
  const { order } = view.info;
  const shapes = [], annotations = [];
  const strip = (sizes, total, length, place) => {
    let start = 0;
    sizes.forEach((count, i) => {
      const end = start + count, block = order.blocks[i];
      shapes.push({ type: "rect", line: { width: 0 }, fillcolor: blockColour(block), ...place.bar(start, end) });
      const label = String(block);
      if ((count / Math.max(total, 1)) * length >= 7 * label.length + 4)
        annotations.push({
          text: label, showarrow: false, font: { size: 10, color: blockInk(block) },
          ...place.text((start + end) / 2),
        });
      start = end;
    });
  };
  places.forEach(({ x, y, xref, yref }) => {
    const top = y[1], left = x[0];
    strip(order.keySizes, view.info.keys, (x[1] - left) * size.width, {
      bar: (x0, x1) => ({ xref, x0, x1, yref: "paper", ysizemode: "pixel", yanchor: top, y0: 2, y1: 16 }),
      text: (at) => ({ xref, x: at, yref: "paper", y: top, yanchor: "middle", yshift: 9 }),
    });
    strip(order.querySizes, view.info.queries, (top - y[0]) * size.height, {
      bar: (y0, y1) => ({ yref, y0, y1, xref: "paper", xsizemode: "pixel", xanchor: left, x0: -18, x1: -2 }),
      text: (at) => ({ yref, y: at, xref: "paper", x: left, xanchor: "center", xshift: -10 }),
    });
  });
  return { shapes, annotations };
}

/** Where the two matrices stand: side by side, or one above the other where it is narrow. */
function placesOf(width) {
  const narrow = width < 560;
  const gap = 30 / Math.max(width - 130, 200);
  const x = narrow ? [[0, 1], [0, 1]] : [[0, 0.5 - gap / 2], [0.5 + gap / 2, 1]];
  const y = narrow ? [[0.55, 1], [0, 0.45]] : [[0, 1], [0, 1]];
  return { narrow, places: [0, 1].map((i) => ({ x: x[i], y: y[i], xref: i ? "x2" : "x", yref: i ? "y2" : "y" })) };
}

function drawAdjacency(view) {
  const { info } = view;
  const bin = Math.ceil(info.queries / Math.max(info.cells[0], 1));
  $("adjacency-hint").textContent =
    `First: the ${whole(info.edges)} edges that were sampled. Second: their probabilities. Tokens are ` +
    "sorted by strongest block (numbered strips). Drag to zoom, double-click to return. " +
    (isExact(info) ? "Zoomed in, a cell is one edge." : `A cell is at least ${bin} × ${bin} tokens, to keep the file small.`);
  $("strength").textContent = info.sentence;
  const plot = $("adjacency");
  const { narrow, places } = placesOf(plot.clientWidth);
  plot.style.height = narrow ? `${Math.round(1.6 * plot.clientWidth) + 210}px` : "";
  const xRange = [0, Math.max(info.keys, 1)], yRange = [Math.max(info.queries, 1), 0];
  const { grids, zmax } = adjacencyTraces(view, xRange, yRange);
  const margin = { l: 100, r: narrow ? 12 : 66, t: 62, b: 0 };
  const [{ x, y }] = places;
  const inner = { width: plot.clientWidth - margin.l - margin.r };
  const words = wordTicks(view.keyOrder.data, (x[1] - x[0]) * inner.width, -90);
  const below = words.tickmode === "array" ? 96 : 50;
  margin.b = below + (narrow ? 58 : 0);
  inner.height = plot.clientHeight - margin.t - margin.b;
  const traces = grids.map((grid, i) => ({
    type: "heatmap", x: grid.x, y: grid.y, z: grid.z, zmin: 0, zmax, colorscale: scale(),
    xaxis: i ? "x2" : "x", yaxis: i ? "y2" : "y", hoverinfo: "none", showscale: i === 1,
    name: i ? "expected" : "sampled",
    colorbar: {
      title: { text: "edge density", side: narrow ? "top" : "right" }, thickness: 11,
      tickformat: ".1~%", outlinewidth: 0, ...(narrow ? { orientation: "h", y: -below / inner.height, yanchor: "top" } : {}),
    },
  }));
  const axis = {
    ...axisStyle(), showgrid: false, range: xRange, autorange: false, mirror: true, showline: true,
  };
  const across = { ...axis, ...words, title: { text: "key, sorted by block", standoff: 6 } };
  const down = {
    ...axis, ...wordTicks(view.queryOrder.data, (y[1] - y[0]) * inner.height, 0), range: yRange, ticklabelstandoff: 18,
    title: { text: "query, sorted by block", standoff: 4 },
  };
  const marks = blockMarks(view, places, inner);
  const names = places.map(({ x, y }, i) => ({
    text: `<b>${i ? "expected" : "sampled"}</b> ${density(i ? info.expected : info.sampled)}`,
    showarrow: false, xref: "paper", yref: "paper", x: (x[0] + x[1]) / 2, y: y[1], yshift: 18,
    xanchor: "center", yanchor: "bottom",
  }));
  draw("adjacency", traces, {
    margin, dragmode: "zoom", shapes: marks.shapes, annotations: [...names, ...marks.annotations],
    xaxis: { ...across, domain: places[0].x, anchor: "y", ...(narrow ? { showticklabels: false, title: {} } : {}) },
    xaxis2: { ...across, domain: places[1].x, anchor: "y2", matches: "x" },
    yaxis: { ...down, domain: places[0].y },
    yaxis2: { ...down, domain: places[1].y, matches: "y", anchor: "x2", ...(narrow ? {} : { showticklabels: false, title: {} }) },
  }, true);
  listenTo("adjacency", {
    relayout: (change) => {
      if (Object.keys(change).some((name) => /axis\d?\.(range|autorange)/.test(name))) refine(view);
    },
    hover: (event) => describePair(view, event),
    unhover: hideTooltip,
  });
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

// The graph of the blocks, and the memberships over the input.

function drawBlocks(view) {
  const { info } = view;
  const { blocks, clusters, effectiveBlocks, deadBlocks } = info;
  const kind = $("mass").value;
  const mass = blocks[kind];
  const count = blocks.top.length;
  const covered = mass.flat().reduce((a, b) => a + b, 0);
  $("blocks-hint").textContent =
    `${info.sentence} Arrows run from key block to query block; width is the share of ${kind} edges. ` +
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
  const paper = colourOf("paper");
  const nodes = blocks.top.map((_, i) => place(i));
  const traces = [
    {
      type: "scatter", mode: "markers", x: marks.x, y: marks.y, hoverinfo: "text", text: marks.text,
      marker: { symbol: "triangle-up", angle: marks.angle, size: marks.size, color: marks.colour, line: { width: 1, color: paper } },
    },
    {
      type: "scatter", mode: "markers+text", x: nodes.map((p) => p[0]), y: nodes.map((p) => p[1]),
      text: blocks.top.map(String), textfont: { size: 12, color: blocks.top.map(blockInk) }, hoverinfo: "text",
      hovertext: blocks.top.map((b, i) => `block ${b}: ${percent(blocks.share[i])} of expected edges`),
      marker: {
        size: blocks.share.map((share) => 22 + 34 * Math.sqrt(share)), color: blocks.top.map(blockColour),
        line: { width: 2, color: paper }, opacity: 1,
      },
    },
  ];
  const axis = { visible: false, range: [-1.58, 1.58], fixedrange: true };
  draw("blocks", traces, {
    margin: { l: 0, r: 0, t: 24, b: 0 }, showlegend: false, shapes, hovermode: "closest",
    xaxis: axis, yaxis: { ...axis, scaleanchor: "x" },
  });
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
    y: ranked.map((_, b) => b), colorscale: scale(), xaxis: "x", yaxis: i ? "y2" : "y", showscale: i === 0,
    text: undefined, customdata: transpose(side).map((row, b) => row.map(() => ranked[b])),
    hovertemplate: "token %{x:.0f}, block %{customdata}: %{z:.3f}<extra></extra>",
    colorbar: { title: { text: "membership", side: "right" }, thickness: 11, outlinewidth: 0 },
  }));
  const inOrder = Array.from({ length: info.queries }, (_, token) => token);
  const few = ranked.length <= 16;
  const axis = {
    ...axisStyle(), showgrid: false, autorange: "reversed", tickmode: "array",
    tickvals: ranked.map((_, b) => b).filter((b) => few || b % 6 === 0),
    ticktext: ranked.filter((_, b) => few || b % 6 === 0).map(String),
  };
  draw("memberships", traces, {
    margin: { l: 62, r: 10, t: 30, b: 40 },
    xaxis: { ...axisStyle(), ...wordTicks(inOrder, $("memberships").clientWidth - 160, -90, 0), automargin: true, showgrid: false, anchor: "y2", title: { text: "token", standoff: 6 } },
    yaxis: { ...axis, domain: [0.53, 1], title: { text: "block, as queries" } },
    yaxis2: { ...axis, domain: [0, 0.47], title: { text: "block, as keys" } },
  }, true);
}

// All heads at once: thumbnails, the table, density over training and over the inputs.

function drawThumbnails() {
  const box = $("thumbnails");
  box.replaceChildren(...index.layers.flatMap(({ number }) => index.heads.map((head) => thumbnail(number, head))));
}

function thumbnail(layer, head) {
  const key = keyOf({ input: state.input, layer, head });
  const { thumbnail: [rows, columns], sampled } = index.views[key];
  const canvas = make("canvas", { width: Math.max(columns, 1), height: Math.max(rows, 1) });
  const context = canvas.getContext("2d");
  bytesOf(index.thumbnails[key]).forEach((value, i) => {
    context.fillStyle = shade(value / 255);
    context.fillRect(i % columns, Math.floor(i / columns), 1, 1);
  });
  return make("button", {
    type: "button", class: "thumb", "data-focus": `thumb-${layer}-${head}`,
    "aria-pressed": String(layer === state.layer && head === state.head),
    onclick: () => select({ layer, head }),
  }, canvas, make("span", {}, `${headName(layer, head)} · ${density(sampled)}`));
}

function shade(value) {
  const stops = scale();
  const upper = Math.max(1, stops.findIndex(([stop]) => stop >= value));
  const [low, from] = stops[upper - 1], [high, to] = stops[upper];
  const part = (value - low) / (high - low);
  const mix = (i) => {
    const [a, b] = [from, to].map((colour) => parseInt(colour.slice(i, i + 2), 16));
    return Math.round(a + part * (b - a));
  };
  return `rgb(${mix(1)} ${mix(3)} ${mix(5)})`;
}

function drawDensities() {
  const columns = ["head", "expected", "sampled", "mean ± sd", "blocks", "strength"];
  const rows = index.layers.flatMap(({ number, name }) => index.heads.map((h) => {
    const info = infoOf({ input: state.input, layer: number, head: h });
    const all = index.inputs.map((_, input) => infoOf({ input, layer: number, head: h }).sampled);
    const chosen = number === state.layer && h === state.head;
    const choose = () => select({ layer: number, head: h });
    const cells = [
      density(info.expected), density(info.sampled),
      all.length > 1 ? `${(100 * mean(all)).toFixed(1)} ± ${(100 * deviation(all)).toFixed(1)} %` : "–",
      `${info.effectiveBlocks.toFixed(1)} / ${info.clusters}`,
      `${info.strength.toFixed(2)} ${strengthWord(info.strength)}`,
    ];
    const button = make("button", {
      type: "button", class: "link", "data-focus": `row-${number}-${h}`, "aria-pressed": String(chosen),
      "aria-label": `show ${headName(number, h)} (${name})`,
    }, headName(number, h));
    return make("tr", { title: name, "data-chosen": String(chosen), onclick: choose },
      make("th", { scope: "row" }, button), ...cells.map((text) => make("td", {}, text)));
  }));
  fillTable("densities", columns, rows);
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
      type: "scatter", mode: lineMode(line.step), x: line.step, y: line.density,
      name: headName(line.layer, line.head), opacity: chosen ? 1 : 0.45,
      line: { color: PALETTE[i % PALETTE.length], width: chosen ? 3.2 : 1.3 },
      hovertemplate: "step %{x}: %{y:.1%}<extra>%{fullData.name}</extra>",
    };
  });
  draw("history", traces, {
    margin: { l: 52, r: 8, t: 26, b: 62 }, hovermode: "closest",
    legend: { orientation: "h", y: -0.22 }, showlegend: lines.length <= 12,
    xaxis: axisStyle("step"),
    yaxis: densityAxis(),
  });
}

function drawInputs() {
  const lengths = index.inputs.map((item) => item.length);
  const byLength = new Set(lengths).size > 1;
  const x = byLength ? lengths : lengths.map((_, i) => i);
  const traces = index.layers.flatMap(({ number }) => index.heads
    .filter((head) => number !== state.layer || head !== state.head)
    .map((head) => ({
      type: "scatter", mode: "markers", x, hoverinfo: "none", marker: { color: colourOf("edge"), size: 5 },
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
      color: own.map((_, i) => (i === state.input ? colourOf("mark") : colourOf("accent"))),
    },
  });
  traces.push(mark("expected", "circle-open", 13), mark("sampled", "circle", 7));
  draw("inputs", traces, {
    margin: { l: 52, r: 8, t: 26, b: 62 }, showlegend: false, hovermode: "closest",
    xaxis: axisStyle(byLength ? "tokens" : "input"),
    yaxis: densityAxis(),
  });
  listenTo("inputs", { click: ({ points: [point] }) => select({ input: point.pointNumber }) });
}

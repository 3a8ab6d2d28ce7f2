// Runs side by side: rows of models, accuracy against density, heads, curves of training.

const tasks = [...new Set(index.groups.map((group) => group.task))];
const spread = (values, text) => {
  if (!values.length) return "–";
  return values.length > 1 ? `${text(mean(values))} ± ${text(deviation(values))}` : text(mean(values));
};
const points = (x) => (100 * x).toFixed(2);
const known = (runs, name) => runs.map((run) => run[name]).filter((value) => value !== null);
const shown = () => index.groups.filter((group) => group.task === $("task").value);
const measure = () => shown()[0].measure;
const colourOfGroup = (group) => PALETTE[shown().indexOf(group) % PALETTE.length];

function duration(seconds) {
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function drawTable(id, columns, rows) {
  fillTable(id, columns, rows.map(([first, ...cells]) =>
    make("tr", {}, make("th", { scope: "row" }, make("span", {}, ...[first].flat())),
      ...cells.map((text, i) => make("td", { "data-label": columns[i + 1] }, text)))));
}

/** What the pictures' layouts share. */
const layoutOf = (layout) => ({
  margin: { l: 58, r: 10, t: 10, b: 46 }, hovermode: "closest", legend: { orientation: "h", y: -0.2 }, ...layout,
});

function drawModels() {
  const columns = [
    "model", "runs", `${measure()}, %`, "density, %", "block strength", "parameters", "steps", "time", "memory",
  ];
  drawTable("models", columns, shown().map((group) => {
    const { runs } = group;
    const swatch = make("span", { class: "swatch" });
    swatch.style.background = colourOfGroup(group);
    return [
      [swatch, group.name], String(runs.length), spread(known(runs, "accuracy"), points),
      spread(known(runs, "density"), points), spread(known(runs, "strength"), (x) => x.toFixed(3)),
      spread(known(runs, "parameters").slice(0, 1), whole), spread(known(runs, "steps").slice(0, 1), whole),
      spread(known(runs, "seconds").slice(0, 1).length ? [mean(known(runs, "seconds"))] : [], duration),
      spread(known(runs, "memory").slice(0, 1).length ? [mean(known(runs, "memory"))] : [], (x) => `${(x / 2 ** 30).toFixed(2)} GiB`),
    ];
  }));
  const majority = known(shown().flatMap((group) => group.runs), "majority");
  $("models-hint").textContent =
    (majority.length ? `Always answering the commonest class scores ${points(majority[0])} %. ` : "") +
    "Time and memory are means over the runs, on the machine of each run: compare them only where it was the same.";
}

function drawTradeoff() {
  const traces = shown().map((group) => ({
    type: "scatter", mode: "markers", name: group.name,
    x: group.runs.map((run) => run.density ?? 1.04), y: group.runs.map((run) => run.accuracy),
    text: group.runs.map((run) => `${escape(run.folder)}, seed ${escape(run.seed)}`),
    marker: {
      size: 11, color: colourOfGroup(group), line: { width: 1, color: colourOf("paper") },
      symbol: group.runs.map((run) => (run.density === null ? "diamond-open" : "circle")),
    },
    hovertemplate: `%{text}<br>${measure()} %{y:.2%}, density %{x:.2%}<extra>%{fullData.name}</extra>`,
  }));
  const without = shown().some((group) => group.runs.some((run) => run.density === null));
  $("tradeoff-title").textContent = `${measure()[0].toUpperCase()}${measure().slice(1)} against density`;
  $("tradeoff-hint").textContent =
    "One point a run." + (without ? " Open diamonds at the right edge are models that weigh no pairs." : "");
  draw("tradeoff", traces, layoutOf({
    showlegend: true,
    xaxis: { ...axisStyle(), tickformat: ".0~%", range: [-0.03, 1.07], title: { text: "density", standoff: 4 } },
    yaxis: { ...axisStyle(), tickformat: ".1~%", title: { text: `test ${measure()}` } },
  }));
}

function drawHeads() {
  const groups = shown().filter((group) => group.runs.some((run) => run.heads));
  $("heads").hidden = !groups.length;
  $("heads-hint").textContent = groups.length
    ? "Sampled density on the test split, one point a run."
    : "None of these models has SBM layers.";
  if (!groups.length) return;
  // Ten heads and more: in the order of their numbers, not of their names.
  const most = (of) => Math.max(...groups.flatMap((group) => group.runs).map((run) => of(run.heads ?? [])));
  const layers = Array.from({ length: most((heads) => heads.length) }, (_, layer) => layer);
  const names = layers.flatMap((layer) =>
    Array.from({ length: most((heads) => heads[layer]?.length ?? 0) }, (_, head) => `L${layer} H${head}`));
  const traces = groups.map((group) => {
    const dots = group.runs.flatMap((run) => (run.heads ?? []).flatMap((heads, layer) =>
      heads.map((value, head) => ({ x: `L${layer} H${head}`, y: value, text: escape(run.folder) }))));
    return {
      type: "scatter", mode: "markers", name: group.name, x: dots.map((d) => d.x), y: dots.map((d) => d.y),
      text: dots.map((d) => d.text), marker: { size: 9, color: colourOfGroup(group), opacity: 0.8 },
      hovertemplate: "%{text}, %{x}: %{y:.2%}<extra>%{fullData.name}</extra>",
    };
  });
  draw("heads", traces, layoutOf({
    showlegend: groups.length > 1,
    xaxis: { ...axisStyle(), type: "category", categoryorder: "array", categoryarray: names }, yaxis: densityAxis(),
  }));
}

function drawCurves() {
  const name = $("curve").value;
  const lines = shown().flatMap((group) => group.runs
    .filter((run) => run.curves[name])
    .map((run) => ({ group, run, ...run.curves[name] })));
  $("curves").hidden = !lines.length;
  $("curves-hint").textContent = lines.length
    ? "One line a run, in its model's colour."
    : "The runs' folders have no metrics.csv with this.";
  if (!lines.length) return;
  draw("curves", lines.map(({ group, run, step, value }) => ({
    type: "scatter", mode: lineMode(step), x: step, y: value, name: group.name,
    text: step.map(() => escape(run.folder)), line: { color: colourOfGroup(group), width: 1.6 }, marker: { color: colourOfGroup(group) },
    hovertemplate: "%{text}<br>step %{x}: %{y:.2%}<extra>%{fullData.name}</extra>",
  })), layoutOf({
    showlegend: false,
    xaxis: axisStyle("step"),
    yaxis: { ...axisStyle(), tickformat: ".1~%", title: { text: name } },
  }));
}

function drawRuns() {
  const columns = ["folder", "model", "seed", `${measure()}, %`, "density, %", "density of the heads, %", "device"];
  drawTable("runs", columns, shown().flatMap((group) => group.runs.map((run) => [
    run.folder, group.name, run.seed, run.accuracy === null ? "–" : points(run.accuracy),
    run.density === null ? "–" : points(run.density),
    run.heads ? run.heads.map((heads) => heads.map((x) => (100 * x).toFixed(1)).join(" ")).join(" | ") : "–",
    run.device,
  ])));
}

function drawAll() {
  delete document.body.dataset.shown;
  drawModels();
  drawTradeoff();
  drawHeads();
  drawCurves();
  drawRuns();
  document.body.dataset.shown = $("task").value;
}

async function start() {
  fillMenu("task", tasks);
  fillMenu("curve", index.curves);
  $("curves-panel").hidden = !index.curves.length;
  const asked = decodeURIComponent(location.hash.slice(1));
  if (tasks.includes(asked)) $("task").value = asked;
  await loadPlotly();
  $("task").onchange = () => {
    history.replaceState(null, "", `#${encodeURIComponent($("task").value)}`);
    drawAll();
  };
  $("curve").onchange = drawCurves;
  addEventListener("hashchange", () => {
    const task = decodeURIComponent(location.hash.slice(1));
    if (tasks.includes(task)) $("task").value = task;
    drawAll();
  });
  followScreen(drawAll);
  drawAll();
}

start().catch(fail);

// Plotly: loaded from the page itself, with the page's colours, and no button that leads off it.

const PALETTE = [
  "#4269d0", "#efb118", "#ff725c", "#3ca951", "#a463f2", "#6cc5b0", "#ff8ab7", "#9c6b4e",
  "#2d9bb5", "#b8c43a", "#d1495b", "#7b8794",
];
const SCALES = {
  light: [
    [0, "#ffffff"], [0.12, "#e6f0f9"], [0.35, "#a9cfe8"], [0.6, "#4c9aca"], [0.82, "#175fa6"],
    [1, "#06264f"],
  ],
  dark: [
    [0, "#17202a"], [0.12, "#1d3850"], [0.35, "#22618f"], [0.6, "#3f97c9"], [0.82, "#90cdec"],
    [1, "#f2fbff"],
  ],
};
const DARK = matchMedia("(prefers-color-scheme: dark)");

const scale = () => SCALES[DARK.matches ? "dark" : "light"];
const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** What every layout starts from. */
function plain(layout) {
  const ink = colourOf("ink");
  return {
    font: { family: "system-ui, sans-serif", size: 12, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { bgcolor: colourOf("paper"), bordercolor: colourOf("edge"), font: { color: ink } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colourOf("soft"), activecolor: ink },
    ...layout,
  };
}

const axisStyle = (title) => ({
  gridcolor: colourOf("line"), zeroline: false, linecolor: colourOf("edge"),
  ...(title ? { title: { text: title, standoff: 4 } } : {}),
});

const densityAxis = () => ({
  ...axisStyle(), tickformat: ".0~%", rangemode: "tozero", title: { text: "density" },
});
const lineMode = (values) => (values.length > 1 ? "lines" : "markers");

/** Only these buttons: plotly's own list has one that uploads the chart. */
function configOf(zoom) {
  return {
    responsive: false, displaylogo: false, scrollZoom: false, plotlyServerURL: "", showTips: false,
    displayModeBar: zoom, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]],
  };
}

/** Below every picture, buttons that save it as a file. */
function addDownloads() {
  for (const plot of document.querySelectorAll(".plot")) {
    const button = (format) => make("button", {
      type: "button", class: "link", "aria-label": `save the ${plot.id} picture as ${format.toUpperCase()}`,
      onclick: () => savePicture(plot, format),
    }, format.toUpperCase());
    plot.after(make("p", { class: "save hint" }, "Save as ", button("png"), " ", button("svg")));
  }
}

async function savePicture(plot, format) {
  const url = await pictureOf(plot, format);
  make("a", { href: url, download: `${plot.id}.${format}` }).click();
}

/** A picture as a data URL, on the page's own ground, twice as fine as the screen where of pixels. */
function pictureOf(plot, format) {
  const { width, height } = plot.getBoundingClientRect();
  const layout = { ...plot.layout, paper_bgcolor: colourOf("paper") };
  const figure = { data: plot.data, layout, config: {} };
  return Plotly.toImage(figure, { format, width, height, scale: format === "png" ? 2 : 1 });
}

/** Draws a picture in the size that its element has now. */
function draw(id, traces, layout, zoom = false) {
  const plot = $(id);
  const size = { width: plot.clientWidth, height: plot.clientHeight };
  // Margins that colour bars push out are kept from the former size, and would squeeze this one.
  const former = plot.layout;
  if (former && (former.width !== size.width || former.height !== size.height)) Plotly.purge(plot);
  return Plotly.react(plot, traces, plain({ ...layout, ...size }), configOf(zoom));
}

/** Calls `redraw` where the page gets another width or theme. */
function followScreen(redraw) {
  let width = innerWidth, waiting = null;
  DARK.addEventListener("change", () => redraw());
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 120);
  });
}

function listenTo(id, events) {
  const plot = $(id);
  for (const [name, handler] of Object.entries(events)) {
    plot.removeAllListeners?.(`plotly_${name}`);
    plot.on(`plotly_${name}`, handler);
  }
}

async function loadPlotly() {
  if (typeof DecompressionStream === "undefined")
    throw new Error("this browser is too old (it needs Chrome 80, Firefox 113 or Safari 16.4)");
  document.head.append(make("script", {}, new TextDecoder().decode(await unzip("plotly"))));
  addDownloads();
}

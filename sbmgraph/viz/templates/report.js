// The page: menus, the address, and drawing everything anew when something else is chosen.

/** What the model says of an input, and how sure it is. */
function verdict({ vote }) {
  if (!vote) return "";
  const [[label, count]] = Object.entries(vote.counts).sort((a, b) => b[1] - a[1]);
  const total = Object.values(vote.counts).reduce((a, b) => a + b, 0);
  return `predicted ${label} by ${count} of ${total} sampled graphs`;
}

function describeVote({ vote }) {
  if (!vote) return "";
  const ranked = Object.entries(vote.counts).sort((a, b) => b[1] - a[1]);
  const total = ranked.reduce((sum, [, count]) => sum + count, 0);
  const [[label, count], ...others] = ranked;
  const sure = count === total ? "sure" : count > (2 * total) / 3 ? "fairly sure" : "unsure";
  return `Prediction: class ${label}, by ${count} of ${total} sampled graphs (${sure}; mean probability ` +
    `${percent(vote.probability, 0)})` +
    (others.length ? `; others: ${others.map(([c, n]) => `${c} by ${n}`).join(", ")}` : "") +
    `. The graph on this page says ${vote.shown}.`;
}

function fillMenus() {
  const about = (item) => [
    `input ${item.name}`, `${whole(item.length)} tokens`, item.label, verdict(item),
  ].filter(Boolean).join(" · ");
  $("input").replaceChildren(...index.inputs.map((item, i) => new Option(about(item), i)));
  $("layer").replaceChildren(...index.layers.map(({ number, name }) => new Option(`${number} (${name})`, number)));
  $("head").replaceChildren(...index.heads.map((head) => new Option(head, head)));
  const facts = Object.entries(index.summary).map(([name, text]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, text)));
  $("summary").replaceChildren(...facts);
}

function showState() {
  for (const name of ["input", "layer", "head"]) $(name).value = state[name];
  const info = infoOf(state);
  $("facts").textContent =
    `${density(info.expected)} expected · ${density(info.sampled)} sampled · ${whole(info.edges)} edges · ` +
    `block strength ${info.strength.toFixed(2)}`;
  $("vote").textContent = describeVote(index.inputs[state.input]);
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
  keepingFocus(() => {
    drawThumbnails();
    drawTable();
  });
  drawAdjacency(view);
  drawTokens(view);
  drawBlocks(view);
  drawMemberships(view);
  drawHistory();
  drawInputs();
  document.body.dataset.shown = key;
}

/** What the address asks for, as far as it exists. */
function wanted() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const out = {};
  for (const name of ["input", "layer", "head"]) {
    const known = [...$(name).options].some((option) => option.value === asked.get(name));
    if (known) out[name] = Number(asked.get(name));
  }
  return out;
}

/** Draws anew where the width of the page has changed. */
function followWidth() {
  let width = innerWidth, waiting = null;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => select({}), 120);
  });
}

async function start() {
  fillMenus();
  Object.assign(state, wanted());
  await loadPlotly();
  for (const name of ["input", "layer", "head"])
    $(name).onchange = (event) => select({ [name]: Number(event.target.value) });
  const step = (by) => {
    const size = index.inputs.length;
    select({ input: (state.input + by + size) % size });
  };
  $("previous").onclick = () => step(-1);
  $("next").onclick = () => step(1);
  for (const [name, drawn] of [["direction", drawTokens], ["colour", drawTokens], ["mass", drawBlocks]])
    $(name).onchange = async () => drawn(await viewOf(keyOf(state)));
  $("tokens").addEventListener("focusin", (event) => focusing.in(event));
  $("tokens").addEventListener("focusout", (event) => focusing.out(event));
  if (index.image) $("colour").value = "none";
  addEventListener("hashchange", () => select(wanted()));
  DARK.addEventListener("change", () => select({}));
  followWidth();
  await select({});
}

start().catch(fail);

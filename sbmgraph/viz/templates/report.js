// The page: menus, the address, and drawing everything anew when something else is chosen.

/** What the model says of an input over several sampled graphs, and how far these agree. */
function describeVote({ vote }) {
  if (!vote) return "";
  const ranked = Object.entries(vote.counts).sort((a, b) => b[1] - a[1]);
  const total = ranked.reduce((sum, [, count]) => sum + count, 0);
  const [[label, count], ...others] = ranked;
  const agree = count === total ? "all agree" : count > (2 * total) / 3 ? "most agree" : "they disagree";
  return `Prediction: class ${label} by ${count} of ${total} sampled graphs, ${agree}` +
    (others.length ? ` (${others.map(([c, n]) => `${c} by ${n}`).join(", ")})` : "") +
    `; mean probability ${percent(vote.probability, 0)}. The graph on this page says ${vote.shown}.`;
}

function fillMenus() {
  const about = (item) => [
    `input ${item.name}`, `${whole(item.length)} tokens`, item.label,
  ].filter(Boolean).join(" · ");
  fillMenu("input", index.inputs.map((item, i) => [about(item), i]));
  fillMenu("layer", index.layers.map(({ number, name }) => [`${number} (${name})`, number]));
  fillMenu("head", index.heads);
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
  const item = index.inputs[state.input];
  $("vote").textContent = [`Input ${item.name}${item.label && `: ${item.label}`}.`, describeVote(item)].join(" ");
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
    drawDensities();
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
  followScreen(() => select({}));
  await select({});
}

start().catch(fail);

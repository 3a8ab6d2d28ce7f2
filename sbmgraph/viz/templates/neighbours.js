// Who attends to whom: a token's neighbours, and what there is to say about it.

/** Neighbours of a token and the strength (0 to 1) of each; 0 where only the edge is known. */
function neighboursOf(view, token) {
  const out = new Map();
  const { info } = view;
  const outgoing = $("direction").value === "out";
  if (isExact(info)) {
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

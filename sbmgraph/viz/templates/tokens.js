// The input itself. A token is chosen by pointing, by touch or by the arrow keys, and then shows its
// neighbours; clicking, Enter or Space pins it, Escape lets go.

const quote = (word) => (index.image ? `(grey ${word})` : `“${word}”`);
const SHOWN = { "\n": "⏎", "\t": "⇥", "": "∅", " ": "␣" };
const focusing = { in: () => {}, out: () => {} };
let chosenToken = { pinned: null, cursor: 0 };

function drawTokens(view) {
  const box = $("tokens");
  const length = index.inputs[state.input].length;
  chosenToken = { pinned: null, cursor: Math.min(chosenToken.cursor, Math.max(length - 1, 0)) };
  keepingFocus(() => {
    box.replaceChildren();
    box.classList.remove("fade");
    (index.image ? drawImage : drawWords)(view, box);
  });
  describeToken(view, box.contains(document.activeElement) ? chosenToken.cursor : null);
}

function tokenColour(view, token) {
  const mode = $("colour").value;
  if (mode === "query") return blockColour(view.queryBlock[token]) + "59";
  if (mode === "key") return blockColour(view.keyBlock[token]) + "59";
  if (mode === "received") return `rgb(${colourOf("hot")}, ${(view.received.data[token] / 255).toFixed(3)})`;
  return "none";
}

function tokenLabel(view, token) {
  const { words } = index.inputs[state.input];
  return `token ${token} ${quote(words[token])}, block ${view.queryBlock[token]} as query, ` +
    `${view.keyBlock[token]} as key, attends to ${view.degree.data[token]}`;
}

function drawWords(view, box) {
  const { words } = index.inputs[state.input];
  box.classList.toggle("characters", words.every((word) => word.length <= 1));
  const spans = words.map((word, token) => {
    const span = make("span", {
      class: "token", role: "button", "data-token": token, "data-focus": `token-${token}`,
      tabindex: token === chosenToken.cursor ? 0 : -1, "aria-label": tokenLabel(view, token),
    }, SHOWN[word] ?? word);
    span.style.background = tokenColour(view, token);
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
  const focus = (token) => {
    spans[chosenToken.cursor].tabIndex = -1;
    spans[token].tabIndex = 0;
    spans[token].focus();
  };
  /** The token of the next line, up or down, that stands nearest to this one's column. */
  const beside = (token, down) => {
    const { offsetTop: row, offsetLeft: column } = spans[token];
    const order = down ? spans.slice(token + 1) : spans.slice(0, token).reverse();
    const line = order.find((span) => span.offsetTop !== row)?.offsetTop;
    const near = order.filter((span) => span.offsetTop === line);
    near.sort((a, b) => Math.abs(a.offsetLeft - column) - Math.abs(b.offsetLeft - column));
    return near.length ? Number(near[0].dataset.token) : token;
  };
  listen(box, view, { size: spans.length, tokenAt, choose, focus, beside });
}

function drawImage(view, box) {
  const [height, width] = index.image;
  const pixel = Math.max(1, Math.floor(Math.min(380, box.clientWidth - 20) / Math.max(height, width)));
  const canvas = make("canvas", {
    tabindex: 0, role: "application", "data-focus": "image",
    "aria-label": "the image; arrow keys choose a pixel", width: width * pixel, height: height * pixel,
  });
  box.append(canvas);
  const context = canvas.getContext("2d");
  const { words } = index.inputs[state.input];
  const at = (token) => [(token % width) * pixel, Math.floor(token / width) * pixel, pixel, pixel];
  const choose = (token) => {
    words.forEach((grey, i) => {
      context.fillStyle = `rgb(${grey} ${grey} ${grey})`;
      context.fillRect(...at(i));
      const colour = tokenColour(view, i);
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
  const beside = (token, down) => {
    const other = token + (down ? width : -width);
    return other >= 0 && other < words.length ? other : token;
  };
  listen(box, view, { size: words.length, tokenAt, choose, focus: () => canvas.focus(), beside });
}

function listen(box, view, { size, tokenAt, choose, focus, beside }) {
  let shown = null;
  const show = (token) => {
    if (token === shown) return;
    shown = token;
    choose(token);
    describeToken(view, token);
  };
  const pin = (token) => {
    chosenToken.pinned = token === chosenToken.pinned ? null : token;
    show(token);
  };
  const go = (token) => {
    focus(token);
    chosenToken.cursor = token;
    if (chosenToken.pinned === null) show(token);
  };
  box.onmousemove = (event) => chosenToken.pinned === null && show(tokenAt(event));
  box.onmouseleave = () => chosenToken.pinned === null && show(null);
  box.onclick = (event) => {
    const token = tokenAt(event);
    pin(token);
    if (token !== null) go(token);
  };
  focusing.in = (event) => {
    if (!event.target.matches(":focus-visible") || chosenToken.pinned !== null) return;
    show(event.target.dataset.token ? Number(event.target.dataset.token) : chosenToken.cursor);
  };
  focusing.out = () => chosenToken.pinned === null && show(null);
  box.onkeydown = (event) => {
    const { cursor } = chosenToken;
    const keys = {
      ArrowRight: () => go(Math.min(cursor + 1, size - 1)), ArrowLeft: () => go(Math.max(cursor - 1, 0)),
      ArrowDown: () => go(beside(cursor, true)), ArrowUp: () => go(beside(cursor, false)),
      Home: () => go(0), End: () => go(size - 1), Enter: () => pin(cursor), " ": () => pin(cursor),
      Escape: () => { chosenToken.pinned = null; show(cursor); },
    };
    if (!size || !keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  };
}

"use strict";
// What every page needs: its data, elements by id, numbers for people, the tooltip.

const $ = (id) => document.getElementById(id);
const index = JSON.parse($("index").textContent);

const percent = (x, digits = 1) => `${(100 * x).toFixed(digits)} %`;
const density = (x) => percent(x, x < 0.01 ? 2 : 1);
const whole = (x) => Math.round(x).toLocaleString("en");
const escape = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const deviation = (values) =>
  Math.sqrt(values.reduce((a, b) => a + (b - mean(values)) ** 2, 0) / Math.max(values.length - 1, 1));

/** A new element with attributes, properties of `on…`, and children or text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Options of a menu: pairs of what is shown and its value, or texts that are both. */
function fillMenu(id, options) {
  $(id).replaceChildren(...options.map((option) => {
    const [text, value] = Array.isArray(option) ? option : [option, option];
    return new Option(text, value);
  }));
}

/** A table of a head and rows that are elements already. */
function fillTable(id, columns, rows) {
  const head = make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)));
  $(id).replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

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

function showTooltip(event, text) {
  const tip = $("tooltip");
  tip.textContent = text;
  tip.hidden = false;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(left, 0)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
}

function hideTooltip() {
  $("tooltip").hidden = true;
}

function fail(error) {
  $("failure").textContent = `The page cannot be shown: ${error.message ?? error}`;
  $("failure").hidden = false;
}

/** Draws anew what `draw` made, and puts the focus back on the element of the same name. */
function keepingFocus(draw) {
  const name = document.activeElement?.dataset?.focus;
  draw();
  if (name === undefined || document.activeElement?.dataset?.focus === name) return;
  document.querySelector(`[data-focus="${CSS.escape(name)}"]`)?.focus({ preventScroll: true });
}

"use strict";
// Elements of the page, and numbers as text. Names and reasons come from files: they
// are written with textContent only, never as HTML.

const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  setAttributes(made, attributes);
  made.append(...children);
  return made;
}

function svgElement(tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAttributes(made, attributes);
  made.textContent = text;
  return made;
}

function setAttributes(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// "–" for what is missing, a real minus sign.
function fixed(value, digits) {
  if (!isNumber(value)) return "–";
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

const energyText = (value) => fixed(value, 4);

// A number as somebody would type it, for conditions and ticks.
function plain(value) {
  return String(Number(value.toPrecision(10))).replace("-", "−");
}

const countText = (value) => value.toLocaleString("en-US");

function percent(part, whole) {
  if (!whole) return "–";
  const share = (100 * part) / whole;
  return `${share > 0 && share < 10 ? share.toFixed(1) : Math.round(share)} %`;
}

// Au1Cu3 → AuCu₃.
function formulaText(formula) {
  return formula.replace(/([A-Za-z])(\d+)/g, (_, letter, count) =>
    count === "1" ? letter : letter + count.replace(/\d/g, (d) => "₀₁₂₃₄₅₆₇₈₉"[d]));
}

function plural(count, noun) {
  return `${countText(count)} ${noun}${count === 1 ? "" : "s"}`;
}

function describeList(pairs) {
  return pairs.flatMap(([name, value]) => [
    element("dt", {}, name),
    element("dd", {}, value),
  ]);
}

// rows: arrays of strings or nodes; the first column is left, the others are right.
function simpleTable(headings, rows, className = "") {
  const head = element("tr", {}, ...headings.map((text) => element("th", { scope: "col" }, text)));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
  return element("table", { class: className },
    element("thead", {}, head), element("tbody", {}, ...body));
}

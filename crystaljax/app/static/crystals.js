"use strict";
// The crystals of a job: pictures in the order that is wished, the table, hulls, files.

// What is shown: {job, rows, structures, elements, byNumber, number, …}; null: nothing.
let shown = null;
let crystalTable = null;
const chosen = new Set(); // numbers
const charts = [];

const SORTS = {
  estimated_energy: "estimated energy",
  above_hull: "energy above the hull",
  relaxed_energy: "relaxed energy",
  requested_energy: "requested energy",
  estimated_difference: "estimated energy less the input's",
  difference: "energy difference",
  group: "space group",
  volume: "volume",
  probability: "likelihood",
  number: "number",
};

function clearCrystals() {
  shown = null;
  byId("crystals").hidden = true;
}

async function showCrystals(job, focus = false) {
  const found = await trying(byId("trouble"), () => getJson(`api/jobs/${job.id}/results`));
  if (!found) return;
  shown = { ...found, job: job.id, number: null,
    byNumber: new Map(found.rows.map((row) => [row.number, row])) };
  chosen.clear();
  byId("crystals").hidden = false;
  byId("crystals-heading").textContent = job.title;
  byId("command").textContent = job.command_line;
  const lines = found.is_screening
    ? [`Energies: formation energies of ${found.energy_models.join(", ") || "an unknown model"}` +
      (found.hull ? `; hull: ${found.hull}.` : "; there is no hull.")]
    : ["As generated: neither relaxed nor known to be stable. Estimated energies are the model's own."];
  byId("notes").replaceChildren(...[...lines, ...found.notes].map((text) =>
    element("p", { class: "note" }, text)));
  fillSorts();
  fillTable();
  fillLeftOut();
  fillHulls(job);
  drawGallery();
  showChosen();
  byId("viewer").hidden = !found.rows.length;
  if (found.rows.length) look(sortedRows()[0].number);
  if (focus) {
    byId("crystals-heading").focus({ preventScroll: true });
    byId("crystals").scrollIntoView({ block: "start" });
  }
}

function fillSorts() {
  const before = byId("sort").value;
  const keys = Object.keys(SORTS).filter((key) => shown.rows.some((row) => isNumber(row[key])));
  byId("sort").replaceChildren(...keys.map((key) => element("option", { value: key }, SORTS[key])));
  byId("sort").value = keys.includes(before) ? before : keys[0] ?? "number";
}

function sortedRows() {
  const key = byId("sort").value;
  const sign = byId("descending").getAttribute("aria-pressed") === "true" ? -1 : 1;
  return [...shown.rows].sort((one, other) => {
    const [a, b] = [one[key], other[key]].map((value) => (isNumber(value) ? value : null));
    if (a === null || b === null) return (a === null) - (b === null) || one.number - other.number;
    return sign * (a - b) || one.number - other.number;
  });
}

function drawGallery() {
  const key = byId("sort").value;
  const text = (row) => {
    if (key === "volume") return `${fixed(row.volume, 2)} Å³/atom`;
    if (key === "probability") return percent(row.probability ?? 0, 1);
    const energy = [key, "above_hull", "relaxed_energy", "estimated_energy", "requested_energy"]
      .find((each) => each !== "group" && each !== "number" && isNumber(row[each]));
    return energy ? `${fixed(row[energy], 3)} eV/atom` : "";
  };
  byId("gallery").replaceChildren(...sortedRows().map((row) => {
    const button = element("button", {
      type: "button", "data-number": row.number, "aria-pressed": row.number === shown.number },
    pictureOf(shown.structures[row.number], shown.elements),
    element("b", {}, formulaText(row.formula)),
    element("small", {}, groupName(row.group)),
    element("small", {}, text(row)));
    button.addEventListener("click", () => look(row.number, true));
    const box = element("input", { type: "checkbox", "data-choose": row.number,
      "aria-label": `choose ${row.name}` });
    box.checked = chosen.has(row.number);
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(row.number);
      else chosen.delete(row.number);
      showChosen();
    });
    return element("div", { role: "listitem" }, button, box);
  }));
  byId("row-count").textContent = plural(shown.rows.length, "crystal");
}

function markLookedAt(number) {
  for (const button of document.querySelectorAll("#gallery button")) {
    button.setAttribute("aria-pressed", Number(button.dataset.number) === number);
  }
  const place = shown.rows.findIndex((row) => row.number === number);
  crystalTable?.select(place);
  const row = shown.rows[place];
  for (const chart of charts) chart.mark(row.place ?? null);
}

// ---- Table ---------------------------------------------------------------------------

function fillTable() {
  const { rows } = shown;
  const number = (key, label, note, digits) => ({
    key, label, note, text: (row) => fixed(rows[row][key] ?? null, digits) });
  const columns = [
    { key: "number", label: shown.is_screening ? "rank" : "no.", text: (row) => String(rows[row].number) },
    { key: "formula", label: "formula", isText: true, isButton: true, text: (row) => formulaText(rows[row].formula) },
    number("above_hull", "above hull", "eV/atom", 4),
    number("relaxed_energy", "energy", "relaxed, eV/atom", 4),
    number("estimated_energy", "energy", "estimated, eV/atom", 3),
    number("requested_energy", "energy", "requested, eV/atom", 3),
    { key: "group", label: "group", isText: true, text: (row) => groupName(rows[row].group) },
    number("volume", "volume", "Å³/atom", 2),
    { key: "wyckoff", label: "Wyckoff positions", isText: true, text: (row) => rows[row].wyckoff ?? "" },
    { key: "known_as", label: "known as", isText: true, text: (row) => rows[row].known_as ?? "" },
  ].filter(({ key }) => rows.some((row) => row[key] !== undefined && row[key] !== null && row[key] !== ""));
  const table = Object.fromEntries(columns.map(({ key }) => [key, rows.map((row) => row[key] ?? null)]));
  crystalTable = rows.length ? new CandidateTable(byId("table"), table, columns, {
    rankKey: "number", meanings: {}, haystack: () => "", counted: () => {},
    choose: (row) => look(rows[row].number, true) }) : null;
  if (!rows.length) byId("table").replaceChildren();
}

function fillLeftOut() {
  const { left_out: leftOut } = shown;
  byId("left-out").hidden = !leftOut.length;
  byId("left-out").open = !shown.rows.length;
  byId("left-out-count").textContent = `${plural(leftOut.length, "crystal")} left out, and why`;
  byId("left-out-list").replaceChildren(simpleTable(["name", "reason"], leftOut, "words"));
}

// ---- Chosen crystals -----------------------------------------------------------------

function chosenNumbers() {
  return chosen.size ? sortedRows().map((row) => row.number).filter((each) => chosen.has(each))
    : sortedRows().map((row) => row.number);
}

const fileAddress = (format, numbers) =>
  `jobs/${shown.job}/files/${format}?numbers=${numbers.join(",")}`;

function showChosen() {
  byId("chosen-count").textContent = chosen.size
    ? `${countText(chosen.size)} chosen` : "none chosen: all are used";
  for (const format of ["extxyz", "zip"]) {
    byId(`get-${format}`).href = fileAddress(format, chosenNumbers());
  }
  fillPotentials();
}

function chooseAll(all) {
  chosen.clear();
  if (all) for (const row of shown.rows) chosen.add(row.number);
  for (const box of document.querySelectorAll("[data-choose]")) box.checked = all;
  showChosen();
}

// Potentials that have the elements of the crystals that are chosen.
function fillPotentials() {
  const before = byId("calculator").value;
  const symbols = [...new Set(chosenNumbers().flatMap((number) =>
    [...symbolsIn(shown.byNumber.get(number).formula)]))];
  const options = about.potentials.map(({ name, title, elements, fetches }) => {
    const missing = elements ? symbols.filter((each) => !elements.includes(each)) : [];
    const text = missing.length ? `${title}: not for ${missing.join(", ")}`
      : fetches ? `${title}: fetches its weights` : title;
    const option = element("option", { value: name }, text);
    option.disabled = missing.length > 0;
    return option;
  });
  byId("calculator").replaceChildren(...options);
  const same = options.findIndex(({ value, disabled }) => value === before && !disabled);
  byId("calculator").selectedIndex =
    same >= 0 ? same : options.findIndex((option) => !option.disabled);
  fillHullChoices();
}

function fillHullChoices() {
  const before = byId("hull").value;
  const words = Object.keys(about.hulls)
    .filter((word) => word !== "builtin" || byId("calculator").value === "emt");
  byId("hull").replaceChildren(...words.map((word) =>
    element("option", { value: word }, about.hulls[word])));
  byId("hull").value = words.includes(before) ? before
    : words.includes("relaxed") ? "relaxed" : words.at(-1);
}

async function relaxChosen(event) {
  event.preventDefault();
  const job = await trying(byId("relax-note"), () => postJson("api/jobs", {
    kind: "relax", job: shown.job, numbers: chosenNumbers(),
    calculator: byId("calculator").value, hull: byId("hull").value,
    keep_symmetry: byId("keep-symmetry").checked }));
  if (job) await jobAdded(job);
}

// ---- Hulls ---------------------------------------------------------------------------

function fillHulls(job) {
  byId("hulls").hidden = !shown.is_screening;
  byId("systems").replaceChildren();
  charts.length = 0;
  if (!shown.is_screening) return;
  byId("systems-note").textContent = shown.systems_note;
  byId("report").href = `jobs/${job.id}/report.html`;
  const byPlace = new Map(shown.rows.map((row) => [row.place, row]));
  const energyModel = shown.energy_models.join(", ");
  const candidate = (place) => {
    const row = byPlace.get(place);
    return { formula: row.formula, energy: row.relaxed_energy, above: row.above_hull ?? null,
      lines: () => [`${formulaText(row.formula)}, rank ${row.number}`, row.name,
        `relaxed ${energyText(row.relaxed_energy)} eV/atom (${energyModel})`,
        `above hull ${energyText(row.above_hull)} eV/atom`] };
  };
  charts.push(...shown.systems.map((system) => hullDiagram(byId("systems"), system, {
    energyModel, candidate, choose: (place) => look(byPlace.get(place).number) })));
}

function fillCrystals() {
  viewer = new Viewer(byId("canvas"), {});
  viewer.obeyControls();
  byId("sort").addEventListener("change", drawGallery);
  byId("descending").addEventListener("click", (event) => {
    const pressed = event.target.getAttribute("aria-pressed") === "true";
    event.target.setAttribute("aria-pressed", !pressed);
    drawGallery();
  });
  byId("choose-all").addEventListener("click", () => chooseAll(true));
  byId("choose-none").addEventListener("click", () => chooseAll(false));
  byId("calculator").addEventListener("change", fillHullChoices);
  byId("relax").addEventListener("submit", relaxChosen);
  byId("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId("command").textContent);
    byId("copy").textContent = "copied";
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => viewer.draw());
}

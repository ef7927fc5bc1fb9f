"use strict";
// The form: what is asked for, checked by the library while it is typed.

const CHECK_PAUSE = 250; // ms without a key
let periodicTable;
let checking = 0;
let checkTimer = 0;

const radio = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

// Symbols in a text such as TaB2 or Ta-B.
const symbolsIn = (text) => new Set(text.match(/[A-Z][a-z]?/g) ?? []);

function pickElement(symbol) {
  const box = byId("composition");
  const picked = symbolsIn(box.value);
  if (radio("what") === "system") {
    if (!picked.delete(symbol)) picked.add(symbol);
    box.value = [...picked].join("-");
  } else if (picked.has(symbol)) {
    box.value = box.value.replace(new RegExp(`${symbol}(?![a-z])[0-9]*`, "g"), "");
  } else {
    box.value += symbol;
  }
  compositionChanged();
}

function compositionChanged() {
  periodicTable.show(symbolsIn(byId("composition").value));
  checkSoon();
}

function askedValues() {
  const composition = byId("composition").value.trim();
  const isSystem = radio("what") === "system";
  const number = (id) => (byId(id).value === "" ? null : Number(byId(id).value));
  const energy = byId("energy").value.trim();
  const groups = [...byId("groups").selectedOptions].map((option) => option.value);
  const energies = { low: about.of_orbits ? "" : "0", value: energy,
    hull: energy.split(",").map(aboveHull).join(",") };
  return {
    kind: "sample",
    [isSystem ? "system" : "formulas"]: composition,
    ...(isSystem ? { max_atoms: number("max-atoms") } : { formula_units: byId("units").value }),
    space_groups: radio("group") ? groups.join(",") : "",
    energies: energies[radio("energy")],
    num_samples: number("num-samples"),
    seed: number("seed"),
  };
}

// 0.05 → hull+0.05; ends of a range alike, its step stays.
function aboveHull(part) {
  return part.split(":").map((end, place) => {
    const text = end.trim();
    if (place === 2) return text;
    return text.startsWith("-") ? `hull${text}` : `hull+${text.replace(/^\+/, "")}`;
  }).join(":");
}

function checkSoon() {
  clearTimeout(checkTimer);
  checkTimer = setTimeout(check, CHECK_PAUSE);
}

async function check() {
  const box = byId("check");
  const values = askedValues();
  // Answers may come in another order than the questions.
  const mine = ++checking;
  if (!(values.formulas || values.system)) {
    box.textContent = "";
    box.classList.remove("bad");
    markGroups(null);
    return;
  }
  try {
    const found = await postJson("api/check", values);
    if (mine !== checking) return;
    const shown = found.cells.slice(0, 6).map(formulaText).join(", ");
    box.textContent = `${plural(found.cells.length, "cell")}: ${shown}` +
      `${found.cells.length > 6 ? ", …" : ""}`;
    box.classList.remove("bad");
    markGroups(new Set(found.feasible));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (mine !== checking) return;
    box.textContent = error.message;
    box.classList.add("bad");
  }
}

// Marks the space groups whose Wyckoff positions the sites can fill; null: not known.
function markGroups(feasible) {
  for (const option of byId("groups").options) {
    const number = Number(option.value);
    const can = !feasible || feasible.has(number);
    option.textContent = `${feasible && can ? "✓ " : ""}${groupName(number)}`;
    option.disabled = !can;
    if (!can) option.selected = false;
  }
  byId("groups-note").textContent = feasible
    ? `✓ ${feasible.size} of 230 can have this composition; several can be chosen.` : "";
}

const groupName = (number) =>
  (number ? `${number} ${(about.symbols[number] ?? "").replaceAll("_", "")}` : "none");

function showFields() {
  const isSystem = radio("what") === "system";
  byId("units-field").hidden = isSystem;
  byId("atoms-field").hidden = !isSystem;
  byId("composition").placeholder = isSystem ? "Ta-B" : "TaB2";
  byId("groups").hidden = byId("groups-note").hidden = !radio("group");
  byId("energy").hidden = radio("energy") === "low";
}

function whatChanged() {
  const box = byId("composition");
  const picked = [...symbolsIn(box.value)];
  box.value = picked.join(radio("what") === "system" ? "-" : "");
  compositionChanged();
}

function fillForm() {
  periodicTable = new PeriodicTable(byId("periodic"), new Set(about.elements), pickElement);
  byId("groups").append(...about.symbols.slice(1).map((_, place) =>
    element("option", { value: place + 1 }, groupName(place + 1))));
  const units = [...(about.of_orbits ? ["likely"] : []), "1", "2", "1,2", "1:4"];
  byId("units-list").append(...units.map((value) => element("option", { value })));
  byId("max-atoms").max = about.max_sites;
  byId("hull-choice").hidden = !about.hull;
  if (!about.of_orbits) {
    byId("low-choice").lastChild.textContent = " 0";
    byId("group-default").textContent = "all of the training";
  }
  for (const each of document.querySelectorAll('input[name="what"]')) {
    each.addEventListener("change", whatChanged);
  }
  for (const each of document.querySelectorAll('input[name="energy"]')) {
    each.addEventListener("change", () => {
      byId("energy").value = radio("energy") === "hull" ? "0.05" : "-0.5";
    });
  }
  byId("composition").addEventListener("input", compositionChanged);
  byId("ask").addEventListener("change", () => { showFields(); checkSoon(); });
  byId("ask").addEventListener("submit", async (event) => {
    event.preventDefault();
    clearTimeout(checkTimer);
    checking += 1;
    const box = byId("check");
    const job = await trying(box, () => postJson("api/jobs", askedValues()));
    box.classList.toggle("bad", !job);
    if (!job) return;
    box.textContent = "In line.";
    await jobAdded(job);
  });
  showFields();
}

// The row that is chosen: shown in the viewer, the table, the gallery and the charts.

const charts = [];
const gallery = []; // {row, button}
let viewer, candidateTable;

const structureOf = (row) => data.structures[table.rank[row]];

function fillViewer() {
  viewer = new Viewer(byId("canvas"), data.elements);
  for (const button of document.querySelectorAll("[data-along]")) {
    button.addEventListener("click", () => viewer.lookAlong(Number(button.dataset.along)));
  }
  byId("bonds").addEventListener("change", (event) =>
    viewer.setOptions({ withBonds: event.target.checked }));
  byId("supercell").addEventListener("change", (event) =>
    viewer.setOptions({ repeats: event.target.checked ? 2 : 1 }));
  byId("reset-view").addEventListener("click", () => viewer.reset());
}

// Shows a row everywhere; scroll: whether the viewer must come into sight.
function choose(row, scroll = false) {
  const rank = value("rank", row);
  const formula = formulaText(value("formula", row) || "?");
  byId("viewer-title").replaceChildren(`${formula} `, element("small", {},
    rank ? `rank ${rank}` : "fell out"));
  const structure = structureOf(row);
  byId("viewer-picture").hidden = !structure;
  byId("viewer-message").hidden = Boolean(structure);
  if (structure) {
    byId("canvas").setAttribute("aria-label", `Crystal structure of ${formula}`);
    fillLegend(structure);
    viewer.show(structure);
  } else {
    byId("viewer-message").textContent = rank
      ? "Its structure is in candidates.extxyz, not in this page, which holds the best " +
        `${countText(Object.keys(data.structures).length)}.`
      : `Fell out at ${value("fell_out_at", row) || "an unknown stage"}: ` +
        `${value("fell_out", row) || "no reason was written"}.`;
  }
  byId("details").replaceChildren(...describeList(details(row, structure)));
  candidateTable.select(row);
  for (const chart of charts) chart.mark(row);
  for (const each of gallery) each.button.setAttribute("aria-pressed", each.row === row);
  if (scroll && innerWidth <= 1000) byId("viewer").scrollIntoView({ block: "nearest" });
}

function fillLegend(structure) {
  const numbers = [...new Set(structure.numbers)];
  byId("legend").replaceChildren(...numbers.map((number) => {
    const { symbol, color, radius } = data.elements[number];
    const dot = element("i");
    dot.style.width = dot.style.height = `${Math.round(6 + 7 * radius)}px`;
    dot.style.background = `rgb(${color})`;
    return element("span", {}, dot, symbol);
  }));
}

function details(row, structure) {
  const get = (key) => value(key, row);
  const unitText = (key, digits, unitName) =>
    get(key) === null ? null : `${fixed(get(key), digits)} ${unitName}`;
  const found = (stage) => ["0.1", "0.01", "0.001"]
    .map((symprec) => [symprec, get(`space_group_${stage}_${symprec}`)])
    .filter(([, number]) => number !== null)
    .map(([symprec, number]) => `${groupText(number)} (${symprec})`).join(", ");
  const energyOf = (key, source) =>
    get(key) === null ? null : `${energyText(get(key))} eV/atom, ${source}`;
  const steps = get("relaxation_steps");
  const relaxation = get("relaxation_converged") === null ? null
    : (get("relaxation_method") ? `${get("relaxation_method")}, ` : "") +
      (get("relaxation_converged") ? "converged" : "not converged") +
      (steps === null ? "" : `, ${plural(steps, "step")}`) +
      (get("max_force") === null ? "" : `, ${fixed(get("max_force"), 3)} eV/Å`);
  return [
    ["name", get("name")],
    ["above hull", energyOf("energy_above_hull", hullName)],
    ["obtained", energyOf("formation_energy_relaxed", energyModel)],
    ["asked", get("formation_energy") === null ? null
      : `${energyText(get("formation_energy"))} eV/atom`],
    ["group asked", get("space_group") ? groupText(get("space_group")) : null],
    ["as generated", found("found")],
    ["relaxed", found("relaxed")],
    ["known as", get("rank") ? get("known_as") || "new" : get("known_as")],
    ["duplicate of", get("duplicate_of")],
    ["relaxation", relaxation],
    ["volume", unitText("volume_per_atom", 2, "Å³/atom as generated")],
    ["shortest", unitText("shortest_distance", 3, "Å as generated")],
    ["cell", structure ? cellText(structure.lattice) : null],
  ].filter(([, text]) => text);
}

function cellText(lattice) {
  const angle = (one, other) =>
    (Math.acos(dot(lattice[one], lattice[other]) / norm(lattice[one]) / norm(lattice[other])) * 180) / Math.PI;
  const lengths = lattice.map((vector) => fixed(norm(vector), 3)).join(", ");
  const angles = [angle(1, 2), angle(0, 2), angle(0, 1)].map((each) => fixed(each, 1)).join(", ");
  return `${lengths} Å; ${angles}°`;
}

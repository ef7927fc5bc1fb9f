// The row that is chosen: shown in the viewer, the table, the gallery and the charts.

const charts = [];
const gallery = []; // {row, button}
let viewer, candidateTable;

const structureOf = (row) => data.structures[table[COLUMN.RANK][row]];

function fillViewer() {
  viewer = new Viewer(byId("canvas"), data.elements);
  viewer.obeyControls();
}

// Shows a row everywhere; scroll: whether the viewer must come into sight.
function choose(row, scroll = false) {
  const rank = value(COLUMN.RANK, row);
  const formula = formulaText(value(COLUMN.FORMULA, row) || "?");
  byId("viewer-title").replaceChildren(`${formula} `, element("small", {},
    rank ? `rank ${rank}` : "rejected"));
  const structure = structureOf(row);
  byId("viewer-picture").hidden = !structure;
  byId("viewer-message").hidden = Boolean(structure);
  if (structure) {
    byId("canvas").setAttribute("aria-label", `Crystal structure of ${formula}`);
    byId("legend").replaceChildren(...legendOf(structure, data.elements));
    viewer.show(structure);
  } else {
    byId("viewer-message").textContent = rank
      ? "Its structure is in candidates.extxyz, not in this page, which holds the best " +
        `${countText(Object.keys(data.structures).length)}.`
      : `Rejected at ${value(COLUMN.REJECTED_STAGE, row) || "an unknown stage"}: ` +
        `${value(COLUMN.REJECTED_REASON, row) || "no reason was written"}.`;
  }
  byId("details").replaceChildren(...describeList(details(row, structure)));
  candidateTable.select(row);
  for (const chart of charts) chart.mark(row);
  for (const each of gallery) each.button.setAttribute("aria-pressed", each.row === row);
  if (scroll && innerWidth <= 1000) byId("viewer").scrollIntoView({ block: "nearest" });
}

function details(row, structure) {
  const get = (key) => value(key, row);
  const pairText = (generated, relaxed, digits, unitName) => [
    [generated, "as generated"], [relaxed, "relaxed"],
  ].filter(([key]) => get(key) !== null)
    .map(([key, when]) => `${fixed(get(key), digits)} ${unitName} ${when}`).join(", ");
  const found = (columns) => columns
    .map((key) => [key.split("_").at(-1), get(key)])
    .filter(([, number]) => number !== null)
    .map(([symprec, number]) => `${groupText(number)} (${symprec})`).join(", ");
  const energyOf = (key, source) =>
    get(key) === null ? null : `${energyText(get(key))} eV/atom, ${source}`;
  const steps = get(COLUMN.STEPS);
  const relaxation = get(COLUMN.CONVERGED) === null ? null
    : (get(COLUMN.METHOD) ? `${get(COLUMN.METHOD)}, ` : "") +
      (get(COLUMN.CONVERGED) ? "converged" : "not converged") +
      (steps === null ? "" : `, ${plural(steps, "step")}`) +
      (get(COLUMN.MAX_FORCE) === null ? "" : `, ${fixed(get(COLUMN.MAX_FORCE), 3)} eV/Å`);
  return [
    ["name", get(COLUMN.NAME)],
    ["above hull", energyOf(COLUMN.ABOVE_HULL, hullName)],
    ["relaxed energy", energyOf(COLUMN.RELAXED_ENERGY, energyModel)],
    ["requested energy", get(COLUMN.REQUESTED_ENERGY) === null ? null
      : `${energyText(get(COLUMN.REQUESTED_ENERGY))} eV/atom`],
    ["requested group", get(COLUMN.REQUESTED_SPACE_GROUP) ? groupText(get(COLUMN.REQUESTED_SPACE_GROUP)) : null],
    ["generated group", found(COLUMN.GENERATED_SPACE_GROUPS)],
    ["relaxed group", found(COLUMN.RELAXED_SPACE_GROUPS)],
    ["known as", get(COLUMN.RANK) ? get(COLUMN.KNOWN_AS) || "new" : get(COLUMN.KNOWN_AS)],
    ["nearest known", nearestText(row)],
    ["duplicate of", get(COLUMN.DUPLICATE_OF)],
    ["relaxation", relaxation],
    ["without symmetry", releasedText(row)],
    ["volume", pairText(COLUMN.VOLUME_PER_ATOM, COLUMN.RELAXED_VOLUME_PER_ATOM, 2, "Å³/atom")],
    ["shortest", pairText(COLUMN.SHORTEST_DISTANCE, COLUMN.RELAXED_SHORTEST_DISTANCE, 3, "Å")],
    ["cell", structure ? cellText(structure.lattice) : null],
  ].filter(([, text]) => text);
}

function nearestText(row) {
  const name = value(COLUMN.NEAREST_KNOWN, row);
  if (!name) return null;
  const formula = formulaText(value(COLUMN.NEAREST_KNOWN_FORMULA, row) ?? "");
  const far = value(COLUMN.NEAREST_KNOWN_DISTANCE, row);
  return `${name} (${formula})` + (far === null ? "" : `, distances differ by ${fixed(far, 3)}`);
}

function releasedText(row) {
  const found = saddleText(row);
  if (!found) return null;
  const change = 1000 * value(COLUMN.RELEASED_ENERGY_CHANGE, row);
  return `${found}: ${fixed(change, 1)} meV/atom, ${groupText(value(COLUMN.RELEASED_SPACE_GROUP, row))}`;
}

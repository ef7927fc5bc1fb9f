"use strict";
// The crystal that is looked at: in 3-D, and in numbers.

let viewer;
let lookingAt = 0; // answers may come in another order than the questions

// Shows a crystal; scroll: whether the viewer must come into sight.
async function look(number, scroll = false) {
  const row = shown.byNumber.get(number);
  const structure = shown.structures[number];
  shown.number = number;
  byId("viewer-title").replaceChildren(`${formulaText(row.formula)} `,
    element("small", {}, groupName(row.group)));
  byId("canvas").setAttribute("aria-label", `Crystal structure of ${formulaText(row.formula)}`);
  byId("legend").replaceChildren(...legendOf(structure, shown.elements));
  viewer.elements = shown.elements;
  viewer.show(structure);
  for (const [format, id] of [["cif", "get-cif"], ["poscar", "get-poscar"]]) {
    byId(id).href = fileAddress(format, [number]);
  }
  markLookedAt(number);
  byId("details").replaceChildren(...describeList(factsOf(row, structure)));
  byId("sites").replaceChildren();
  byId("shells").replaceChildren();
  if (scroll && innerWidth <= 1000) byId("viewer").scrollIntoView({ block: "start" });
  const mine = ++lookingAt;
  const job = shown.job;
  const found = await trying(byId("trouble"), () =>
    getJson(`api/jobs/${job}/crystals/${number}`));
  if (found && mine === lookingAt) fillDetails(found, row, structure);
}

const energyOf = (value) => (isNumber(value) ? `${fixed(value, 3)} eV/atom` : null);

function factsOf(row, structure) {
  const facts = [
    ["name", row.name],
    ["above hull", energyOf(row.above_hull)],
    ["relaxed energy", energyOf(row.relaxed_energy)],
    ["estimated energy", energyOf(row.estimated_energy)],
    ["requested energy", energyOf(row.requested_energy)],
    ["energy difference", energyOf(row.difference)],
    ["estimated less the input's", energyOf(row.estimated_difference)],
    ["same as the input", row.same_as_input === true ? "yes" : null],
    ["origin", row.origin],
    ["requested group", row.requested_group ? groupName(row.requested_group) : null],
    ["found group", `${groupName(row.group)} (0.1 Å)`],
    ["volume", `${fixed(row.volume, 2)} Å³/atom`],
    ["cell", cellText(structure.lattice)],
    ["Wyckoff positions", row.wyckoff],
    ["likely", isNumber(row.probability) ? percent(row.probability, 1) : null],
    ["follows a known prototype", row.follows_known === undefined || row.follows_known === null
      ? null : row.follows_known ? "yes, of the training" : "no, the network's own"],
    ["relaxation", row.converged === undefined || row.converged === null ? null
      : `${row.converged ? "converged" : "not converged"}, ${plural(row.steps ?? 0, "step")}`],
    ["known as", row.known_as],
  ];
  return facts.filter(([, text]) => text);
}

function fillDetails(found, row, structure) {
  byId("details").replaceChildren(...describeList(
    [...factsOf(row, structure), ["nearest known", nearestText(found.nearest, row)]]));
  const coords = (site) => site.coords.map((each) => fixed(each, 4));
  byId("sites").replaceChildren(simpleTable(["site", "Wyckoff", "x", "y", "z"],
    found.sites.map((site) => [site.symbol, site.letter, ...coords(site)])));
  byId("shells").replaceChildren(simpleTable(["site", "position", "nearest neighbours (Å)"],
    found.shells.map((shell) => [shell.symbol, shell.position, shellText(shell.neighbors)])));
}

function shellText(neighbors) {
  return neighbors.map(({ symbol, count, shortest, longest }) => {
    const far = fixed(shortest, 2) === fixed(longest, 2)
      ? fixed(shortest, 2) : `${fixed(shortest, 2)}–${fixed(longest, 2)}`;
    return `${symbol} × ${count}: ${far}`;
  }).join(", ");
}

function nearestText(nearest, row) {
  // A screening has compared it with the hull's crystals too.
  if (row.known_as) return `${row.known_as}: the same`;
  if (row.nearest_known) {
    return `${row.nearest_known} (${formulaText(row.nearest_known_formula ?? "")})` +
      `, distances differ by ${fixed(row.nearest_known_distance, 3)}`;
  }
  if (!nearest) return "no known crystals are loaded (start with --known=FILE)";
  if (!nearest.id) return "none with these elements";
  const far = nearest.composition > 1e-9
    ? `, ${percent(nearest.composition, 1)} of the atoms are others` : "";
  return `${nearest.id} (${formulaText(nearest.formula)})${far}` +
    `, distances differ by ${fixed(nearest.distance, 3)}`;
}

// A picture that is painted when it comes into sight.
const painter = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    painter.unobserve(target);
    new ResizeObserver(() => paintScene(target, target.scene)).observe(target);
  }
}, { rootMargin: "1000px" });

function pictureOf(structure, elements) {
  const canvas = element("canvas", { "aria-hidden": "true" });
  canvas.scene = buildScene(structure, elements);
  painter.observe(canvas);
  return canvas;
}

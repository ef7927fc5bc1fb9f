// What the charts show: hulls, and energies requested and relaxed.

function sampleLines(row) {
  const lines = [
    `${formulaText(value(COLUMN.FORMULA, row))}${value(COLUMN.RANK, row) ? `, rank ${value(COLUMN.RANK, row)}` : ""}`,
    value(COLUMN.NAME, row),
    `relaxed ${energyText(value(COLUMN.RELAXED_ENERGY, row))} eV/atom (${energyModel})`,
  ];
  if (value(COLUMN.REQUESTED_ENERGY, row) !== null) {
    lines.push(`requested ${energyText(value(COLUMN.REQUESTED_ENERGY, row))} eV/atom`);
  }
  if (value(COLUMN.ABOVE_HULL, row) !== null) {
    lines.push(`above hull ${energyText(value(COLUMN.ABOVE_HULL, row))} eV/atom`);
  }
  return lines;
}

function knownLines(known) {
  return [
    `${formulaText(known.formula)}: ${known.id}`,
    `known, ${energyText(known.energy)} eV/atom`,
    known.above < 1e-6 ? "on the hull" : `${energyText(known.above)} eV/atom above the hull`,
  ];
}

function fillSystems() {
  byId("systems-note").textContent = [
    data.systems.length ? `Hull of the known compounds (${hullName}), energies of ` +
      `${energyModel}; of known compounds the lowest of each composition is shown. Drag a ` +
      "box to enlarge a part, double-click for all; a click on a candidate shows it." : "",
    data.systems_note].filter(Boolean).join(" ");
  for (const system of data.systems) {
    if (system.symbols.length === 2) binaryDiagram(system);
    else ternaryDiagram(system);
  }
}

const HIGHEST_AT_FIRST = 0.1; // eV/atom

function binaryDiagram(system) {
  const [first, second] = system.symbols;
  const known = (onHull) => system.known
    .filter((each) => each.above < 1e-6 === onHull)
    .map((each) => ({ x: each.fractions[1], y: each.energy, lines: () => knownLines(each) }));
  const candidates = (below) => system.rows.filter((row) => isBelow(row) === below)
    .map((row) => ({
      x: system.fractions[table[COLUMN.FORMULA][row]][1], y: table[COLUMN.RELAXED_ENERGY][row],
      row, lines: () => sampleLines(row) }));
  const sides = (list) => list.map(([from, to]) => [from[1], from[2], to[1], to[2]]);
  const below = candidates(true);
  const energies = [...known(true), ...known(false), ...candidates(false), ...below]
    .map((point) => point.y);
  charts.push(new AxesChart(byId("systems"), {
    title: `${first}–${second}`,
    description: `Formation energy over composition, ${first}-${second}`,
    legend: [["stable", "known, on the hull"],
      ...(known(false).length ? [["known", "known, above it"]] : []),
      ["accent", "candidates"], ...(below.length ? [["below", "candidates below the hull"]] : [])],
    choose,
    xLabel: `fraction of ${second} in ${first}–${second}`,
    yLabel: `formation energy (eV/atom, ${energyModel})`,
    xRange: [-0.03, 1.03],
    yRange: paddedRange(energies),
    // What lies far above would make the hull a flat line.
    yFirst: paddedRange(energies.filter((energy) => energy < HIGHEST_AT_FIRST)),
    layers: [
      { segments: [[0, 0, 1, 0]], className: "diagonal" },
      { points: candidates(false), color: "accent", size: 7 },
      { points: known(false), color: "known", size: 5 },
      { segments: sides(system.new_sides), className: "dashed" },
      { segments: sides(system.sides), className: "line" },
      { points: known(true), color: "stable", size: 7 },
      { points: below, color: "below", size: 9 },
    ],
  }));
}

// eV/atom above the hull, up to which each shade goes.
const SHADES = [0.02, 0.05, 0.1, 0.2, Infinity];

function ternaryDiagram(system) {
  const groups = new Map();
  for (const row of system.rows) {
    const fractions = system.fractions[table[COLUMN.FORMULA][row]];
    const key = fractions.map((each) => each.toFixed(4)).join();
    if (!groups.has(key)) groups.set(key, { fractions, rows: [] });
    groups.get(key).rows.push(row);
  }
  const above = (row) => value(COLUMN.ABOVE_HULL, row) ?? Infinity;
  const lowest = [...groups.values()].map(({ fractions, rows }) => {
    const row = rows.reduce((best, each) => (above(each) < above(best) ? each : best));
    return { fractions, row, lines: () => [
      ...sampleLines(row), rows.length > 1 ? `lowest of ${rows.length} here` : ""].filter(Boolean) };
  });
  const shadeOf = (row) => isBelow(row) ? "below" : SHADES.findIndex((limit) => above(row) <= limit);
  const known = (onHull) => system.known
    .filter((each) => each.above < 1e-6 === onHull)
    .map((each) => ({
      fractions: each.fractions, lines: () => knownLines(each),
      name: onHull && Math.max(...each.fractions) < 1 ? formulaText(each.formula) : "" }));
  const shades = ["below", 0, 1, 2, 3, 4];
  const names = ["below", "≤ 0.02", "≤ 0.05", "≤ 0.1", "≤ 0.2", "over 0.2 eV/atom above"];
  charts.push(new TriangleChart(byId("systems"), {
    title: system.symbols.join("–"),
    description: `Phase diagram of ${system.symbols.join("-")}`,
    legend: [["stable", "known, on the hull"],
      ...(known(false).length ? [["known", "known, above it"]] : []),
      ...shades.map((shade, index) => [shade, names[index]])
        .filter(([shade]) => lowest.some(({ row }) => shadeOf(row) === shade))],
    choose,
    symbols: system.symbols,
    layers: [
      { segments: system.sides.map((side) => side.map((end) => end.slice(0, 3))), className: "tie" },
      { segments: system.new_sides.map((side) => side.map((end) => end.slice(0, 3))), className: "dashed" },
      { points: known(false), color: "known", size: 5 },
      { points: known(true), color: "stable", size: 8 },
      ...shades.toReversed().map((shade) => ({
        points: lowest.filter(({ row }) => shadeOf(row) === shade), color: shade, size: 11 })),
    ],
  }));
}

function fillEnergies() {
  const note = byId("energies-note");
  if (!data.energies) {
    note.textContent = "There is no sample with both a requested and a relaxed energy.";
    return;
  }
  const { count, mean_absolute, mean } = data.energies;
  note.textContent = `${plural(count, "relaxed sample")}: on average ` +
    `${fixed(mean_absolute, 3)} eV/atom from the requested energy (signed ${fixed(mean, 3)}); ` +
    `${percent(data.energies["within_0.1"], count)} within 0.1. Requested: in the energies of the ` +
    `data the model learned from; relaxed: ${energyModel}.`;
  const points = table[COLUMN.RANK].map((_, row) => ({
    x: value(COLUMN.REQUESTED_ENERGY, row), y: value(COLUMN.RELAXED_ENERGY, row),
    row, lines: () => sampleLines(row),
  })).filter(({ x, y }) => x !== null && y !== null);
  const fallen = points.filter(({ row }) => !table[COLUMN.RANK][row]);
  const [low, high] = paddedRange(points.flatMap(({ x, y }) => [x, y]));
  charts.push(new AxesChart(byId("energies"), {
    description: "Relaxed over requested formation energy",
    legend: [["accent", "ranked"],
      ...(fallen.length ? [["known", "relaxed, not ranked"]] : [])],
    choose,
    xLabel: "requested formation energy (eV/atom)",
    yLabel: `relaxed (eV/atom, ${energyModel})`,
    xRange: paddedRange(points.map(({ x }) => x)),
    yRange: paddedRange(points.map(({ y }) => y)),
    layers: [
      { segments: [[low, low, high, high]], className: "diagonal" },
      { points: fallen, color: "known", size: 6 },
      { points: points.filter(({ row }) => table[COLUMN.RANK][row]), color: "accent", size: 6 },
    ],
  }));
}

// Hull diagrams of binary and ternary systems, as screening/report/systems.py has them.

// Rounding errors are not below the hull; null, where there is none, is not either.
const isBelowHull = (above) => above < -1e-6;

// box: where it goes; candidate(row) → {formula, energy, above, lines()}; choose(row) is
// called where a point is clicked.
function hullDiagram(box, system, shown) {
  return system.symbols.length === 2
    ? binaryDiagram(box, system, shown) : ternaryDiagram(box, system, shown);
}

function knownLines(known) {
  return [
    `${formulaText(known.formula)}: ${known.id}`,
    `known, ${energyText(known.energy)} eV/atom`,
    known.above < 1e-6 ? "on the hull" : `${energyText(known.above)} eV/atom above the hull`,
  ];
}

const HIGHEST_AT_FIRST = 0.1; // eV/atom

function binaryDiagram(box, system, { energyModel, choose, candidate }) {
  const [first, second] = system.symbols;
  const known = (onHull) => system.known
    .filter((each) => each.above < 1e-6 === onHull)
    .map((each) => ({ x: each.fractions[1], y: each.energy, lines: () => knownLines(each) }));
  const candidates = (below) => system.rows.map((row) => ({ row, ...candidate(row) }))
    .filter(({ above }) => isBelowHull(above) === below)
    .map(({ row, formula, energy, lines }) => ({
      x: system.fractions[formula][1], y: energy, row, lines }));
  const sides = (list) => list.map(([from, to]) => [from[1], from[2], to[1], to[2]]);
  const below = candidates(true);
  const energies = [...known(true), ...known(false), ...candidates(false), ...below]
    .map((point) => point.y);
  return new AxesChart(box, {
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
  });
}

// eV/atom above the hull, up to which each shade goes.
const SHADES = [0.02, 0.05, 0.1, 0.2, Infinity];

function ternaryDiagram(box, system, { choose, candidate }) {
  const groups = new Map();
  for (const row of system.rows) {
    const fractions = system.fractions[candidate(row).formula];
    const key = fractions.map((each) => each.toFixed(4)).join();
    if (!groups.has(key)) groups.set(key, { fractions, rows: [] });
    groups.get(key).rows.push(row);
  }
  const above = (row) => candidate(row).above ?? Infinity;
  const lowest = [...groups.values()].map(({ fractions, rows }) => {
    const row = rows.reduce((best, each) => (above(each) < above(best) ? each : best));
    return { fractions, row, lines: () => [
      ...candidate(row).lines(), rows.length > 1 ? `lowest of ${rows.length} here` : ""].filter(Boolean) };
  });
  const shadeOf = (row) => isBelowHull(above(row)) ? "below"
    : SHADES.findIndex((limit) => above(row) <= limit);
  const known = (onHull) => system.known
    .filter((each) => each.above < 1e-6 === onHull)
    .map((each) => ({
      fractions: each.fractions, lines: () => knownLines(each),
      name: onHull && Math.max(...each.fractions) < 1 ? formulaText(each.formula) : "" }));
  const shades = ["below", 0, 1, 2, 3, 4];
  const names = ["below", "≤ 0.02", "≤ 0.05", "≤ 0.1", "≤ 0.2", "over 0.2 eV/atom above"];
  return new TriangleChart(box, {
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
  });
}

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

function fillSystems() {
  byId("systems-note").textContent = [
    data.systems.length ? `Hull of the known compounds (${hullName}), energies of ` +
      `${energyModel}; of known compounds the lowest of each composition is shown. Drag a ` +
      "box to enlarge a part, double-click for all; a click on a candidate shows it." : "",
    data.systems_note].filter(Boolean).join(" ");
  const shown = { energyModel, choose, candidate: (row) => ({
    formula: value(COLUMN.FORMULA, row), energy: value(COLUMN.RELAXED_ENERGY, row),
    above: value(COLUMN.ABOVE_HULL, row), lines: () => sampleLines(row) }) };
  charts.push(...data.systems.map((system) => hullDiagram(byId("systems"), system, shown)));
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

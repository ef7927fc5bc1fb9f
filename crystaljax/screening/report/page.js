// The page: fills the sections that are text and tables, then starts.

// ---- Head --------------------------------------------------------------------------

function fillHead() {
  byId("title").textContent = data.title || "Samples";
  document.title = `Screening: ${data.title || "samples"}`;
  byId("lead").textContent = leadText();
  const facts = [
    ["Calculator", data.calculator || "not said"],
    ["Energies", `formation energies in eV/atom, ${energyModel}`],
    ["Hull of known compounds", hullName],
    ...askedFacts(),
  ];
  byId("facts").append(...facts.map((fact) => element("div", {}, ...describeList([fact]))));
  if (data.energy_models.length > 1) {
    byId("warning").hidden = false;
    byId("warning").textContent = "Energies of several models stand on this page " +
      `(${data.energy_models.join(", ")}); they cannot be compared with each other.`;
  }
}

function leadText() {
  const inputs = plural(data.counts?.inputs ?? data.num_rows, "input");
  if (!ranked.length) return `${inputs}, none of which became a candidate.`;
  const [best] = ranked;
  const above = value("energy_above_hull", best);
  const name = formulaText(value("formula", best) || value("name", best));
  const place = above === null
    ? `${energyText(value("formation_energy_relaxed", best))} eV/atom (${energyModel})`
    : `${Math.abs(above) < 5e-5 ? "on" : `${energyText(Math.abs(above))} eV/atom ` +
      `${above < 0 ? "below" : "above"}`} the hull (${energyModel}; hull: ${hullName})`;
  return `${inputs}, ${plural(ranked.length, "candidate")}. First in rank is ${name}, ${place}.`;
}

function askedFacts() {
  const short = (energy) => plain(Number(energy.toFixed(4)));
  const labels = {
    formula: ["Formulas", formulaText],
    space_group: ["Space groups asked for", groupText],
    formation_energy: ["Formation energies asked for (eV/atom)", short],
    energy_difference: ["Energy differences asked for (eV/atom)", short],
  };
  return Object.entries(data.asked).map(([name, { count, values, range }]) => {
    const [label, format] = labels[name];
    if (count <= values.length) return [label, values.map(format).join(", ")];
    if (range) return [label, `${count} from ${format(range[0])} to ${format(range[1])}`];
    return [label, `${count}: ${values.slice(0, 6).map(format).join(", ")}, …`];
  });
}

// ---- Stages ------------------------------------------------------------------------

const STAGES = [
  ["inputs", "inputs"],
  ["valid", "valid"],
  ["distinct", "distinct"],
  ["relaxed", "relaxed"],
  ["converged", "converged"],
  ["ranked", "ranked"],
  ["new", "new"],
  ["below_hull", "below the hull"],
];

function fillStages() {
  const counts = data.counts ?? {};
  const all = counts.inputs ?? data.num_rows;
  for (const [key, label] of STAGES) {
    if (!isNumber(counts[key])) continue;
    // Nothing is below what is not there.
    if (key === "below_hull" && !data.hull) continue;
    const bar = element("span");
    bar.style.width = `${all ? (100 * counts[key]) / all : 0}%`;
    bar.hidden = !counts[key];
    byId("funnel").append(
      element("span", {}, label),
      element("div", { class: key === "below_hull" ? "bar final" : "bar" }, bar),
      element("span", { class: "number", "data-count": key }, countText(counts[key])),
      element("span", { class: "share" }, percent(counts[key], all)));
  }
  byId("reasons").append(data.reasons.length
    ? simpleTable(["at", "reason", "samples"],
      data.reasons.map((each) => [each.stage, each.reason, countText(each.count)]), "words")
    : element("p", { class: "note" }, "None did."));
}

// ---- Candidates --------------------------------------------------------------------

function tableColumns() {
  const number = (key, label, note, digits) => ({
    key, label, note, text: (row) => fixed(value(key, row), digits) });
  const group = (key, label, note) => ({
    key, label, note, isText: true, text: (row) => groupText(value(key, row)) });
  const text = (key, label, note = "") => ({
    key, label, note, isText: true, text: (row) => String(value(key, row) ?? ""),
    className: () => "long" });
  const energy = (key, label, note) => ({
    ...number(key, label, note, 4),
    className: (row) => (key === "energy_above_hull" && isBelow(row) ? "negative" : "") });
  const columns = [
    { key: "rank", label: "rank", text: (row) => String(value("rank", row) || "–") },
    { key: "formula", label: "formula", isText: true, isButton: true,
      text: (row) => formulaText(value("formula", row)) || "?" },
    energy("energy_above_hull", "above hull", "eV/atom"),
    energy("formation_energy_relaxed", "obtained", "eV/atom"),
    energy("formation_energy", "asked", "eV/atom"),
    energy("energy_difference", "asked", "difference"),
    group("space_group_relaxed_0.1", "group", "relaxed"),
    group("space_group", "group", "asked"),
    text("known_as", "known as"),
    text("name", "name"),
    { ...text("fell_out_at", "fell out", "at"), onlyAll: true, className: () => "" },
    { ...text("fell_out", "because"), onlyAll: true },
  ];
  return columns.filter(({ key }) => table[key]?.some((each) => each !== null));
}

function haystack(row) {
  const formula = value("formula", row) ?? "";
  return [
    value("name", row), formula, formula.replace(/([A-Za-z])1(?!\d)/g, "$1"),
    value("known_as", row), value("duplicate_of", row), value("fell_out_at", row),
    value("fell_out", row), groupText(value("space_group_relaxed_0.1", row)),
    value("known_as", row) ? "known" : "new", value("input", row),
  ].filter(Boolean).join(" ");
}

function fillCandidates() {
  const numOut = table.rank.length - ranked.length;
  byId("energy-note").textContent =
    `Energies in eV/atom: formation energies of ${energyModel}` +
    (data.hull ? `, above the hull of known compounds (${hullName})` : "; there is no hull") +
    ". Groups at symprec 0.1. A click on a row shows its structure.";
  byId("show-all-label").textContent = `show the ${plural(numOut, "input")} that fell out`;
  byId("show-all").disabled = !numOut;
  candidateTable = new CandidateTable(byId("table"), table, tableColumns(), {
    choose,
    haystack,
    counted: (count) => { byId("row-count").textContent = plural(count, "row"); },
  });
  byId("filter").addEventListener("input", (event) => candidateTable.filter(event.target.value));
  byId("show-all").addEventListener("change", (event) => candidateTable.showAll(event.target.checked));
}

function fillGallery() {
  const best = ranked.filter((row) => structureOf(row)).slice(0, data.num_views);
  for (const row of best) {
    const canvas = element("canvas", { "aria-hidden": "true" });
    const above = value("energy_above_hull", row);
    const energy = above ?? value("formation_energy_relaxed", row);
    const button = element("button", { type: "button", "aria-pressed": "false" }, canvas,
      element("b", {}, formulaText(value("formula", row))),
      element("small", {}, `#${value("rank", row)}  ${fixed(energy, 3)}`));
    button.addEventListener("click", () => choose(row, true));
    byId("gallery").append(element("div", { role: "listitem" }, button));
    gallery.push({ row, button });
    const scene = buildScene(structureOf(row), data.elements);
    new ResizeObserver(() => paintScene(canvas, scene)).observe(canvas);
  }
}

// ---- Space groups ------------------------------------------------------------------

function fillSpaceGroups() {
  const found = data.space_groups;
  byId("space-groups-note").textContent = found
    ? "Share of samples in which spglib finds the group that was asked for, by symprec (Å): " +
      "as generated, of all samples; relaxed, of those with an energy."
    : "The inputs have no space group that was asked for.";
  if (!found) return;
  const headings = found.columns.map((key) => {
    const [, stage, symprec] = key.match(/_(found|relaxed)_(.+)/);
    return `${stage === "found" ? "generated" : "relaxed"}, ${symprec}`;
  });
  const cells = (counts) => counts.map(([met, of]) => {
    const share = of ? (100 * met) / of : 0;
    const cell = element("span", { class: "share-bar", title: `${met} of ${of}` }, percent(met, of));
    cell.style.background =
      `linear-gradient(to right, var(--accent-soft) ${share}%, transparent ${share}%)`;
    return cell;
  });
  const rows = found.groups.map(({ number, counts }) =>
    [groupText(number), countText(counts[0][1]), ...cells(counts)]);
  const all = [element("b", {}, "all"), countText(found.all[0][1]), ...cells(found.all)];
  byId("space-groups").append(simpleTable(["asked", "samples", ...headings], [all, ...rows]));
}

// ---- The run -----------------------------------------------------------------------

function fillRun() {
  const parts = [
    ["Request", data.request, (each) => typeof each === "string" ? each : JSON.stringify(each)],
    ["Seconds", data.seconds, (each) => isNumber(each) ? fixed(each, 1) : String(each)],
    ["Versions", data.versions, String],
  ];
  for (const [heading, values, format] of parts) {
    const pairs = Object.entries(values ?? {}).filter(([, each]) => each !== null && each !== "");
    if (!pairs.length) continue;
    byId("run").append(element("div", {}, element("h3", {}, heading),
      element("dl", { class: "details" },
        ...describeList(pairs.map(([name, each]) => [name, format(each)])))));
  }
}

fillHead();
fillStages();
fillViewer();
fillCandidates();
fillGallery();
fillSystems();
fillEnergies();
fillSpaceGroups();
fillRun();
if (ranked.length) choose(ranked[0]);
else byId("viewer").hidden = true;
// Colours of what is painted, unlike those of the style sheet, do not follow by themselves.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => viewer.draw());

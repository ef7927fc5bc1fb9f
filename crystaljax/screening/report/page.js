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
    ...requestedFacts(),
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
  const above = value(COLUMN.ABOVE_HULL, best);
  const name = formulaText(value(COLUMN.FORMULA, best) || value(COLUMN.NAME, best));
  const place = above === null
    ? `${energyText(value(COLUMN.RELAXED_ENERGY, best))} eV/atom (${energyModel})`
    : `${Math.abs(above) < 5e-5 ? "on" : `${energyText(Math.abs(above))} eV/atom ` +
      `${above < 0 ? "below" : "above"}`} the hull (${energyModel}; hull: ${hullName})`;
  return `${inputs}, ${plural(ranked.length, "candidate")}. First in rank is ${name}, ${place}.`;
}

function requestedFacts() {
  const short = (energy) => plain(Number(energy.toFixed(4)));
  const labels = {
    [COLUMN.FORMULA]: ["Formulas", formulaText],
    [COLUMN.REQUESTED_SPACE_GROUP]: ["Requested space groups", groupText],
    [COLUMN.REQUESTED_ENERGY]: ["Requested formation energies (eV/atom)", short],
    [COLUMN.REQUESTED_DIFFERENCE]: ["Requested energy differences (eV/atom)", short],
  };
  return Object.entries(data.requested).map(([name, { count, values, range }]) => {
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
    ? simpleTable(["stage", "reason", "samples"],
      data.reasons.map((each) => [each.stage, each.reason, countText(each.count)]), "words")
    : element("p", { class: "note" }, "None was rejected."));
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
    className: (row) => (key === COLUMN.ABOVE_HULL && isBelow(row) ? "negative" : "") });
  const columns = [
    { key: COLUMN.RANK, label: "rank", text: (row) => String(value(COLUMN.RANK, row) || "–") },
    { key: COLUMN.FORMULA, label: "formula", isText: true, isButton: true,
      text: (row) => formulaText(value(COLUMN.FORMULA, row)) || "?" },
    energy(COLUMN.ABOVE_HULL, "above hull", "eV/atom"),
    energy(COLUMN.RELAXED_ENERGY, "energy", "relaxed, eV/atom"),
    energy(COLUMN.REQUESTED_ENERGY, "energy", "requested, eV/atom"),
    energy(COLUMN.REQUESTED_DIFFERENCE, "difference", "requested, eV/atom"),
    group(COLUMN.RELAXED_SPACE_GROUPS[0], "group", "relaxed"),
    group(COLUMN.REQUESTED_SPACE_GROUP, "group", "requested"),
    text(COLUMN.KNOWN_AS, "known as"),
    text(COLUMN.NAME, "name"),
    { ...text(COLUMN.REJECTED_STAGE, "rejected", "stage"), onlyAll: true, className: () => "" },
    { ...text(COLUMN.REJECTED_REASON, "rejected", "reason"), onlyAll: true },
  ];
  return columns.filter(({ key }) => table[key]?.some((each) => each !== null));
}

function haystack(row) {
  const formula = value(COLUMN.FORMULA, row) ?? "";
  return [
    value(COLUMN.NAME, row), formula, formula.replace(/([A-Za-z])1(?!\d)/g, "$1"),
    value(COLUMN.KNOWN_AS, row), value(COLUMN.DUPLICATE_OF, row), value(COLUMN.REJECTED_STAGE, row),
    value(COLUMN.REJECTED_REASON, row), groupText(value(COLUMN.RELAXED_SPACE_GROUPS[0], row)),
    value(COLUMN.KNOWN_AS, row) ? "known" : "new", value(COLUMN.INPUT, row),
  ].filter(Boolean).join(" ");
}

function fillCandidates() {
  const numOut = table[COLUMN.RANK].length - ranked.length;
  byId("energy-note").textContent =
    `Energies in eV/atom: formation energies of ${energyModel}` +
    (data.hull ? `, above the hull of known compounds (${hullName})` : "; there is no hull") +
    ". Groups at symprec 0.1. A click on a row shows its structure.";
  byId("show-all-label").textContent = `show the ${plural(numOut, "input")} that were rejected`;
  byId("show-all").disabled = !numOut;
  candidateTable = new CandidateTable(byId("table"), table, tableColumns(), {
    meanings: data.meanings,
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
    const above = value(COLUMN.ABOVE_HULL, row);
    const energy = above ?? value(COLUMN.RELAXED_ENERGY, row);
    const button = element("button", { type: "button", "aria-pressed": "false" }, canvas,
      element("b", {}, formulaText(value(COLUMN.FORMULA, row))),
      element("small", {}, `#${value(COLUMN.RANK, row)}  ${fixed(energy, 3)}`));
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
    ? "Share of samples in which spglib finds the requested group, by symprec (Å): " +
      "as generated, of all samples; relaxed, of those with an energy."
    : "No space group was requested.";
  if (!found) return;
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
  byId("space-groups").append(simpleTable(["requested", "samples", ...found.headings], [all, ...rows]));
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

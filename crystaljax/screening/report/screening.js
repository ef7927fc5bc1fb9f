// The screening, from the block of data in the page: a row is the number of an input.

const data = JSON.parse(byId("data").textContent);
// Names of the columns, as crystaljax/screening/columns.py has them.
const COLUMN = data.columns;
const table = Object.fromEntries(Object.entries(data.table).map(([name, column]) => [
  name, Array.isArray(column) ? column : column.places.map((place) => column.values[place])]));
const energyModel = data.energy_models.join(" / ") || "unknown energy model";
const hullName = data.hull || "no hull";
const ranked = table[COLUMN.RANK].map((rank, row) => [rank, row])
  .filter(([rank]) => rank > 0).sort((one, other) => one[0] - other[0]).map(([, row]) => row);

const value = (key, row) => table[key]?.[row] ?? null;
const symbolOf = (number) => (data.symbols[number] ?? "").replaceAll("_", "");
function groupText(number) {
  if (number === null) return "–";
  return number ? `${number} ${symbolOf(number)}`.trim() : "none";
}

const isBelow = (row) => isBelowHull(value(COLUMN.ABOVE_HULL, row));

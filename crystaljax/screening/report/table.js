// The table of all inputs: sorted by its headings, filtered by text. Rows are made when
// they come into sight: there may be many thousands.

const ROWS_AT_A_TIME = 100;

class CandidateTable {
  // columns: {key, label, note, isText, text(row), className(row), onlyAll}; those with
  // onlyAll are shown with the inputs that were rejected.
  // rankKey: the column whose 0 means that a row was rejected.
  constructor(box, data, columns, { rankKey, meanings, choose, counted, haystack }) {
    Object.assign(this, { box, data, columns, rankKey, meanings, choose, counted, haystack });
    this.numRows = data[rankKey].length;
    this.sortKey = rankKey;
    this.descending = false;
    this.terms = [];
    this.withAll = false;
    this.selected = null;
    this.update();
    // A sentinel at the end of what is there asks for more.
    this.observer = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) this.addRows();
    }, { root: box, rootMargin: "300px" });
  }

  sortBy(key) {
    this.descending = this.sortKey === key && !this.descending;
    this.sortKey = key;
    this.update(key);
  }

  filter(text) {
    this.terms = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.update();
  }

  showAll(withAll) {
    this.withAll = withAll;
    this.update();
  }

  matches(row) {
    if (!this.withAll && !this.data[this.rankKey][row]) return false;
    if (!this.terms.length) return true;
    this.haystacks ??= Array.from({ length: this.numRows });
    const text = this.haystacks[row] ??= this.haystack(row).toLowerCase();
    return this.terms.every((term) => text.includes(term));
  }

  // Missing values and ranks of 0 come last, whichever way.
  sorted(rows) {
    const values = this.data[this.sortKey];
    const sign = this.descending ? -1 : 1;
    const missing = (value) => value === null || value === "" ||
      (this.sortKey === this.rankKey && value === 0);
    return rows.sort((one, other) => {
      const [a, b] = [values[one], values[other]];
      if (missing(a) || missing(b)) return missing(a) - missing(b) || one - other;
      const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
      return sign * order || one - other;
    });
  }

  update(focusKey = "") {
    const rows = Array.from({ length: this.numRows }, (_, row) => row);
    this.rows = this.sorted(rows.filter((row) => this.matches(row)));
    this.shown = this.columns.filter((column) => this.withAll || !column.onlyAll);
    this.body = element("tbody");
    this.end = element("div", { class: "more muted" });
    const table = element("table", { "aria-rowcount": this.rows.length + 1 },
      element("thead", {}, element("tr", {}, ...this.shown.map((c) => this.heading(c)))),
      this.body);
    this.box.replaceChildren(table, this.end);
    this.box.scrollTop = 0;
    this.filled = 0;
    this.addRows();
    if (focusKey) this.box.querySelector(`button[data-key="${focusKey}"]`).focus();
    this.counted(this.rows.length);
  }

  heading(column) {
    const sort = this.sortKey !== column.key ? "none"
      : this.descending ? "descending" : "ascending";
    const button = element("button", { type: "button", "data-key": column.key },
      element("span", {}, column.label));
    if (column.note) button.append(element("small", {}, column.note));
    button.title = this.meanings[column.key] ?? "";
    button.addEventListener("click", () => this.sortBy(column.key));
    return element("th", {
      scope: "col", "aria-sort": sort, class: column.isText ? "text" : "" }, button);
  }

  addRows() {
    const next = this.rows.slice(this.filled, this.filled + ROWS_AT_A_TIME);
    this.body.append(...next.map((row, index) => this.line(row, this.filled + index)));
    this.filled += next.length;
    this.observer?.unobserve(this.end);
    const left = this.rows.length - this.filled;
    this.end.textContent = !this.rows.length ? "No row matches."
      : left ? `${countText(left)} more below` : "";
    if (left) setTimeout(() => this.observer.observe(this.end));
  }

  line(row, index) {
    const cells = this.shown.map((column) => {
      const text = column.text(row);
      const classes = `${column.isText ? "text" : ""} ${column.className?.(row) ?? ""}`;
      const cell = element("td", { class: classes.trim() });
      if (classes.includes("long")) cell.title = text;
      // Keyboards need something to press.
      if (column.isButton) cell.append(element("button", { type: "button" }, text));
      else cell.textContent = text;
      return cell;
    });
    const line = element("tr", {
      "data-row": row, "aria-rowindex": index + 2, "aria-selected": row === this.selected,
      class: this.data[this.rankKey][row] ? "" : "out" }, ...cells);
    line.addEventListener("click", () => this.choose(row, true));
    return line;
  }

  select(row) {
    this.selected = row;
    for (const line of this.body.children) {
      line.setAttribute("aria-selected", Number(line.dataset.row) === row);
    }
  }
}

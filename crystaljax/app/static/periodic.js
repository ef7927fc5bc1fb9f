"use strict";
// The periodic table: elements are picked by mouse, touch and keys.

const PERIODIC_ROWS = [
  "H . . . . . . . . . . . . . . . . He",
  "Li Be . . . . . . . . . . B C N O F Ne",
  "Na Mg . . . . . . . . . . Al Si P S Cl Ar",
  "K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr",
  "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe",
  "Cs Ba . Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn",
  "Fr Ra . . . . . . . . . . . . . . . .",
  "",
  ". . La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu .",
  ". . Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr .",
].map((row) => row.split(" ").filter(Boolean));

class PeriodicTable {
  // known: symbols that can be picked; pick(symbol) is called with one.
  constructor(box, known, pick) {
    this.buttons = new Map();
    PERIODIC_ROWS.forEach((row, y) => {
      if (!row.length) box.append(element("span", { class: "gap" }));
      row.forEach((symbol, x) => {
        if (symbol === ".") return;
        const button = element("button", {
          type: "button", "aria-pressed": "false", tabindex: "-1" }, symbol);
        button.style.gridColumn = x + 1;
        button.style.gridRow = y + 1;
        button.disabled = !known.has(symbol);
        button.addEventListener("click", () => pick(symbol));
        this.buttons.set(symbol, { button, x, y });
        box.append(button);
      });
    });
    // One of them is in the order of Tab, the arrows lead to the others.
    this.current = [...this.buttons.values()].find(({ button }) => !button.disabled);
    if (this.current) this.current.button.tabIndex = 0;
    box.addEventListener("keydown", (event) => this.obey(event));
    box.addEventListener("focusin", (event) => this.settle(event.target));
  }

  settle(button) {
    const found = [...this.buttons.values()].find((each) => each.button === button);
    if (!found) return;
    this.current.button.tabIndex = -1;
    found.button.tabIndex = 0;
    this.current = found;
  }

  obey(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const { x, y } = this.current;
    const ahead = [...this.buttons.values()].filter(({ button, ...place }) => {
      const along = (place.x - x) * step[0] + (place.y - y) * step[1];
      return !button.disabled && along > 0;
    });
    // The nearest ahead; to the side counts for more, so that rows and columns are kept.
    const far = (each) => {
      const [dx, dy] = [Math.abs(each.x - x), Math.abs(each.y - y)];
      return step[0] ? dx + 10 * dy : dy + 10 * dx;
    };
    ahead.sort((one, other) => far(one) - far(other));
    ahead[0]?.button.focus();
  }

  show(picked) {
    for (const [symbol, { button }] of this.buttons) {
      button.setAttribute("aria-pressed", picked.has(symbol));
    }
  }
}

// The crystal that is looked at: turned by mouse, touch and keys.

const TURN_PER_PIXEL = 0.01;
const TURN_PER_KEY = 0.15;
const ZOOM_LIMITS = [0.4, 8];
// A wheel that scrolled the page a moment ago goes on doing so over the picture.
const SCROLL_PAUSE = 250; // ms

class Viewer {
  constructor(canvas, elements) {
    this.canvas = canvas;
    this.elements = elements;
    this.structure = null;
    this.options = { repeats: 1, withBonds: false };
    this.rotation = FIRST_VIEW;
    this.zoom = 1;
    this.pointers = new Map();
    this.lastScroll = -Infinity;
    this.listen();
  }

  show(structure) {
    this.structure = structure;
    this.rebuild();
  }

  setOptions(options) {
    Object.assign(this.options, options);
    this.rebuild();
  }

  rebuild() {
    if (!this.structure) return;
    this.scene = buildScene(this.structure, this.elements, this.options);
    this.draw();
  }

  lookAlong(axis) {
    if (!this.structure) return;
    this.rotation = viewAlong(this.structure.lattice, axis);
    this.draw();
  }

  reset() {
    this.rotation = FIRST_VIEW;
    this.zoom = 1;
    this.draw();
  }

  turn(aroundUp, aroundRight) {
    this.rotation = turned(this.rotation, aroundUp, aroundRight);
    this.draw();
  }

  zoomBy(factor) {
    const [least, most] = ZOOM_LIMITS;
    this.zoom = Math.min(most, Math.max(least, this.zoom * factor));
    this.draw();
  }

  // At most once a frame, however fast the mouse is.
  draw() {
    if (this.waiting || !this.scene) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      paintScene(this.canvas, this.scene, {
        rotation: this.rotation, zoom: this.zoom, labels: true,
        fog: getComputedStyle(this.canvas).backgroundColor });
    });
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    canvas.addEventListener("pointermove", (event) => this.follow(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    window.addEventListener("scroll", () => { this.lastScroll = performance.now(); });
    canvas.addEventListener("wheel", (event) => {
      if (performance.now() - this.lastScroll < SCROLL_PAUSE) return;
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("keydown", (event) => this.obey(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // The buttons and boxes beside the picture.
  obeyControls() {
    for (const button of document.querySelectorAll("[data-along]")) {
      button.addEventListener("click", () => this.lookAlong(Number(button.dataset.along)));
    }
    byId("bonds").addEventListener("change", (event) =>
      this.setOptions({ withBonds: event.target.checked }));
    byId("supercell").addEventListener("change", (event) =>
      this.setOptions({ repeats: event.target.checked ? 2 : 1 }));
    byId("reset-view").addEventListener("click", () => this.reset());
  }

  follow(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    if (this.pointers.size === 1) {
      this.turn(TURN_PER_PIXEL * (now[0] - before[0]), TURN_PER_PIXEL * (now[1] - before[1]));
    } else {
      const [, other] = [...this.pointers].find(([id]) => id !== event.pointerId);
      const distance = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
      if (distance(before) > 0) this.zoomBy(distance(now) / distance(before));
    }
    this.pointers.set(event.pointerId, now);
  }

  obey(event) {
    const turns = {
      ArrowLeft: [-TURN_PER_KEY, 0], ArrowRight: [TURN_PER_KEY, 0],
      ArrowUp: [0, -TURN_PER_KEY], ArrowDown: [0, TURN_PER_KEY] };
    const zooms = { "+": 1.15, "=": 1.15, "-": 1 / 1.15 };
    if (turns[event.key]) this.turn(...turns[event.key]);
    else if (zooms[event.key]) this.zoomBy(zooms[event.key]);
    else return;
    event.preventDefault();
  }
}

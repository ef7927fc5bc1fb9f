// Diagrams as SVG: energy over composition or over what was asked for, and triangles.
// A layer is {segments, className}, or {points: [{x, y, row, lines}], color, size}: lines
// are what is shown beside the point, row what a click chooses.

const HEIGHT_LIMITS = [260, 400];
const REACH = 24; // pixels from the pointer to a point that it means
const NUM_PORTIONS = 12;
const TRIANGLE = [[0, 0], [1, 0], [0.5, Math.sqrt(3) / 2]];

function niceTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) {
    ticks.push(Number((k * step).toPrecision(10)));
  }
  return ticks;
}

function paddedRange(values, share = 0.06, least = 0.02) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) [low, high] = [0, 0];
  const pad = Math.max((high - low) * share, least);
  return [low - pad, high + pad];
}

// Dots of one colour: a few paths of round line ends, however many points there are;
// in portions, so that dots on top of each other look darker.
function dotPaths(points, color, size) {
  const portions = Array.from({ length: points.length > 200 ? NUM_PORTIONS : 1 }, () => []);
  points.forEach((point, index) => portions[index % portions.length].push(
    `M${point.px.toFixed(1)} ${point.py.toFixed(1)}h0`));
  return portions.map((portion) => svgElement("path", {
    class: `points color-${color}`, d: portion.join(""), "stroke-width": size,
    "stroke-opacity": points.length > 200 ? 0.55 : 0.85 }));
}

class Chart {
  // box: where it goes; choose: what is called with the row of a point clicked.
  constructor(box, { title, description, legend = [], choose }) {
    this.choose = choose;
    this.marked = null;
    this.svg = svgElement("svg", { role: "img", "aria-label": description });
    this.legend = element("div", { class: "hint" }, ...legend.map(([color, text]) =>
      element("span", {}, element("i", { class: `color-${color}` }), text)));
    this.outside = element("span");
    this.legend.append(this.outside);
    const figure = element("figure", { class: "chart" });
    if (title) figure.append(element("h3", {}, title));
    figure.append(this.svg, this.legend);
    box.append(figure);
    this.figure = figure;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(figure);
  }

  // What a subclass draws into this.svg; it returns its points with px and py.
  render() { throw new Error("a chart must render"); }

  draw() {
    this.width = this.figure.clientWidth;
    if (!this.width) return;
    this.height = Math.min(HEIGHT_LIMITS[1], Math.max(HEIGHT_LIMITS[0], 0.72 * this.width));
    this.svg.replaceChildren();
    setAttributes(this.svg, {
      viewBox: `0 0 ${this.width} ${this.height}`, height: this.height });
    this.points = this.render();
    this.ring = svgElement("circle", { class: "ring", r: 7, visibility: "hidden" });
    this.svg.append(this.ring);
    this.mark(this.marked);
  }

  mark(row) {
    this.marked = row;
    const point = row === null ? null : this.points?.find((each) => each.row === row);
    if (point) this.circle(point);
    else this.ring?.setAttribute("visibility", "hidden");
  }

  circle(point) {
    setAttributes(this.ring, { cx: point.px, cy: point.py, visibility: "visible" });
  }

  pixel(event) {
    const box = this.svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  nearest(event) {
    const [x, y] = this.pixel(event);
    let [best, least] = [null, REACH];
    for (const point of this.points ?? []) {
      const distance = Math.hypot(point.px - x, point.py - y);
      // What was drawn last lies on top.
      if (distance <= least) [best, least] = [point, distance];
    }
    return best;
  }

  listen() {
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => {
      hideTooltip();
      this.mark(this.marked);
    });
    this.svg.addEventListener("click", (event) => {
      // The end of dragging is no choice.
      if (this.dragged) return;
      const point = this.nearest(event);
      if (point && point.row !== undefined) this.choose(point.row);
    });
  }

  hover(event) {
    const point = this.nearest(event);
    if (!point) {
      hideTooltip();
      return this.mark(this.marked);
    }
    this.circle(point);
    showTooltip(event, point.lines());
  }
}

// x and y axes. xRange and yRange are of all points, yFirst is what is seen of y at
// first. Dragging a box enlarges it, a double click shows all.
class AxesChart extends Chart {
  constructor(box, spec) {
    super(box, spec);
    this.spec = spec;
    this.range = { x: spec.xRange, y: spec.yFirst ?? spec.yRange };
  }

  render() {
    const { spec, width, height } = this;
    this.inner = { left: 62, right: width - 12, top: 10, bottom: height - 44 };
    const { left, right, top, bottom } = this.inner;
    const { x, y } = this.range;
    const toX = (value) => left + ((value - x[0]) / (x[1] - x[0])) * (right - left);
    const toY = (value) => bottom - ((value - y[0]) / (y[1] - y[0])) * (bottom - top);
    const clip = `clip-${AxesChart.count = (AxesChart.count ?? 0) + 1}`;
    const clipPath = svgElement("clipPath", { id: clip });
    const frame = { x: left, y: top, width: right - left, height: bottom - top };
    clipPath.append(svgElement("rect", frame));
    this.svg.append(clipPath);
    this.drawAxes(toX, toY);
    this.svg.append(svgElement("rect", { class: "frame", ...frame }));
    const inside = svgElement("g", { "clip-path": `url(#${clip})` });
    this.svg.append(inside);
    const points = [];
    let numOutside = 0;
    for (const layer of spec.layers) {
      if (layer.segments) {
        inside.append(svgElement("path", {
          class: layer.className,
          d: layer.segments.map(([x1, y1, x2, y2]) =>
            `M${toX(x1)} ${toY(y1)}L${toX(x2)} ${toY(y2)}`).join("") }));
        continue;
      }
      const placed = layer.points
        .filter((p) => p.x >= x[0] && p.x <= x[1] && p.y >= y[0] && p.y <= y[1])
        .map((point) => ({ ...point, px: toX(point.x), py: toY(point.y) }));
      numOutside += layer.points.length - placed.length;
      inside.append(...dotPaths(placed, layer.color, layer.size));
      for (const point of placed) points.push(point);
    }
    this.outside.textContent = numOutside
      ? `${countText(numOutside)} outside: a double click shows all` : "";
    this.box = svgElement("rect", { class: "box", visibility: "hidden" });
    this.svg.append(this.box);
    return points;
  }

  drawAxes(toX, toY) {
    const { left, right, top, bottom } = this.inner;
    const put = (tag, attributes, text) => this.svg.append(svgElement(tag, attributes, text));
    for (const tick of niceTicks(...this.range.x, Math.max(3, this.width / 90))) {
      put("line", { class: "grid", x1: toX(tick), x2: toX(tick), y1: top, y2: bottom });
      put("text", { x: toX(tick), y: bottom + 16, "text-anchor": "middle" },
        this.spec.tickNames?.[tick] ?? plain(tick));
    }
    for (const tick of niceTicks(...this.range.y, this.height / 60)) {
      put("line", { class: "grid", x1: left, x2: right, y1: toY(tick), y2: toY(tick) });
      put("text", { x: left - 6, y: toY(tick) + 4, "text-anchor": "end" }, plain(tick));
    }
    put("text", { x: (left + right) / 2, y: this.height - 8, "text-anchor": "middle", class: "name" },
      this.spec.xLabel);
    const middle = (top + bottom) / 2;
    put("text", { x: 14, y: middle, "text-anchor": "middle", class: "name",
      transform: `rotate(-90 14 ${middle})` }, this.spec.yLabel);
  }

  listen() {
    super.listen();
    this.svg.addEventListener("pointerdown", (event) => {
      this.dragged = false;
      // Fingers scroll the page.
      if (event.pointerType === "mouse" && event.button === 0) this.begin = this.pixel(event);
    });
    this.svg.addEventListener("pointerup", (event) => this.enlarge(this.pixel(event)));
    this.svg.addEventListener("dblclick", () => {
      this.range = { x: this.spec.xRange, y: this.spec.yRange };
      this.draw();
    });
    this.svg.addEventListener("pointerleave", () => {
      this.begin = null;
      this.box?.setAttribute("visibility", "hidden");
    });
  }

  hover(event) {
    if (!this.begin) return super.hover(event);
    hideTooltip();
    const [x, y] = this.pixel(event);
    setAttributes(this.box, {
      x: Math.min(x, this.begin[0]), y: Math.min(y, this.begin[1]),
      width: Math.abs(x - this.begin[0]), height: Math.abs(y - this.begin[1]),
      visibility: "visible" });
  }

  enlarge(end) {
    const begin = this.begin;
    this.begin = null;
    this.box?.setAttribute("visibility", "hidden");
    if (!begin || Math.abs(end[0] - begin[0]) < 8 || Math.abs(end[1] - begin[1]) < 8) return;
    this.dragged = true;
    const { left, right, top, bottom } = this.inner;
    const { x, y } = this.range;
    const fromX = (pixel) => x[0] + ((pixel - left) / (right - left)) * (x[1] - x[0]);
    const fromY = (pixel) => y[0] + ((bottom - pixel) / (bottom - top)) * (y[1] - y[0]);
    const ascending = (one, other) => [Math.min(one, other), Math.max(one, other)];
    this.range = {
      x: ascending(fromX(begin[0]), fromX(end[0])),
      y: ascending(fromY(begin[1]), fromY(end[1])) };
    this.draw();
  }
}

// Compositions of three elements; points have fractions instead of x and y.
class TriangleChart extends Chart {
  constructor(box, spec) {
    super(box, spec);
    this.spec = spec;
  }

  render() {
    const { spec, width, height } = this;
    const side = Math.min(width - 70, (height - 56) / TRIANGLE[2][1]);
    const origin = [(width - side) / 2, height - 28];
    const place = (fractions) => [0, 1].map((axis) => {
      const value = TRIANGLE.reduce(
        (sum, corner, index) => sum + corner[axis] * fractions[index], 0);
      return axis ? origin[1] - side * value : origin[0] + side * value;
    });
    const line = ([from, to]) => `M${place(from).join(" ")}L${place(to).join(" ")}`;
    const corners = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
    this.svg.append(svgElement("path", { class: "frame", d:
      `M${corners.map((corner) => place(corner).join(" ")).join("L")}Z` }));
    corners.forEach((corner, index) => {
      const [x, y] = place(corner);
      this.svg.append(svgElement("text", { class: "corner", x, y: y + [20, 20, -10][index],
        "text-anchor": "middle" }, spec.symbols[index]));
    });
    const points = [];
    for (const layer of spec.layers) {
      if (layer.segments) {
        this.svg.append(svgElement("path", {
          class: layer.className, d: layer.segments.map(line).join("") }));
        continue;
      }
      const placed = layer.points.map((point) => {
        const [px, py] = place(point.fractions);
        return { ...point, px, py };
      });
      this.svg.append(...dotPaths(placed, layer.color, layer.size));
      for (const point of placed) points.push(point);
    }
    this.drawNames(points.filter((point) => point.name));
    return points;
  }

  // Names of the stable compounds, where there is room.
  drawNames(points) {
    const taken = [];
    for (const point of points) {
      const wide = 7 * point.name.length;
      const free = taken.every(([x, y, w]) =>
        Math.abs(x - point.px) > (w + wide) / 2 || Math.abs(y - point.py) > 14);
      if (!free) continue;
      taken.push([point.px, point.py, wide]);
      this.svg.append(svgElement("text", { class: "name", x: point.px, y: point.py - 9,
        "text-anchor": "middle" }, point.name));
    }
  }
}

function showTooltip(event, lines) {
  const tooltip = byId("tooltip");
  tooltip.replaceChildren(...lines.map((line) => element("div", {}, line)));
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const screen = document.documentElement.clientWidth;
  const left = Math.min(event.clientX + 14, screen - width - 6);
  const above = event.clientY - height - 14;
  tooltip.style.left = `${window.scrollX + Math.max(6, left)}px`;
  tooltip.style.top = `${window.scrollY + (above > 0 ? above : event.clientY + 18)}px`;
}

function hideTooltip() {
  byId("tooltip").hidden = true;
}

// A crystal as spheres, bonds and cell edges in Å, and its picture on a canvas: painted
// from the back to the front, so that no WebGL is needed.

const SPHERE_SCALE = 0.6; // of the covalent radius
const BOND_FACTOR = 1.15; // of the sum of covalent radii
const BOND_RADIUS = 0.11; // Å
const SAME_PLACE = 0.01; // fractional; closer to a face than that is on it
const EDGE_PARTS = 30; // pieces of a cell edge, for what hides what
const EDGE_COLOR = "#8791a0"; // readable on light, dark and paper
const AXIS_COLORS = ["#d64545", "#2f9e55", "#4c7fe0"];

const add = (p, q) => [p[0] + q[0], p[1] + q[1], p[2] + q[2]];
const subtract = (p, q) => [p[0] - q[0], p[1] - q[1], p[2] - q[2]];
const scale = (p, factor) => [p[0] * factor, p[1] * factor, p[2] * factor];
const dot = (p, q) => p[0] * q[0] + p[1] * q[1] + p[2] * q[2];
const cross = (p, q) => [
  p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]];
const norm = (p) => Math.sqrt(dot(p, p));
const unit = (p) => scale(p, 1 / norm(p));
const mix = (p, q, share) => add(scale(p, 1 - share), scale(q, share));
const toCartesian = (f, lattice) =>
  add(add(scale(lattice[0], f[0]), scale(lattice[1], f[1])), scale(lattice[2], f[2]));

// Rotations are three rows: what points right, up, and at the viewer.
const rotate = (rotation, p) => rotation.map((row) => dot(row, p));
function turned(rotation, aroundUp, aroundRight) {
  const [cosU, sinU] = [Math.cos(aroundUp), Math.sin(aroundUp)];
  const [cosR, sinR] = [Math.cos(aroundRight), Math.sin(aroundRight)];
  const [x, y, z] = rotation;
  const right = add(scale(x, cosU), scale(z, sinU));
  const front = subtract(scale(z, cosU), scale(x, sinU));
  return [right, subtract(scale(y, cosR), scale(front, sinR)),
    add(scale(y, sinR), scale(front, cosR))];
}

// z up, seen from the front, a little from the right and from above.
const FIRST_VIEW = turned([[1, 0, 0], [0, 0, 1], [0, -1, 0]], -0.42, 0.3);

function viewAlong(lattice, axis) {
  const front = unit(lattice[axis]);
  const other = lattice[axis === 2 ? 1 : 2];
  const up = unit(subtract(other, scale(front, dot(other, front))));
  return [cross(up, front), up, front];
}

// Sites wrapped into the cell, with the images of those on its faces.
function placeAtoms(structure, repeats) {
  const shifts = Array.from({ length: repeats + 1 }, (_, shift) => shift);
  const atoms = [];
  structure.numbers.forEach((number, site) => {
    const first = [0, 1, 2].map((axis) => {
      const coordinate = structure.coords[3 * site + axis];
      const wrapped = coordinate - Math.floor(coordinate);
      return wrapped > 1 - SAME_PLACE ? wrapped - 1 : wrapped;
    });
    const along = first.map((value) => shifts
      .map((shift) => value + shift)
      .filter((place) => place <= repeats + SAME_PLACE));
    for (const u of along[0]) for (const v of along[1]) for (const w of along[2]) {
      atoms.push({ number, place: toCartesian([u, v, w], structure.lattice) });
    }
  });
  return atoms;
}

function findBonds(atoms, elements) {
  const bonds = [];
  for (let i = 0; i < atoms.length; i++) for (let j = 0; j < i; j++) {
    const reach = BOND_FACTOR *
      (elements[atoms[i].number].radius + elements[atoms[j].number].radius);
    const distance = norm(subtract(atoms[i].place, atoms[j].place));
    if (distance > 0.1 && distance < reach) bonds.push([atoms[i], atoms[j]]);
  }
  return bonds;
}

// Edges in pieces, since a sphere may hide one end and not the other.
function cellEdges(lattice, repeats) {
  const edges = [];
  for (let axis = 0; axis < 3; axis++) {
    const [other, another] = [(axis + 1) % 3, (axis + 2) % 3];
    for (const [u, v] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      const from = add(scale(lattice[other], u * repeats), scale(lattice[another], v * repeats));
      const to = add(from, scale(lattice[axis], repeats));
      const color = u + v ? EDGE_COLOR : AXIS_COLORS[axis];
      for (let part = 0; part < EDGE_PARTS; part++) {
        edges.push({ color, from: mix(from, to, part / EDGE_PARTS),
          to: mix(from, to, (part + 1) / EDGE_PARTS) });
      }
    }
  }
  return edges;
}

// What is drawn, around the origin.
function buildScene(structure, elements, { repeats = 1, withBonds = false } = {}) {
  const lattice = structure.lattice;
  const center = scale(add(add(lattice[0], lattice[1]), lattice[2]), repeats / 2);
  const atoms = placeAtoms(structure, repeats);
  for (const atom of atoms) {
    atom.place = subtract(atom.place, center);
    atom.radius = SPHERE_SCALE * elements[atom.number].radius;
    atom.color = elements[atom.number].color;
  }
  // Pieces within a sphere would shine through its front.
  const isWithin = (place) =>
    atoms.some((atom) => norm(subtract(atom.place, place)) < atom.radius);
  const edges = cellEdges(lattice, repeats).map((edge) => ({
    ...edge, from: subtract(edge.from, center), to: subtract(edge.to, center) }))
    .filter((edge) => !isWithin(edge.from) || !isWithin(edge.to));
  const extents = atoms.map((atom) => norm(atom.place) + atom.radius)
    .concat(edges.map((edge) => Math.max(norm(edge.from), norm(edge.to))));
  return {
    atoms, edges, extent: Math.max(...extents),
    bonds: withBonds ? findBonds(atoms, elements) : [],
    axes: lattice.map((vector, axis) => ({
      label: "abc"[axis], color: AXIS_COLORS[axis],
      place: subtract(add(vector, scale(unit(vector), 1.3)), center) })),
  };
}

function shade([red, green, blue], toWhite, toBlack) {
  const part = (value) => Math.round((value + (255 - value) * toWhite) * (1 - toBlack));
  return `rgb(${part(red)},${part(green)},${part(blue)})`;
}

const sprites = new Map();
// A sphere of one colour, painted once and then copied.
function sphereSprite(color) {
  const key = color.join();
  if (!sprites.has(key)) {
    const size = 160;
    const canvas = element("canvas", { width: size, height: size });
    const context = canvas.getContext("2d");
    const light = context.createRadialGradient(
      0.36 * size, 0.32 * size, 0.02 * size, 0.46 * size, 0.44 * size, 0.56 * size);
    light.addColorStop(0, shade(color, 0.85, 0));
    light.addColorStop(0.22, shade(color, 0.3, 0));
    light.addColorStop(0.6, shade(color, 0, 0.06));
    light.addColorStop(1, shade(color, 0, 0.55));
    context.fillStyle = light;
    context.beginPath();
    context.arc(size / 2, size / 2, size / 2 - 1, 0, 2 * Math.PI);
    context.fill();
    context.strokeStyle = shade(color, 0, 0.65);
    context.lineWidth = 2;
    context.stroke();
    sprites.set(key, canvas);
  }
  return sprites.get(key);
}

// Everything that can hide something else, with its depth.
function paintables(scene, rotation) {
  const items = [];
  for (const atom of scene.atoms) {
    const place = rotate(rotation, atom.place);
    items.push({ depth: place[2], place, atom });
  }
  const line = (from, to, color, width) => {
    const [begin, end] = [rotate(rotation, from), rotate(rotation, to)];
    items.push({ depth: (begin[2] + end[2]) / 2, begin, end, color, width });
  };
  for (const edge of scene.edges) line(edge.from, edge.to, edge.color, 0);
  for (const [one, other] of scene.bonds) {
    const length = norm(subtract(one.place, other.place));
    const middle = mix(one.place, other.place, 0.5);
    for (const [atom, far] of [[one, other], [other, one]]) {
      // From the surface: the half in front of its atom must not be seen within it.
      const start = mix(atom.place, far.place, (0.9 * atom.radius) / length);
      if (0.9 * atom.radius < length / 2) line(start, middle, atom.color, BOND_RADIUS);
    }
  }
  return items.sort((one, other) => one.depth - other.depth);
}

function paintLine(context, item, unitLength, toCanvas) {
  const [[x1, y1], [x2, y2]] = [toCanvas(item.begin), toCanvas(item.end)];
  const stroke = (color, width, longer = 0) => {
    const share = longer / Math.max(Math.hypot(x2 - x1, y2 - y1), longer, 1);
    const [dx, dy] = [share * (x2 - x1), share * (y2 - y1)];
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(x1 - dx, y1 - dy);
    context.lineTo(x2 + dx, y2 + dy);
    context.stroke();
  };
  // Pieces of an edge overlap by less than a pixel: apart, or with round ends, they
  // would look like beads.
  context.lineCap = item.width ? "round" : "butt";
  if (!item.width) return stroke(item.color, Math.max(1.5, 0.035 * unitLength), 0.4);
  stroke(shade(item.color, 0, 0.45), 2 * item.width * unitLength);
  stroke(shade(item.color, 0.1, 0.08), 1.3 * item.width * unitLength);
}

// fog: colour into which what is far away fades, "rgb(…)"; none if empty.
function paintScene(canvas, scene, { rotation = FIRST_VIEW, zoom = 1, fog = "", labels = false } = {}) {
  const ratio = window.devicePixelRatio || 1;
  const size = Math.max(1, Math.round(canvas.clientWidth * ratio));
  if (canvas.width !== size) canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, size, size);
  context.imageSmoothingQuality = "high";
  const unitLength = (0.46 * size * zoom) / scene.extent;
  const toCanvas = (place) =>
    [size / 2 + unitLength * place[0], size / 2 - unitLength * place[1]];
  for (const item of paintables(scene, rotation)) {
    if (!item.atom) {
      paintLine(context, item, unitLength, toCanvas);
      continue;
    }
    const [x, y] = toCanvas(item.place);
    const radius = item.atom.radius * unitLength;
    context.drawImage(sphereSprite(item.atom.color), x - radius, y - radius, 2 * radius, 2 * radius);
    const farness = 0.5 - item.depth / (2 * scene.extent);
    if (!fog || farness < 0.4) continue;
    context.globalAlpha = 0.55 * (farness - 0.4);
    context.fillStyle = fog;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
    context.globalAlpha = 1;
  }
  if (!labels) return;
  context.font = `600 ${Math.round(13 * ratio)}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (const axis of scene.axes) {
    context.fillStyle = axis.color;
    context.fillText(axis.label, ...toCanvas(rotate(rotation, axis.place)));
  }
}

// ---- In words ----------------------------------------------------------------------

// Dots in the colours of the elements, with their symbols.
function legendOf(structure, elements) {
  return [...new Set(structure.numbers)].map((number) => {
    const { symbol, color, radius } = elements[number];
    const dot = element("i");
    dot.style.width = dot.style.height = `${Math.round(6 + 7 * radius)}px`;
    dot.style.background = `rgb(${color})`;
    return element("span", {}, dot, symbol);
  });
}

function cellText(lattice) {
  const angle = (one, other) =>
    (Math.acos(dot(lattice[one], lattice[other]) / norm(lattice[one]) / norm(lattice[other])) * 180) / Math.PI;
  const lengths = lattice.map((vector) => fixed(norm(vector), 3)).join(", ");
  const angles = [angle(1, 2), angle(0, 2), angle(0, 1)].map((each) => fixed(each, 1)).join(", ");
  return `${lengths} Å; ${angles}°`;
}

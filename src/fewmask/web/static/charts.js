// Small line charts, drawn as SVG.
const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 320, HEIGHT = 120, LEFT = 40, RIGHT = 6, TOP = 8, BOTTOM = 18;

function shape(name, attributes, text) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export const short = (value) =>
  Math.abs(value) >= 1000 || (value !== 0 && Math.abs(value) < 0.001)
    ? value.toExponential(1) : String(Number(value.toPrecision(3)));

function smooth(points) {
  const width = Math.floor(points.length / 20);
  if (width < 2) return points;
  return points.map(([step], i) => {
    const part = points.slice(Math.max(0, i - width + 1), i + 1);
    return [step, part.reduce((sum, point) => sum + point[1], 0) / part.length];
  });
}

export function drawCurve(figure, curve) {
  const points = curve.points.filter((point) => Number.isFinite(point[1]));
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    preserveAspectRatio: "none", "aria-label": `${curve.name} of ${curve.stage}` });
  figure.querySelector("svg")?.remove();
  figure.append(svg);
  if (!points.length) return;
  const values = points.map((point) => point[1]), steps = points.map((point) => point[0]);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const first = steps[0], last = Math.max(steps.at(-1), first + 1);
  const x = (step) => LEFT + ((step - first) / (last - first)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  for (const value of [low, (low + high) / 2, high]) {
    svg.append(shape("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
    svg.append(shape("text", { x: LEFT - 5, y: y(value) + 3.5, "text-anchor": "end" }, short(value)));
  }
  svg.append(shape("text", { x: LEFT, y: HEIGHT - 3 }, short(first)));
  svg.append(shape("text", { x: WIDTH - RIGHT, y: HEIGHT - 3, "text-anchor": "end" }, `step ${last}`));
  const line = (some) => some.map(([s, v]) => `${x(s).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  const smoothed = smooth(points);
  if (smoothed !== points) svg.append(shape("polyline", { class: "thin", points: line(points) }));
  svg.append(shape("polyline", { class: "thick", points: line(smoothed) }));
  const cursor = shape("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  svg.append(cursor);
  const output = figure.querySelector("output");
  output.textContent = short(values.at(-1));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const step = first + (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * (last - first);
    const nearest = points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
    for (const side of ["x1", "x2"]) cursor.setAttribute(side, x(nearest[0]));
    cursor.setAttribute("visibility", "visible");
    output.textContent = `step ${nearest[0]}: ${short(nearest[1])}`;
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    output.textContent = short(values.at(-1));
  });
}

const MARKS = ["circle", "square", "triangle", "diamond", "cross", "ring"];

function mark(kind, x, y, strong) {
  const r = strong ? 6 : 4;
  const paths = {
    circle: `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    ring: `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    square: `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    triangle: `M${x},${y - r}l${r},${2 * r}h${-2 * r}z`,
    diamond: `M${x},${y - r}l${r},${r}l${-r},${r}l${-r},${-r}z`,
    cross: `M${x - r},${y}h${2 * r}M${x},${y - r}v${2 * r}`,
  };
  return shape("path", { d: paths[kind], class: `mark ${kind} ${strong ? "strong" : ""}` });
}

export function drawScatter(figure, series, unit) { // series: [{name, points: [{x, y, title, strong}]}]
  const points = series.flatMap((each) => each.points);
  const W = 520, H = 230, L = 44, R = 14, T = 12, B = 34;
  const svg = shape("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": figure.textContent });
  const largest = Math.max(1, ...points.map((p) => p.x));
  const top = Math.min(1, Math.max(0.1, Math.ceil(Math.max(...points.map((p) => p.y), 0.1) * 10 + 0.5) / 10));
  const log = unit === "masks" && largest > 20;
  const along = (value) => (log ? Math.log1p(value) / Math.log1p(largest) : value / largest);
  const x = (value) => L + along(value) * (W - L - R - 20) + 10;
  const y = (value) => T + (1 - value / top) * (H - T - B);
  for (let i = 0; i <= 4; i++) {
    const value = (top * i) / 4;
    svg.append(shape("line", { class: "grid", x1: L, x2: W - R, y1: y(value), y2: y(value) }));
    svg.append(shape("text", { x: L - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
  }
  const ticks = log ? [0, 1, 3, 10, 30, 100, 300, 1000, 3000].filter((t) => t <= largest) : [0, largest / 2, largest];
  for (const tick of ticks) svg.append(shape("text", { x: x(tick), y: H - B + 16, "text-anchor": "middle" }, short(tick)));
  svg.append(shape("text", { x: W - R, y: H - 4, "text-anchor": "end" }, log ? `${unit}, logarithmic` : unit));
  const legend = document.createElement("ul");
  legend.className = "legend";
  series.forEach((each, i) => {
    const kind = MARKS[i % MARKS.length];
    for (const point of each.points) {
      const made = mark(kind, x(point.x), y(point.y), point.strong);
      made.append(shape("title", {}, `${each.name}: ${point.title}, ${short(point.x)} ${unit}, ${point.y.toFixed(3)}`));
      svg.append(made);
    }
    const key = shape("svg", { viewBox: "0 0 14 14", class: "key", "aria-hidden": "true" });
    key.append(mark(kind, 7, 7, false));
    const line = document.createElement("li");
    line.append(key, each.name);
    legend.append(line);
  });
  figure.append(svg, legend);
}

// Reviewing: a list of masks, keys for verdicts and tools, saves that are never lost silently.
import { api, clearProblems, debounced, element, post, Refused, showProblems } from "./api.js";
import { Editor } from "./editor.js";
import { Grid } from "./grid.js";
import { decode, encode, enlarged, UNSURE } from "./mask.js";

const place = (name) => document.getElementById(name);
const run = place("review").dataset.run;
const base = `/api/reviews/${run}`;
const editor = new Editor(place("canvas"));
let known, shown, current, facts, opened = 0;
const number = () => crypto.randomUUID();

// The list
function chosen() {
  const which = place("which").value;
  return known.items.filter((item) => !which || (which === "done") === Boolean(item.verdict));
}

function tell() {
  const done = known.items.filter((item) => item.verdict).length;
  place("progress").textContent = `${done} of ${known.items.length} reviewed`;
}

const list = new Grid(place("list"), {
  load: async (offset, limit) => {
    known ??= await api(base);
    if (!offset) shown = chosen();
    return { total: shown.length, images: shown.slice(offset, offset + limit) };
  },
  draw: (tile, item) => {
    tile.append(element("img", { src: `${base}/${item.id}/thumb?version=${item.version}`, alt: "" }),
      element("span", { className: "name clip", title: item.name }, item.name),
      element("span", { className: `tags clip ${item.verdict}` },
        item.verdict || `${Math.round(100 * (1 - item.confidence))} % unsure, ${item.part}`));
    tile.setAttribute("aria-label", `${item.name}, ${item.verdict || "not reviewed"}`);
  },
  open: (item) => show(item),
  rowPx: 54,
});

// One image
const loadBitmap = async (address) => createImageBitmap(await (await fetch(address)).blob(), { colorSpaceConversion: "none" });

function imageAddress() {
  const query = new URLSearchParams();
  if (place("bands").value) query.set("bands", place("bands").value);
  if (Number(place("low").value) !== 0 || Number(place("high").value) !== 2 ** facts.bits - 1) {
    query.set("low", place("low").value);
    query.set("high", place("high").value);
  }
  return `${base}/${current.id}/image?${query}`;
}

async function show(item) {
  current = item;
  clearProblems();
  place("saved").textContent = "";
  place("title").textContent = item.name;
  place("about").textContent = [item.tags || "no tag", item.part, item.verdict].filter(Boolean).join(", ");
  try {
    const found = await api(`${base}/${item.id}`);
    if (current !== item) return;
    const before = facts;
    facts = found;
    if (!before || before.bits !== facts.bits || before.bands !== facts.bands) setView();
    const bitmap = await loadBitmap(imageAddress());
    if (current !== item) return;
    editor.open({ bitmap, mask: decode(facts.mask, facts.width * facts.height), width: facts.width, height: facts.height });
    evidence.clear();
    if (editor.tool === "superpixel") loadSuperpixels();
    opened = performance.now();
    place("canvas").dataset.image = item.id;
  } catch (error) {
    if (error instanceof Refused) showProblems(error);
    else throw error;
  }
}

function setView() {
  const top = 2 ** facts.bits - 1;
  for (const [name, value] of [["low", facts.bits === 16 ? Math.floor(facts.low) : 0], ["high", facts.bits === 16 ? Math.ceil(facts.high) : top]]) {
    Object.assign(place(name), { min: 0, max: top, step: 1 });
    place(name).value = value;
    place(`${name}-out`).textContent = value;
  }
  const choices = facts.bands >= 3 ? [["", "1, 2, 3 as red, green, blue"], ["3,2,1", "3, 2, 1"]] : [["", "the only one"]];
  if (facts.bands > 1) for (let band = 1; band <= facts.bands; band++) choices.push([String(band), `band ${band}`]);
  if (facts.bands > 3) choices.splice(2, 0, ["4,3,2", "4, 3, 2"]);
  place("bands").replaceChildren(...choices.map(([value, title]) => element("option", { value }, title)));
  place("bands-box").hidden = facts.bands < 2;
}

const redrawImage = debounced(async () => {
  const item = current, bitmap = await loadBitmap(imageAddress());
  if (current === item) editor.setBitmap(bitmap);
}, 60);

// Evidence and superpixels
const evidence = new Map();

async function pixelsOf(address) {
  const bitmap = await loadBitmap(address);
  const scratch = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  scratch.drawImage(bitmap, 0, 0);
  return scratch.getImageData(0, 0, bitmap.width, bitmap.height);
}

async function evidenceOf(index) {
  const kind = place("evidence").value, key = `${current.id} ${kind} ${index}`;
  if (!evidence.has(key)) {
    const found = await pixelsOf(`${base}/${current.id}/evidence/${kind}/${index}`);
    const values = new Float32Array(found.width * found.height);
    for (let at = 0; at < values.length; at++) values[at] = found.data[4 * at] / 255;
    evidence.set(key, enlarged({ values, width: found.width, height: found.height }, editor.width, editor.height));
  }
  return evidence.get(key);
}

async function cut() {
  if (place("evidence-box").hidden || !facts) return;
  const value = Number(place("cut").value) / 100, item = current;
  place("cut-out").textContent = value.toFixed(2);
  const index = known.classes.findIndex((each) => each.id === editor.paint);
  if (index < 0) return;
  const map = await evidenceOf(index);
  if (current !== item) return;
  const mask = editor.mask.slice();
  for (let at = 0; at < mask.length; at++) {
    if (map[at] > value) mask[at] = editor.paint;
    else if (mask[at] === editor.paint) mask[at] = editor.empty;
  }
  if (cutting) { editor.mask.set(mask); editor.tint(); editor.draw(); } else editor.replace(mask);
}

let cutting = false; // a slide is one step of undo
place("cut").addEventListener("input", () => {
  if (!cutting) { cutting = true; editor.begin(); }
  cut();
});
place("cut").addEventListener("change", async () => {
  await cut();
  cutting = false;
  editor.end();
});

async function loadSuperpixels() {
  const item = current;
  place("saved").textContent = "finding areas of one colour…";
  const area = Math.max(30, Math.round(editor.size * editor.size * 1.7));
  const found = await pixelsOf(`${base}/${item.id}/superpixels?area=${area}`);
  if (current !== item) return;
  const labels = new Uint32Array(found.width * found.height);
  for (let at = 0; at < labels.length; at++) labels[at] = found.data[4 * at] + 256 * found.data[4 * at + 1] + 65536 * found.data[4 * at + 2];
  editor.superpixels = labels;
  place("saved").textContent = "";
}

// Saving
let saving = Promise.resolve();

function judge(verdict) {
  if (!current || !facts) return;
  const item = current;
  const edited = editor.changed;
  const review = { client_id: number(), run, image: item.id, base_version: facts.version,
    verdict: verdict === "accepted" && edited ? "edited" : verdict,
    seconds: Math.round((performance.now() - opened) / 100) / 10,
    mask: verdict !== "rejected" && edited ? encode(editor.mask) : null };
  move(1, item);
  saving = saving.then(() => send(review, item));
}

async function send(review, item, tries = 0) {
  try {
    const { version } = await post("/api/reviews", review);
    Object.assign(item, { version, verdict: review.verdict });
    if (facts && current === item) facts.version = version;
    place("saved").textContent = `${item.name}: ${review.verdict}, saved`;
    list.redraw(item);
    tell();
  } catch (error) {
    if (error.status === 409) await settle(review, item, error);
    else if (error.status === 0 && tries < 5) { // the same id: a review that did arrive counts once
      place("saved").textContent = `${item.name}: no answer, trying again`;
      await new Promise((done) => setTimeout(done, 1000 * 2 ** tries));
      await send(review, item, tries + 1);
    } else {
      showProblems(error);
      if (current !== item) await show(item);
    }
  }
}

function settle(review, item, error) {
  place("conflict-text").textContent = `${item.name}: ${error.problems[0].found}.`;
  place("conflict").showModal();
  return new Promise((done) => {
    const over = (work) => async () => { place("conflict").close(); await work(); done(); };
    place("take-theirs").onclick = over(() => show(item));
    place("keep-mine").onclick = over(() => send({ ...review, client_id: number(), base_version: error.answer.version }, item));
    place("conflict").oncancel = over(() => show(item));
  });
}

function move(step, item = current) {
  const index = shown.indexOf(item) + step;
  if (index < 0 || index >= shown.length) return;
  list.select(index);
  show(shown[index]);
}

// Buttons, sliders, keys
const press = (name, work) => place(name).addEventListener("click", work);
press("accept", () => judge("accepted"));
press("reject", () => judge("rejected"));
press("edit", () => place("canvas").focus());
press("next", () => move(1));
press("back", () => move(-1));
press("undo", () => editor.undo());
press("redo", () => editor.redo());
press("reset", () => editor.replace(editor.original));
press("fit", () => editor.fit());
press("larger", () => editor.zoom(1.4));
press("smaller", () => editor.zoom(1 / 1.4));
for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => editor.setTool(button.dataset.tool));

function slider(name, word, work) {
  const input = place(name), output = place(`${name}-out`);
  const told = () => { output.textContent = word(input.value); work(Number(input.value)); };
  input.addEventListener("input", told);
  told();
}
slider("size", (v) => `${v} px`, (v) => { editor.size = v; editor.draw(); });
slider("tolerance", (v) => v, (v) => { editor.tolerance = v; });
slider("opacity", (v) => `${v} %`, (v) => { editor.opacity = v / 100; if (editor.mask) { editor.tint(); editor.draw(); } });
for (const name of ["low", "high"]) place(name).addEventListener("input", () => {
  const other = name === "low" ? place("high") : place("low");
  if (Number(place("low").value) >= Number(place("high").value)) other.value = Number(place(name).value) + (name === "low" ? 1 : -1);
  for (const each of ["low", "high"]) place(`${each}-out`).textContent = place(each).value;
  redrawImage();
});
place("bands").addEventListener("change", redrawImage);
place("size").addEventListener("change", () => { if (editor.tool === "superpixel") loadSuperpixels(); });
place("which").addEventListener("change", () => list.reset());
editor.addEventListener("change", () => {
  place("undo").disabled = !editor.past.length;
  place("redo").disabled = !editor.future.length;
  place("accept").firstChild.textContent = editor.past.length ? "Save the edit " : "Accept ";
});
editor.addEventListener("tool", () => {
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === editor.tool));
  if (editor.tool === "superpixel") loadSuperpixels();
});

function setPaint(id) {
  editor.paint = id;
  for (const button of place("classes").children) button.setAttribute("aria-checked", String(Number(button.dataset.id) === id));
  for (const button of place("classes").children) button.setAttribute("aria-pressed", String(Number(button.dataset.id) === id));
}

const KEYS = {
  a: () => judge("accepted"), r: () => judge("rejected"), e: () => place("canvas").focus(),
  j: () => move(1), n: () => move(1), k: () => move(-1),
  b: () => editor.setTool("brush"), x: () => editor.setTool("eraser"), p: () => editor.setTool("polygon"),
  s: () => editor.setTool("superpixel"), f: () => editor.setTool("flood"),
  z: () => editor.undo(), y: () => editor.redo(), 0: () => editor.fit(),
  "+": () => editor.zoom(1.4), "=": () => editor.zoom(1.4), "-": () => editor.zoom(1 / 1.4),
  "[": () => resize(-2), "]": () => resize(2), h: () => { editor.hidden = !editor.hidden; editor.draw(); },
};
function resize(step) {
  place("size").value = Number(place("size").value) + step;
  place("size").dispatchEvent(new Event("input"));
}
const ON_CANVAS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input:not([type=range]), textarea") || place("conflict").open || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    if (key !== "z") return;
    event.shiftKey ? editor.redo() : editor.undo();
  } else if (event.target === place("canvas") && key in ON_CANVAS) {
    const far = event.shiftKey ? 10 : 1;
    editor.movePen(ON_CANVAS[key][0] * far, ON_CANVAS[key][1] * far);
  } else if (event.target === place("canvas") && key === " ") editor.usePen();
  else if (key === "Enter" && event.target === place("canvas")) editor.closePolygon();
  else if (key === "Escape") editor.setTool(editor.tool);
  else if (/^[1-9]$/.test(key) && known?.classes[key - 1]) setPaint(known.classes[key - 1].id);
  else if (key in KEYS && !(event.target.tagName === "SELECT")) { if (!event.repeat || "[]+-".includes(key)) KEYS[key](); }
  else return;
  event.preventDefault();
});

window.addEventListener("beforeunload", (event) => { if (editor.mask && editor.changed && editor.past.length) event.preventDefault(); });

place("retrain")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  place("retrain-button").disabled = true;
  try {
    await saving;
    location.assign((await post(`${base}/retrain`, { name: place("new-name").value })).next);
  } catch (error) {
    place("retrain-button").disabled = false;
    showProblems(error);
  }
});

async function begin() {
  known ??= await api(base);
  const { classes, background } = known;
  for (const each of classes) editor.colours.set(each.id, each.colour);
  editor.colours.set(UNSURE, [128, 128, 128]);
  editor.empty = background ? 0 : UNSURE;
  const swatches = [...classes, { id: UNSURE, name: "unsure", colour: [128, 128, 128] }];
  place("classes").replaceChildren(...swatches.map((each, i) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = `rgb(${each.colour})`;
    const button = element("button", { type: "button", role: "radio" }, swatch, each.name, ...(i < classes.length && i < 9 ? [" ", element("kbd", {}, i + 1)] : []));
    button.dataset.id = each.id;
    button.addEventListener("click", () => setPaint(each.id));
    return button;
  }));
  setPaint(classes[0].id);
  const titles = { map: "the map behind the mask", probability: "the segmenter's probability" };
  place("evidence").replaceChildren(...known.evidence.map((kind) => element("option", { value: kind }, titles[kind])));
  place("evidence-box").hidden = !known.evidence.length;
  place("cut-out").textContent = (Number(place("cut").value) / 100).toFixed(2);
  editor.setTool("brush");
  tell();
  await list.ready;
  if (shown?.length) { list.select(0); show(shown[0]); }
}
begin().catch(showProblems);

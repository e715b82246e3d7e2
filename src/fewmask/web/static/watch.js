// The page of a run: pictures of its stages, curves and samples, drawn anew while it runs.
import { api, element } from "./api.js";
import { drawCurve } from "./charts.js";

const live = document.getElementById("live");
const place = (name) => document.getElementById(name);
const run = place("curves").dataset.run;
const base = `/api/runs/${run}`;
const state = () => live.querySelector("[data-state]").dataset.state;

let drawnKinds = "";
async function drawPreviews() {
  const { kinds, rows } = await api(`${base}/previews`);
  const now = JSON.stringify(kinds);
  if (now === drawnKinds) return;
  drawnKinds = now;
  place("previews").replaceChildren(...kinds.map(({ kind, title }) =>
    element("div", { className: "line" }, element("span", {}, title), ...rows.map(({ row, id }) =>
      element("img", { src: `${base}/previews/${row}/${kind}`, alt: `${title} of ${id}`, title: id })))));
  if (!kinds.length) place("previews").textContent = "Nothing yet: the images are being read.";
}

async function drawCurves() {
  const found = await api(`${base}/curves`);
  for (const curve of found) {
    const id = `curve ${curve.stage} ${curve.loop} ${curve.name}`;
    let figure = place(id);
    if (!figure) {
      const loop = curve.loop && curve.loop !== "steps" ? ` ${curve.loop}` : "";
      figure = element("figure", { id }, element("figcaption", {}, curve.name.replaceAll("_", " "),
        element("span", {}, curve.stage + loop), element("output", {})));
      place("curves").append(figure);
    }
    drawCurve(figure, curve);
  }
  if (!found.length) place("curves").textContent = "No numbers yet.";
  else if (place("curves").firstChild.nodeType === Node.TEXT_NODE) place("curves").firstChild.remove();
}

let drawnPictures = "";
async function drawSamples() {
  const { pictures } = await api(base);
  if (pictures.join() === drawnPictures) return;
  drawnPictures = pictures.join();
  place("samples-section").hidden = !pictures.length;
  place("samples").replaceChildren(...pictures.map((name) => {
    const words = name.replace(/\.png$/, "").replaceAll("-", " ");
    return element("figure", {}, element("figcaption", {}, words), element("img",
      { src: `${base}/samples/${name.split("/").map(encodeURIComponent).join("/")}`, alt: words, loading: "lazy" }));
  }));
}

const draw = () => Promise.all([drawPreviews(), drawCurves(), drawSamples()]).catch(() => {});
let before = state();
draw();
setInterval(() => {
  if (!document.hidden && (state() === "running" || before === "running")) draw();
  before = state();
}, 4000);

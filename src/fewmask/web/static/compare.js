// Two charts, and the masks of two runs on the same image under a divider.
import { api, element, showProblems } from "./api.js";
import { drawScatter } from "./charts.js";
import { Grid } from "./grid.js";

const place = (name) => document.getElementById(name);
const chosen = [...document.querySelectorAll(".picker input:checked")].map((box) => box.value);

async function drawCharts() {
  const { runs } = await api(`/api/compare?${new URLSearchParams(chosen.map((id) => ["run", id]))}`);
  drawScatter(place("by-labels"), runs.map((run) => ({ name: run.name,
    points: run.points.map((p) => ({ x: p.masks, y: p.score, title: p.name, strong: p.kind === "result" })) })), "masks");
  drawScatter(place("by-minutes"), runs.map((run) => ({ name: run.name,
    points: run.points.filter((p) => p.kind === "result").map((p) => ({ x: run.minutes, y: p.score, title: p.name, strong: true })) })), "minutes");
}

function comparePictures() {
  const side = (name) => place(`side-${name}`).value;
  const split = () => {
    const value = place("split").value;
    place("image-b").style.clipPath = `inset(0 0 0 ${value}%)`;
    place("divider").style.left = `${value}%`;
  };
  const open = (item) => {
    place("image-a").src = `/api/runs/${side("a")}/masks/${item.id}`;
    place("image-b").src = `/api/runs/${side("b")}/masks/${item.id}`;
    place("image-name").textContent = `${item.name}, ${item.part}: ${(100 * item.differ).toFixed(1)} % of the pixels differ`;
  };
  let found = [];
  const grid = new Grid(place("images"), {
    load: async (offset, limit) => {
      if (!offset) found = await api(`/api/compare/${side("a")}/${side("b")}/images`).catch((e) => { showProblems(e); return []; });
      if (!offset && found.length) open(found[0]);
      return { total: found.length, images: found.slice(offset, offset + limit) };
    },
    draw: (tile, item) => tile.append(element("span", { className: "name clip" }, item.name),
      element("span", { className: "tags" }, `${(100 * item.differ).toFixed(1)} % differ, ${item.part}`)),
    open,
    rowPx: 46,
  });
  place("split").addEventListener("input", split);
  split();
  for (const name of ["a", "b"]) place(`side-${name}`).addEventListener("change", () => grid.reset());
}

if (place("by-labels")) drawCharts().catch(showProblems);
if (place("images")) comparePictures();

// The form of a new run; the command line beside it is the server's.
import { api, debounced, post, problemLine, showProblems } from "./api.js";

const place = (name) => document.getElementById(name);
const form = place("new");
const inputs = [...form.querySelectorAll("[name]")];

function filledIn() {
  const settings = Object.fromEntries(inputs.filter((i) => i.value !== "").map((i) => [i.name, i.value]));
  const folders = Object.fromEntries([...form.querySelectorAll("[data-folder]")].map((s) => [s.dataset.folder, s.value]));
  return { data: form.dataset.data, pipeline: form.dataset.pipeline, name: place("name").value,
    preset: place("preset").value, settings, folders,
    reuse: place("reuse")?.value ?? "", own_split: place("own-split")?.checked ?? false };
}

let asked = 0;
async function tell() {
  const number = ++asked;
  const { command, problems } = await post("/api/command", filledIn()).catch((error) =>
    ({ command: "", problems: error.problems ?? [] }));
  if (number !== asked) return; // a later answer is on its way
  if (command) place("command").textContent = command;
  place("wrong").hidden = !problems.length;
  place("wrong").replaceChildren(...problems.map(problemLine));
  place("start").disabled = place("copy").disabled = !command;
  for (const field of form.querySelectorAll("[data-name]")) {
    const wrong = problems.some((p) => p.where.endsWith(`: ${field.dataset.name}`));
    field.classList.toggle("wrong", wrong);
    field.classList.toggle("changed", Boolean(field.querySelector("[name]").value));
    field.querySelector("[name]").setAttribute("aria-invalid", String(wrong));
  }
  for (const group of form.querySelectorAll("details")) {
    const count = group.querySelectorAll(".field.changed").length;
    group.querySelector("summary .changed").textContent = count ? `${count} changed` : "";
  }
}

async function showPreset() {
  const values = await api(`/api/presets/${form.dataset.pipeline}/${place("preset").value}`);
  for (const input of inputs) {
    if (input.tagName === "SELECT") input.options[0].textContent = `${values[input.name] || "none"} (preset)`;
    else input.placeholder = values[input.name] || "none";
  }
}

form.addEventListener("input", debounced(tell, 120));
place("preset").addEventListener("change", showPreset);
place("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(place("command").textContent);
  place("copy").textContent = "Copied";
  setTimeout(() => { place("copy").textContent = "Copy the command"; }, 1500);
});
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  place("start").disabled = true;
  try {
    location.assign((await post("/api/runs", filledIn())).next);
  } catch (error) {
    place("start").disabled = false;
    showProblems(error);
  }
});
showPreset();
tell();

// A file to a mask: sent as it is, predicted in a process of its own, shown when it is done.
import { api, clearProblems, element, showProblems } from "./api.js";

const place = (name) => document.getElementById(name);
const drop = place("drop");

async function send(file) {
  clearProblems();
  const panel = element("section", { className: "panel" });
  const status = element("span", { className: "state running" }, "sending");
  panel.append(element("div", { className: "row" }, element("b", {}, file.name), status));
  place("tries").prepend(panel);
  try {
    const query = new URLSearchParams({ run: place("run").value, name: file.name });
    const { id } = await api(`/api/tries?${query}`, { method: "POST", raw: file, headers: { "content-type": "application/octet-stream" } });
    await watch(id, file, panel, status);
  } catch (error) {
    panel.remove();
    showProblems(error);
  }
}

async function watch(id, file, panel, status) {
  for (;;) {
    const { state, said, mask, overlay } = await api(`/api/tries/${id}`);
    status.className = `state ${state}`;
    status.textContent = state === "running" ? said.at(-1) || "loading the network" : state;
    if (state === "failed") panel.append(element("pre", { className: "log bad" }, said.join("\n") || "no mask was written"));
    if (state === "finished") {
      const stem = file.name.replace(/(\.nii)?\.[^.]*$/, "");
      const link = element("a", { className: "button primary", href: `/api/tries/${id}/mask?${new URLSearchParams({ stem: `${stem}-mask` })}`, download: "" }, "Download the mask");
      panel.firstChild.append(element("span", { className: "actions" }, link));
      if (overlay) panel.append(element("img", { className: "tried", src: `/api/tries/${id}/overlay`, alt: `${file.name} with its mask` }));
    }
    if (state !== "running") return;
    await new Promise((done) => setTimeout(done, 700));
  }
}

if (drop) {
  place("file").addEventListener("change", () => { for (const file of place("file").files) send(file); place("file").value = ""; });
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (e) => { e.preventDefault(); drop.classList.add("over"); });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, (e) => { e.preventDefault(); drop.classList.remove("over"); });
  drop.addEventListener("drop", (event) => { for (const file of event.dataTransfer.files) send(file); });
}

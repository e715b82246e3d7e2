// A data folder: all its images, one of them large, and the check beside them.
import { api, debounced, element, post, showProblems } from "./api.js";
import { Grid } from "./grid.js";

const place = (name) => document.getElementById(name);
const base = `/api/data/${place("grid").dataset.folder}`;
const count = place("count"), show = place("show"), text = place("text");

async function load(offset, limit) {
  if (!offset) count.textContent = "reading…";
  const query = new URLSearchParams({ offset, limit, show: show.value, text: text.value });
  try {
    const found = await api(`${base}/images?${query}`);
    count.textContent = found.total === found.of ? `${found.of} images` : `${found.total} of ${found.of} images`;
    if (show.options.length === 1) {
      for (const name of found.class_names) show.append(element("option", { value: `tag:${name}` }, `tag ${name}`));
      for (const [value, title] of [["without-tag", "without a tag"], ["with-mask", "with a mask"], ["without-mask", "without a mask"]])
        show.append(element("option", { value }, title));
    }
    return found;
  } catch (error) {
    count.textContent = "";
    showProblems(error);
    return { total: 0, images: [] };
  }
}

function draw(tile, item) {
  const tags = item.tags === null ? "" : item.tags.join(", ") || "no tag";
  tile.append(
    element("img", { src: `${base}/images/${item.id}/thumb`, alt: "cannot be read" }),
    element("span", { className: "name clip", title: item.name }, item.name),
    element("span", { className: "tags clip" }, [tags, item.mask ? "mask" : ""].filter(Boolean).join(" · ")));
  tile.setAttribute("aria-label", `${item.name} ${tags} ${item.mask ? "with mask" : ""}`);
}

function open(item) {
  place("large-name").textContent = item.name;
  place("large-tags").textContent = (item.tags ?? []).join(", ");
  place("large-image").src = `${base}/images/${item.id}/view`;
  place("large-image").alt = item.name;
  place("large").showModal();
}

const grid = new Grid(place("grid"), { load, draw, open });
place("large").addEventListener("close", () => place("grid").focus());
show.addEventListener("change", () => grid.reset());
text.addEventListener("input", debounced(() => grid.reset(), 150));

if (place("facts").dataset.checked === "0") post(`${base}/check`).catch(showProblems);

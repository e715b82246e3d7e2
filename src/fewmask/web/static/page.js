// On every page: parts that the server draws anew, and buttons that post.
import { clearProblems, post, showProblems } from "./api.js";

for (const part of document.querySelectorAll("[data-live]")) {
  let last = null;
  const draw = async () => {
    if (document.hidden) return;
    const answer = await fetch(part.dataset.live).catch(() => null);
    if (!answer?.ok) return;
    const text = await answer.text();
    if (text === last || part.querySelector(".busy")) return;
    const open = [...part.querySelectorAll("details[id]")].map((d) => [d.id, d.open]);
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    if (last !== null || text !== part.innerHTML) part.innerHTML = text; // escaped by the server
    last = text;
    for (const [id, was] of open) {
      const found = document.getElementById(id);
      if (found) found.open = was;
    }
    if (focused) document.getElementById(focused)?.focus();
    part.dispatchEvent(new CustomEvent("drawn"));
  };
  setInterval(draw, Number(part.dataset.every) * 1000);
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-post]");
  if (!button) return;
  clearProblems();
  button.disabled = true;
  button.classList.add("busy");
  if (button.dataset.busy) button.textContent = button.dataset.busy;
  try {
    const answer = await post(button.dataset.post, JSON.parse(button.dataset.body ?? "{}"));
    location.assign(answer.next);
  } catch (error) {
    button.disabled = false;
    button.classList.remove("busy");
    showProblems(error);
  }
});

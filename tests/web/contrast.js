// What a reader could not read or name: contrast below 4.5, inputs and buttons without a name.
() => {
  const rgb = (text) => (text.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => {
    const part = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const colour = (text) => { // any CSS colour as sRGB
    const c = document.createElement("canvas").getContext("2d");
    c.fillStyle = text;
    c.fillRect(0, 0, 1, 1);
    return [...c.getImageData(0, 0, 1, 1).data];
  };
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const found = getComputedStyle(e).backgroundColor;
      if (found !== "rgba(0, 0, 0, 0)") {
        const [r, g, b, a] = colour(found);
        layers.push([r, g, b, a / 255]);
        if (a === 255) break;
      }
    }
    return layers.reverse().reduce((below, [r, g, b, a]) => below.map((v, i) => v * (1 - a) + [r, g, b][i] * a), [255, 255, 255]);
  };
  const wrong = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = texts.nextNode()); ) {
    const element = node.parentElement, box = element.getBoundingClientRect();
    if (!node.textContent.trim() || !box.width || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest(":disabled, script, style, option, svg")) continue;
    const ink = light(rgb(getComputedStyle(element).color)), ground = light(behind(element));
    const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (contrast < 4.5) wrong.push(`${contrast.toFixed(2)}: ${element.tagName} ${element.className} ${node.textContent.trim().slice(0, 40)}`);
  }
  for (const input of document.querySelectorAll("input, select, textarea, button, a, img, canvas, [role=listbox], [role=option], [role=radio]")) {
    const named = input.labels?.length || input.getAttribute("aria-label") || input.textContent.trim() || input.title || input.alt !== undefined;
    if (!named) wrong.push(`no name: ${input.outerHTML.slice(0, 80)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids)) if (ids.filter((each) => each === id).length > 1) wrong.push(`twice: #${id}`);
  return wrong;
}

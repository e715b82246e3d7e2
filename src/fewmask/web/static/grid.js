// A list of any length: only tiles in sight exist; their facts come in pages.
const PAGE = 200;

export class Grid {
  // load(offset, limit) -> {total, images}; draw(tile, item); open(item)
  constructor(place, { load, draw, open, tilePx = 132, extraPx = 44, rowPx = 0 }) {
    Object.assign(this, { place, load, draw, open, tilePx, extraPx, rowPx });
    this.space = document.createElement("div");
    this.space.className = "space";
    place.replaceChildren(this.space);
    place.addEventListener("scroll", () => this.show(), { passive: true });
    place.addEventListener("keydown", (event) => this.onKey(event));
    place.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (tile) { this.select(Number(tile.dataset.index)); this.openSelected(); }
    });
    new ResizeObserver(() => this.show()).observe(place);
    this.reset();
  }

  async reset() {
    this.pages = new Map();
    this.tiles = new Map();
    this.space.replaceChildren();
    this.total = 0;
    this.selected = 0;
    this.place.scrollTop = 0;
    this.ready = this.need(0);
    await this.ready;
    this.show();
  }

  async need(page) {
    if (this.pages.has(page)) return;
    const pages = this.pages;
    pages.set(page, null);
    const found = await this.load(page * PAGE, PAGE);
    if (pages !== this.pages) return; // reset meanwhile
    pages.set(page, found.images);
    this.total = found.total;
    this.show();
  }

  item(index) { return this.pages.get(Math.floor(index / PAGE))?.[index % PAGE]; }

  shape() {
    const width = this.place.clientWidth - 2;
    if (this.rowPx) return { columns: 1, side: width, height: this.rowPx };
    const columns = Math.max(1, Math.floor(width / this.tilePx));
    const side = width / columns;
    return { columns, side, height: side + this.extraPx };
  }

  show() {
    const { columns, side, height } = this.shape();
    this.space.style.height = `${Math.ceil(this.total / columns) * height}px`;
    const top = this.place.scrollTop, bottom = top + this.place.clientHeight;
    const first = Math.max(0, Math.floor(top / height) - 1) * columns;
    const last = Math.min(this.total, (Math.ceil(bottom / height) + 1) * columns);
    for (const [index, tile] of this.tiles) {
      if (index < first || index >= last) { tile.remove(); this.tiles.delete(index); }
    }
    for (let index = first; index < last; index++) {
      const item = this.item(index);
      if (!item) { this.need(Math.floor(index / PAGE)); continue; }
      let tile = this.tiles.get(index);
      if (!tile) {
        tile = document.createElement("div");
        tile.className = "tile";
        tile.id = `tile-${index}`;
        tile.dataset.index = index;
        tile.setAttribute("role", "option");
        this.draw(tile, item);
        this.tiles.set(index, tile);
        this.space.append(tile);
      }
      tile.style.left = `${(index % columns) * side}px`;
      tile.style.top = `${Math.floor(index / columns) * height}px`;
      tile.style.width = `${side}px`;
      tile.style.height = `${height}px`;
      tile.setAttribute("aria-selected", String(index === this.selected));
    }
    this.place.setAttribute("aria-activedescendant", `tile-${this.selected}`);
  }

  redraw(item) {
    for (const [index, tile] of this.tiles) {
      if (this.item(index) === item) { tile.replaceChildren(); this.draw(tile, item); }
    }
  }

  select(index) {
    this.selected = Math.max(0, Math.min(this.total - 1, index));
    const { columns, height } = this.shape();
    const top = Math.floor(this.selected / columns) * height;
    if (top < this.place.scrollTop) this.place.scrollTop = top;
    const lowest = top + height - this.place.clientHeight;
    if (lowest > this.place.scrollTop) this.place.scrollTop = lowest;
    this.show();
  }

  openSelected() {
    const item = this.item(this.selected);
    if (item) this.open(item, this.selected);
  }

  onKey(event) {
    const { columns, height } = this.shape();
    const rows = Math.max(1, Math.floor(this.place.clientHeight / height));
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns,
      PageUp: -rows * columns, PageDown: rows * columns, Home: -this.total, End: this.total };
    if (event.key in moves) this.select(this.selected + moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.openSelected();
    else return;
    event.preventDefault();
  }
}

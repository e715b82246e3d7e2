// The canvas: an image, a mask over it, tools that change the mask, undo, zoom.
import { disc, flood, polygon, same, stroke } from "./mask.js";

const MOST_UNDO_BYTES = 64e6;

export class Editor extends EventTarget { // events: change, view, tool
  constructor(canvas) {
    super();
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.layer = document.createElement("canvas");
    this.tool = "brush";
    this.paint = 1;
    this.empty = 0;
    this.size = 12;
    this.tolerance = 24;
    this.opacity = 0.45;
    this.hidden = false;
    this.colours = new Map();
    this.points = [];
    this.pen = { x: 0, y: 0, shown: false };
    canvas.addEventListener("pointerdown", (e) => this.onDown(e));
    canvas.addEventListener("pointermove", (e) => this.onMove(e));
    canvas.addEventListener("pointerup", (e) => this.onUp(e));
    canvas.addEventListener("pointerleave", () => { this.pen.shown = false; this.draw(); });
    canvas.addEventListener("dblclick", () => this.closePolygon());
    canvas.addEventListener("contextmenu", (e) => e.preventDefault());
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      this.zoom(Math.exp(-e.deltaY / 400), this.place(e, true));
    }, { passive: false });
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  open({ bitmap, mask, width, height }) {
    Object.assign(this, { bitmap, mask, width, height, superpixels: null });
    this.original = mask.slice();
    this.past = [];
    this.future = [];
    this.points = [];
    this.layer.width = width;
    this.layer.height = height;
    this.picture = this.layer.getContext("2d").createImageData(width, height);
    this.setBitmap(bitmap);
    this.pen = { x: width >> 1, y: height >> 1, shown: false };
    this.tint();
    this.fit();
    this.tell();
  }

  setBitmap(bitmap) {
    this.bitmap = bitmap;
    const scratch = new OffscreenCanvas(this.width, this.height).getContext("2d", { willReadFrequently: true });
    scratch.drawImage(bitmap, 0, 0);
    this.pixels = scratch.getImageData(0, 0, this.width, this.height).data;
    this.draw();
  }

  get changed() { return this.mask.some((value, at) => value !== this.original[at]); }

  tell() { this.dispatchEvent(new Event("change")); }

  // Changing the mask: one step of undo for each gesture.
  begin() { this.before = this.mask.slice(); }

  end() {
    if (!this.before) return;
    if (this.mask.some((value, at) => value !== this.before[at])) {
      this.past.push(this.before);
      while (this.past.length * this.mask.length > MOST_UNDO_BYTES && this.past.length > 1) this.past.shift();
      this.future = [];
      this.tell();
    }
    this.before = null;
  }

  set(pixels, value) {
    for (const at of pixels) this.mask[at] = value;
    this.tint(pixels);
    this.draw();
  }

  replace(mask) { // as one step
    this.begin();
    this.mask.set(mask);
    this.tint();
    this.draw();
    this.end();
  }

  undo() { this.step(this.past, this.future); }
  redo() { this.step(this.future, this.past); }

  step(from, to) {
    if (!from.length) return;
    to.push(this.mask.slice());
    this.mask.set(from.pop());
    this.tint();
    this.draw();
    this.tell();
  }

  // Tools
  use(at, from = null) {
    const value = this.tool === "eraser" ? this.empty : this.paint;
    const { width, height } = this;
    if (this.tool === "brush" || this.tool === "eraser") {
      const radius = this.size / 2;
      this.set(from ? stroke(from, at, radius, width, height) : disc(at.x, at.y, radius, width, height), value);
    } else if (this.tool === "polygon") {
      this.points.push({ ...at });
      this.draw();
    } else if (at.x >= 0 && at.y >= 0 && at.x < width && at.y < height) {
      const start = Math.floor(at.y) * width + Math.floor(at.x);
      if (this.tool === "flood") this.set(flood(this.pixels, start, this.tolerance, width, height), value);
      if (this.tool === "superpixel" && this.superpixels) this.set(same(this.superpixels, start), value);
    }
  }

  closePolygon() {
    if (this.tool !== "polygon" || !this.points.length) return;
    const points = this.points;
    this.points = [];
    if (points.length > 2) {
      this.begin();
      this.set(polygon(points, this.width, this.height), this.paint);
      this.end();
    }
    this.draw();
  }

  setTool(tool) {
    this.points = [];
    this.tool = tool;
    this.draw();
    this.dispatchEvent(new Event("tool"));
  }

  onDown(event) {
    if (!this.mask) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    if (event.button === 1 || event.button === 2 || event.shiftKey) {
      this.drag = { x: event.clientX, y: event.clientY };
      return;
    }
    const at = this.place(event);
    if (this.tool === "polygon") { this.use(at); return; }
    this.begin();
    this.use(at);
    this.last = at;
  }

  onMove(event) {
    if (!this.mask) return;
    if (this.drag) {
      const ratio = this.canvas.width / this.canvas.clientWidth;
      this.left += (event.clientX - this.drag.x) * ratio;
      this.top += (event.clientY - this.drag.y) * ratio;
      this.drag = { x: event.clientX, y: event.clientY };
    }
    const at = this.place(event);
    this.pen = { ...at, shown: true };
    if (this.last && (this.tool === "brush" || this.tool === "eraser")) {
      this.use(at, this.last);
      this.last = at;
    }
    this.draw();
  }

  onUp() {
    this.drag = null;
    if (this.last) this.end();
    this.last = null;
  }

  movePen(dx, dy) {
    this.pen = { x: Math.min(this.width - 1, Math.max(0, this.pen.x + dx)),
      y: Math.min(this.height - 1, Math.max(0, this.pen.y + dy)), shown: true };
    this.draw();
  }

  usePen() {
    const at = { x: Math.round(this.pen.x), y: Math.round(this.pen.y) };
    if (this.tool === "polygon") { this.use(at); return; }
    this.begin();
    this.use(at);
    this.end();
  }

  // View
  place(event, onScreen = false) { // pixels of the image; pixel centres are whole numbers
    const box = this.canvas.getBoundingClientRect(), ratio = this.canvas.width / box.width;
    const x = (event.clientX - box.left) * ratio, y = (event.clientY - box.top) * ratio;
    return onScreen ? { x, y } : { x: (x - this.left) / this.scale - 0.5, y: (y - this.top) / this.scale - 0.5 };
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, this.canvas.clientWidth * ratio);
    this.canvas.height = Math.max(1, this.canvas.clientHeight * ratio);
    if (this.mask) this.fit();
  }

  fit() {
    this.scale = Math.min(this.canvas.width / this.width, this.canvas.height / this.height) * 0.98;
    this.left = (this.canvas.width - this.width * this.scale) / 2;
    this.top = (this.canvas.height - this.height * this.scale) / 2;
    this.draw();
  }

  zoom(factor, at = { x: this.canvas.width / 2, y: this.canvas.height / 2 }) {
    const scale = Math.min(60, Math.max(0.02, this.scale * factor)), real = scale / this.scale;
    this.left = at.x - (at.x - this.left) * real;
    this.top = at.y - (at.y - this.top) * real;
    this.scale = scale;
    this.draw();
  }

  tint(pixels = null) { // the coloured layer: all of it, or around some pixels
    const { data } = this.picture, { width, height, mask } = this;
    const one = (at) => {
      const value = mask[at], colour = this.colours.get(value);
      if (!colour) { data[4 * at + 3] = 0; return; }
      const column = at % width;
      const border = (column && mask[at - 1] !== value) || (column < width - 1 && mask[at + 1] !== value)
        || (at >= width && mask[at - width] !== value) || (at < mask.length - width && mask[at + width] !== value);
      data[4 * at] = colour[0];
      data[4 * at + 1] = colour[1];
      data[4 * at + 2] = colour[2];
      data[4 * at + 3] = border ? 255 : 255 * this.opacity;
    };
    if (!pixels) for (let at = 0; at < mask.length; at++) one(at);
    else {
      for (const at of pixels) {
        one(at);
        if (at % width) one(at - 1);
        if (at % width < width - 1) one(at + 1);
        if (at >= width) one(at - width);
        if (at < width * (height - 1)) one(at + width);
      }
    }
    this.layer.getContext("2d").putImageData(this.picture, 0, 0);
  }

  draw() {
    if (this.waiting || !this.mask) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.paintNow();
    });
  }

  paintNow() {
    const { context: c, scale, left, top } = this;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    c.setTransform(scale, 0, 0, scale, left, top);
    c.imageSmoothingEnabled = scale < 3;
    c.drawImage(this.bitmap, 0, 0, this.width, this.height);
    c.imageSmoothingEnabled = false;
    if (!this.hidden) c.drawImage(this.layer, 0, 0);
    c.lineWidth = 1.5 / scale;
    for (const [width, colour] of [[3 / scale, "#000"], [1.2 / scale, "#fff"]]) {
      c.lineWidth = width;
      c.strokeStyle = colour;
      c.beginPath();
      if (this.points.length) {
        this.points.forEach((p, i) => (i ? c.lineTo(p.x + 0.5, p.y + 0.5) : c.moveTo(p.x + 0.5, p.y + 0.5)));
        if (this.pen.shown) c.lineTo(this.pen.x + 0.5, this.pen.y + 0.5);
      }
      if (this.pen.shown) {
        const radius = this.tool === "brush" || this.tool === "eraser" ? this.size / 2 : 3 / scale;
        c.moveTo(this.pen.x + 0.5 + radius, this.pen.y + 0.5);
        c.arc(this.pen.x + 0.5, this.pen.y + 0.5, radius, 0, 7);
      }
      c.stroke();
    }
  }
}

// Masks as arrays of class ids: coding, and the shapes that tools paint. No drawing here.
export const UNSURE = 255;

export function decode(runs, length) {
  const mask = new Uint8Array(length);
  for (let i = 0, at = 0; i < runs.length; i += 2) {
    mask.fill(runs[i], at, at + runs[i + 1]);
    at += runs[i + 1];
  }
  return mask;
}

export function encode(mask) {
  const runs = [];
  for (let i = 0, from = 0; i < mask.length; i = from) {
    while (from < mask.length && mask[from] === mask[i]) from++;
    runs.push(mask[i], from - i);
  }
  return runs;
}

// Each of these returns the pixels that a tool covers, as a list of indices.

export function disc(x, y, radius, width, height) {
  const found = [], r = Math.max(0.5, radius);
  for (let row = Math.max(0, Math.ceil(y - r)); row <= Math.min(height - 1, Math.floor(y + r)); row++) {
    const half = Math.sqrt(r * r - (row - y) ** 2);
    const last = Math.min(width - 1, Math.floor(x + half));
    for (let column = Math.max(0, Math.ceil(x - half)); column <= last; column++) found.push(row * width + column);
  }
  return found;
}

export function stroke(from, to, radius, width, height) {
  const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(1, radius / 3)));
  const found = new Set();
  for (let i = 0; i <= steps; i++) {
    const part = i / steps;
    for (const at of disc(from.x + (to.x - from.x) * part, from.y + (to.y - from.y) * part, radius, width, height)) found.add(at);
  }
  return [...found];
}

export function polygon(points, width, height) { // even-odd, by pixel centres
  const found = [];
  for (let row = 0; row < height; row++) {
    const crossings = [];
    for (let i = 0; i < points.length; i++) {
      const a = points[i], b = points[(i + 1) % points.length];
      if ((a.y <= row) !== (b.y <= row)) crossings.push(a.x + ((row - a.y) / (b.y - a.y)) * (b.x - a.x));
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const last = Math.min(width - 1, Math.floor(crossings[i + 1]));
      for (let column = Math.max(0, Math.ceil(crossings[i])); column <= last; column++) found.push(row * width + column);
    }
  }
  return found;
}

export function flood(pixels, start, tolerance, width, height) { // neighbours whose colour is near the first's
  const near = (at) => Math.max(Math.abs(pixels[4 * at] - pixels[4 * start]),
    Math.abs(pixels[4 * at + 1] - pixels[4 * start + 1]), Math.abs(pixels[4 * at + 2] - pixels[4 * start + 2])) <= tolerance;
  const seen = new Uint8Array(width * height), found = [start];
  seen[start] = 1;
  for (let i = 0; i < found.length; i++) {
    const at = found[i], column = at % width;
    for (const next of [column ? at - 1 : -1, column < width - 1 ? at + 1 : -1, at - width, at + width]) {
      if (next >= 0 && next < seen.length && !seen[next] && near(next)) { seen[next] = 1; found.push(next); }
    }
  }
  return found;
}

export function same(labels, start) {
  const found = [];
  for (let at = 0; at < labels.length; at++) if (labels[at] === labels[start]) found.push(at);
  return found;
}

export function enlarged(map, width, height) { // bilinear, {values, width, height} to one value a pixel
  const found = new Float32Array(width * height);
  const scaleX = map.width / width, scaleY = map.height / height;
  for (let y = 0; y < height; y++) {
    const v = Math.min(map.height - 1, Math.max(0, (y + 0.5) * scaleY - 0.5)), top = Math.floor(v), down = Math.min(map.height - 1, top + 1), fy = v - top;
    for (let x = 0; x < width; x++) {
      const u = Math.min(map.width - 1, Math.max(0, (x + 0.5) * scaleX - 0.5)), left = Math.floor(u), right = Math.min(map.width - 1, left + 1), fx = u - left;
      const above = map.values[top * map.width + left] * (1 - fx) + map.values[top * map.width + right] * fx;
      const below = map.values[down * map.width + left] * (1 - fx) + map.values[down * map.width + right] * fx;
      found[y * width + x] = above * (1 - fy) + below * fy;
    }
  }
  return found;
}

// Draws many points, pixel by pixel: 100,000 take a few milliseconds on any computer, with or without a GPU.

const SOFT = 0.5;  // pixels over which an edge fades
const COARSE = [14, 0.18], LARGEST = 6.5, GROWTH = 0.3;  // radius: points are larger if they are few, or if the map is zoomed in

// The radius of a point in CSS pixels.
export const radiusOf = (count, zoom) => Math.min(LARGEST, (COARSE[0] / Math.max(count, 60) ** COARSE[1]) * zoom ** GROWTH);

// Draws points in the given order. `styles[n]` is a point's color, as from `packed`; `isFull(n)` says if it is a disk or a ring.
export function drawPoints(image, { points, order, styles, isFull, camera, scale, ground }) {
  const pixels = new Uint32Array(image.data.buffer), { width, height } = image;
  pixels.fill(ground);
  const radius = radiusOf(points.count, camera.zoom()) * scale;
  const stamps = [stamp(radius, true, width), stamp(1.15 * radius, false, width)];
  const reach = Math.ceil(1.15 * radius) + 1;
  const [x0, x1, y0, y1] = ends(camera, scale);
  for (const n of order) {
    const [x, y] = [Math.round(x0 + x1 * points.x[n]), Math.round(y0 + y1 * points.y[n])];
    if (x < reach || y < reach || x >= width - reach || y >= height - reach) continue;
    put(pixels, y * width + x, stamps[isFull(n) ? 1 : 0], styles[n]);
  }
}

// For each axis, an offset and a factor: the pixel of a position is the offset plus the factor times the position.
function ends(camera, scale) {
  const [x, y] = [camera.x(0) * scale, camera.y(0) * scale];
  return [x, camera.x(1) * scale - x, y, camera.y(1) * scale - y];
}

// The pixels of a point, relative to its center, and how much of each is covered: 256 is all of it.
function stamp(radius, isRing, width) {
  const [at, cover] = [[], []], hole = isRing ? radius - Math.max(1, 0.42 * radius) : -1;
  for (let y = -Math.ceil(radius); y <= radius + 1; y += 1) {
    for (let x = -Math.ceil(radius); x <= radius + 1; x += 1) {
      const away = Math.hypot(x, y);
      const share = within(radius - away) * (hole > 0 ? within(away - hole) : 1);
      if (share > 0.05) {
        at.push(y * width + x);
        cover.push(Math.round(256 * share));
      }
    }
  }
  return { at: Int32Array.from(at), cover: Int32Array.from(cover) };
}

const within = (depth) => Math.min(Math.max(depth / SOFT / 2 + 0.5, 0), 1);

function put(pixels, center, { at, cover }, color) {
  const [redBlue, green] = [color & 0xff00ff, color & 0xff00];
  for (let n = 0; n < at.length; n += 1) {
    const place = center + at[n], share = cover[n];
    if (share === 256) pixels[place] = color;
    else {
      const under = pixels[place], rest = 256 - share;
      pixels[place] = 0xff000000
        | (((redBlue * share + (under & 0xff00ff) * rest) >>> 8) & 0xff00ff)
        | (((green * share + (under & 0xff00) * rest) >>> 8) & 0xff00);
    }
  }
}

// The points of a map, unpacked from the server's answer; finds the points at a place.

export const OTHER = 65535;  // a label that isn't one of the choices; other labels are the choice's number, and 0 is no label
const EDGE = 65535, SURE = 255;

// Positions are from 0 to 1, from the left and from the top.
export function unpack({ ids, positions, labels, proposals, doubts }) {
  const places = new Uint16Array(bytes(positions)), count = ids.length;
  const [x, y] = [new Float32Array(count), new Float32Array(count)];
  for (let n = 0; n < count; n += 1) [x[n], y[n]] = [places[2 * n] / EDGE, places[2 * n + 1] / EDGE];
  return {
    count, ids, x, y, labels: new Uint16Array(bytes(labels)), proposals: new Uint16Array(bytes(proposals)),
    doubts: Float32Array.from(new Uint8Array(bytes(doubts)), (doubt) => doubt / SURE),
  };
}

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

// The number of the point nearest to a place on the screen, at most `reach` pixels away; -1 if there is none.
export function nearest(points, camera, [x, y], reach, isShown) {
  let best = -1, least = reach ** 2;
  for (let n = 0; n < points.count; n += 1) {
    const away = (camera.x(points.x[n]) - x) ** 2 + (camera.y(points.y[n]) - y) ** 2;
    if (away < least && isShown(n)) [best, least] = [n, away];
  }
  return best;
}

// The numbers of the points inside a polygon of places on the screen.
export function inside(points, camera, polygon, isShown) {
  const [left, right] = range(polygon.map(([x]) => x)), [top, bottom] = range(polygon.map(([, y]) => y));
  const found = [];
  for (let n = 0; n < points.count; n += 1) {
    const [x, y] = [camera.x(points.x[n]), camera.y(points.y[n])];
    if (x >= left && x <= right && y >= top && y <= bottom && isShown(n) && isInside(polygon, x, y)) found.push(n);
  }
  return found;
}

const range = (values) => [Math.min(...values), Math.max(...values)];

// A place is inside if a line from it to the right crosses the border an odd number of times.
function isInside(polygon, x, y) {
  let isIn = false;
  for (let n = 0, before = polygon.length - 1; n < polygon.length; before = n, n += 1) {
    const [[x1, y1], [x2, y2]] = [polygon[before], polygon[n]];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) isIn = !isIn;
  }
  return isIn;
}

export const circle = ([x, y], radius) => Array.from({ length: 48 }, (_, n) => {
  const angle = (2 * Math.PI * n) / 48;
  return [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
});

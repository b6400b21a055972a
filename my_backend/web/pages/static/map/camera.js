// Which part of the map is on the screen.

const MARGIN = 16, CLOSEST = 400;  // pixels around the map; the largest zoom

// Sizes and places on the screen are in CSS pixels.
export function makeCamera() {
  let width = 1, height = 1, zoom = 1, left = 0, top = 0;

  // Moves the map, but never so far that a gap shows at an edge.
  function move(x, y) {
    left = Math.min(Math.max(x, width * (1 - zoom)), 0);
    top = Math.min(Math.max(y, height * (1 - zoom)), 0);
  }

  function zoomAt([x, y], factor) {
    const before = zoom;
    zoom = Math.min(Math.max(zoom * factor, 1), CLOSEST);
    move(x - ((x - left) * zoom) / before, y - ((y - top) * zoom) / before);
  }

  function resize(toWidth, toHeight) {
    const [x, y] = [left / width, top / height];
    [width, height] = [toWidth, toHeight];
    move(x * width, y * height);
  }

  return {
    resize, zoomAt,
    pan: (x, y) => move(left + x, top + y),
    whole: () => { zoom = 1; move(0, 0); },
    zoom: () => zoom,
    width: () => width,
    height: () => height,
    x: (position) => left + zoom * (MARGIN + position * (width - 2 * MARGIN)),
    y: (position) => top + zoom * (MARGIN + position * (height - 2 * MARGIN)),
  };
}

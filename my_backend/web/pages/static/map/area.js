// Chooses images with the keyboard: keys move and resize a circle on the map.

const STEP = 24, GROWTH = 1.25, LEAST = 8, START = 48;  // pixels
const CLOSER = 1.5;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// `moved(circle)` is called with {place, radius}, or with null once there is no circle; `open()` opens the images in it.
export function makeArea(canvas, camera, { moved, changed, open }) {
  let circle = null;

  function move([x, y]) {
    circle ??= { place: [camera.width() / 2, camera.height() / 2], radius: START };
    const wanted = [circle.place[0] + STEP * x, circle.place[1] + STEP * y];
    const [wide, high] = [camera.width(), camera.height()];
    const kept = [Math.min(Math.max(wanted[0], 0), wide), Math.min(Math.max(wanted[1], 0), high)];
    camera.pan(kept[0] - wanted[0], kept[1] - wanted[1]);  // at the edge, the map moves instead
    circle = { ...circle, place: kept };
    changed();
    moved(circle);
  }

  function grow(factor) {
    if (!circle) return move([0, 0]);
    circle = { ...circle, radius: Math.min(Math.max(circle.radius * factor, LEAST), camera.width()) };
    moved(circle);
  }

  function zoom(factor) {
    camera.zoomAt(circle?.place ?? [camera.width() / 2, camera.height() / 2], factor);
    changed();
    if (circle) moved(circle);
  }

  function leave() {
    circle = null;
    moved(null);
  }

  const acts = {
    "+": () => zoom(CLOSER), "=": () => zoom(CLOSER), "-": () => zoom(1 / CLOSER), 0: () => { camera.whole(); changed(); if (circle) moved(circle); },
    Escape: leave, Enter: () => circle && open(),
  };

  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const arrow = ARROWS[event.key];
    if (arrow && event.shiftKey) grow(arrow[0] - arrow[1] > 0 ? GROWTH : 1 / GROWTH);
    else if (arrow) move(arrow);
    else if (event.key in acts) acts[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();  // the keys of a group don't apply here
  });

  return { zoom, again: () => circle && moved(circle) };
}

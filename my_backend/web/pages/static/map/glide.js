// Moves the points of a new map from where they were, so that the eye can follow them.

const TIME = 700;  // milliseconds

// At the end, `points` are at their new places; `draw` is called for each frame.
export function glide(points, before, draw) {
  if (!before.count || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const numbers = new Map(before.ids.map((id, n) => [id, n]));
  const places = ["x", "y"].map((axis) => {
    const goal = points[axis].slice();
    return { moving: points[axis], goal, start: goal.map((value, n) => before[axis][numbers.get(points.ids[n])] ?? value) };
  });
  if (!places.some(({ goal, start }) => goal.some((value, n) => value !== start[n]))) return;
  const began = performance.now();
  requestAnimationFrame(function step(now) {
    const left = (1 - Math.min(Math.max(0, now - began) / TIME, 1)) ** 3;
    for (const { moving, goal, start } of places) {
      for (let n = 0; n < goal.length; n += 1) moving[n] = goal[n] + left * (start[n] - goal[n]);
    }
    draw();
    if (left) requestAnimationFrame(step);
  });
}

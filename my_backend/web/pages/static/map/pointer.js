// Mouse, touch and pen on the map: dragging draws a line around images or moves the map; two fingers or the wheel zoom.

const CLICK = 5;  // pixels that a pointer may move in a click
const WHEEL = 0.002;  // zoom for each pixel that the wheel scrolls
const LINE = 16;  // pixels

// `moves()` says whether one finger or the mouse moves the map. `lasso(path)` is called while a line is drawn, and `drawn(path)`
// at its end; `point(place)` if the pointer is over a place, `point(null)` if it leaves the map, and `tap(place)` on a tap.
export function followPointer(canvas, camera, { moves, changed, lasso, drawn, point, tap }) {
  const down = new Map();  // pointers that are pressed → where they are
  let path = [], moving = false;

  const place = ({ offsetX, offsetY }) => [offsetX, offsetY];

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, place(event));
    moving = moves() || event.button === 1 || event.shiftKey || down.size > 1;
    path = moving ? [] : [place(event)];
    lasso(path);
    point(null);
    if (event.button === 1) event.preventDefault();
  });

  canvas.addEventListener("pointermove", (event) => {
    const [now, before] = [place(event), down.get(event.pointerId)];
    if (!before) return point(now);
    down.set(event.pointerId, now);
    if (moving) move(event.pointerId, before, now);
    else {
      path.push(now);
      lasso(path);
    }
  });

  // The part of the map between the fingers stays between them.
  function move(id, before, now) {
    const other = [...down].find(([one]) => one !== id)?.[1];
    if (other) {
      const middle = (one) => [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2];
      const apart = (one) => Math.max(20, Math.hypot(one[0] - other[0], one[1] - other[1]));
      camera.zoomAt(middle(before), apart(now) / apart(before));
      camera.pan(middle(now)[0] - middle(before)[0], middle(now)[1] - middle(before)[1]);
    } else camera.pan(now[0] - before[0], now[1] - before[1]);
    changed();
  }

  function up(event) {
    if (!down.delete(event.pointerId) || down.size) return;
    const line = path;
    path = [];
    lasso(path);
    if (event.type === "pointercancel") return;
    const far = line.some(([x, y]) => Math.hypot(x - line[0][0], y - line[0][1]) > CLICK);
    if (far) drawn(line);
    else if (line.length) tap(place(event));
  }
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", ({ pointerType }) => pointerType !== "touch" && point(null));

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const pixels = event.deltaY * [1, LINE, canvas.clientHeight][event.deltaMode];  // Windows can scroll by pages
    camera.zoomAt(place(event), Math.exp(-WHEEL * pixels * (event.ctrlKey ? 5 : 1)));
    changed();
  }, { passive: false });
}

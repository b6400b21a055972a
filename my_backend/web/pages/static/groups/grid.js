// The grid of thumbnails: which images are taken out or have their own choice, and which image a key applies to.
//
// A group is {proposal, images, marks}. `marks` maps a task to OUT if its image is taken out, or to its own choice.
// The images without a mark are the rest, which gets one label.

import { count } from "../labeling/view.js";

export const OUT = "";
const SIZES = 5;

// `address(image)` is the thumbnail's URL. `edited(isAction)` is called when marks change, `aimed()` when `target` changes.
export function makeGrid(list, address, { edited, aimed }) {
  let group = { images: [], marks: new Map() };
  let current = 0;  // the image that zooming and "More like this" apply to
  let target = null, pointed = false;  // the image a key applies to (null: the rest), and whether the pointer is on it
  let anchor = 0, base = new Map(), range = [];  // images marked together: from `anchor` on, in addition to `base`
  let past = [];  // earlier marks, for undo
  let where = "", resting = true;  // the pointer's position, and whether it hasn't moved since something else changed

  const tile = (index) => list.children[index];
  const task = (index) => group.images[index].task;

  function show(next) {
    group = next;
    [current, past] = [0, []];
    start(0);
    list.replaceChildren(...group.images.map(makeTile));
    list.scrollTop = 0;
    aim(null);
  }

  function makeTile(image, index) {
    const tile = document.createElement("li");
    const picture = new Image(160, 160);
    const [copies, badge] = ["span", "bdi"].map((tag) => document.createElement(tag));
    copies.className = "copies";
    tile.id = `image-${index}`;
    tile.dataset.task = image.task;
    tile.role = "option";
    Object.assign(picture, { loading: "lazy", alt: "", draggable: false });
    // An image that nobody can see must not get a label.
    picture.addEventListener("error", () => {
      if (group.images[index] !== image) return;
      tile.classList.add("unseen");
      group.marks.set(image.task, OUT);
      edited(false);
      draw();
    });
    picture.src = address(image);
    tile.append(picture, copies, badge);
    return tile;
  }

  function draw() {
    for (const [index, tile] of [...list.children].entries()) {
      const own = group.marks.get(task(index));
      tile.classList.toggle("out", own === OUT);
      tile.classList.toggle("own", Boolean(own));
      tile.classList.toggle("target", index === target || (range.includes(index) && range.includes(target)));
      tile.classList.toggle("current", index === current);
      tile.ariaSelected = String(own !== undefined);
      tile.ariaLabel = [name(index), own === OUT ? "taken out" : own].filter(Boolean).join(", ");
      const together = copiesOf(index);
      tile.querySelector(".copies").textContent = together ? `+${together}` : "";
      tile.lastChild.textContent = own === OUT ? "Later" : own ?? "";
    }
    if (target === null) list.removeAttribute("aria-activedescendant");
    else list.setAttribute("aria-activedescendant", tile(target).id);
  }

  // How many copies get the image's label.
  const copiesOf = (index) => (group.images[index].isApart ? 0 : group.images[index].copies.length);

  function name(index) {
    const { confidence } = group.images[index];
    const sure = confidence == null ? "" : `, ${Math.round(100 * confidence)}% confidence`;
    return `Image ${index + 1}${sure}${copiesOf(index) ? `, and ${count(copiesOf(index), "copy", "copies")}` : ""}`;
  }

  // --- which image --------------------------------------------------------

  function aim(index, byPointer = false) {
    [target, pointed] = [index, byPointer];
    if (!byPointer) resting = true;
    draw();
    aimed();
  }

  function start(index) {
    [anchor, base, range] = [index, new Map(group.marks), []];
  }

  function move(by, extending) {
    if (target !== null || !Number.isFinite(by)) current = Math.min(Math.max(current + by, 0), group.images.length - 1);
    if (extending) extend(current);
    else start(current);
    aim(current);
    tile(current).scrollIntoView({ block: "nearest" });
  }

  const indexOf = (event) => [...list.children].indexOf(event.target.closest("[role=option]"));

  // Browsers also report a move if the page changes under a resting pointer; then nobody points at anything.
  document.addEventListener("pointermove", ({ clientX, clientY }) => {
    const here = `${clientX},${clientY}`;
    if (where && here !== where) resting = false;
    where = here;
  }, { capture: true, passive: true });

  list.addEventListener("pointermove", (event) => {
    const index = indexOf(event);
    if (event.pointerType === "touch" || resting || index < 0 || (index === target && pointed)) return;
    aim(index, true);
  });
  list.addEventListener("pointerleave", () => pointed && aim(null));

  list.addEventListener("click", (event) => {
    const index = indexOf(event);
    if (index < 0) return;
    current = index;
    if (event.shiftKey) extend(index);
    else toggle(index);
  });

  // --- marks --------------------------------------------------------------

  function change(edit) {
    past.push(new Map(group.marks));
    edit(group.marks);
    edited(true);
    draw();
    aimed();
  }

  function toggle(index = current) {
    range = [];
    change((marks) => marks.delete(task(index)) || marks.set(task(index), OUT));
    start(index);
  }

  function extend(index) {
    range = between(anchor, index);
    change((marks) => {
      marks.clear();
      for (const [task, own] of base) marks.set(task, own);
      takeOut(marks, range);
    });
  }

  function toggleAll() {
    if (group.marks.size === group.images.length) {
      range = [];
      change((marks) => marks.clear());
      start(current);
    } else {
      range = between(0, group.images.length - 1);
      change((marks) => takeOut(marks, range));
      aim(current);
    }
  }

  function takeOut(marks, indexes) {
    for (const index of indexes) if (!marks.has(task(index))) marks.set(task(index), OUT);
  }

  function give(choice, indexes = applied()) {
    change((marks) => indexes.forEach((index) => marks.set(task(index), choice)));
  }

  // Images that were marked together get their choice together.
  const applied = () => (range.includes(target) ? range : [target]);

  function undo() {
    if (!past.length) return false;
    group.marks = past.pop();
    start(current);
    edited(true);
    draw();
    aimed();
    return true;
  }

  return {
    show, draw, move, toggle, toggleAll, give, undo, aim, name,
    resize: (by) => (list.dataset.size = Math.min(Math.max(Number(list.dataset.size) + by, 1), SIZES)),
    columns: () => getComputedStyle(list).gridTemplateColumns.split(" ").length,
    target: () => target,
    applied: () => (target === null ? [] : applied()),
    current: () => target ?? current,
  };
}

function between(one, other) {
  const [first, last] = [Math.min(one, other), Math.max(one, other)];
  return Array.from({ length: last - first + 1 }, (_, step) => first + step);
}

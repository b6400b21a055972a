// Shows all images of a project as points, and opens those that a person draws a line around as a group to label.

import { labelInGroups } from "./groups.js";
import { count, number, parts } from "./labeling/view.js";
import { makeArea } from "./map/area.js";
import { makeCamera } from "./map/camera.js";
import { makeCanvas } from "./map/canvas.js";
import { readColors } from "./map/colors.js";
import { glide } from "./map/glide.js";
import { makeLegend } from "./map/legend.js";
import { followPointer } from "./map/pointer.js";
import { OTHER, circle, inside, nearest, unpack } from "./map/points.js";
import { post } from "./press.js";
import { isolated, say } from "./say.js";

const CLOSER = 1.5;
const REACH = 14;  // how close a pointer must be to a point, in pixels
const LOOKING = 80;  // milliseconds that a pointer must rest before the image is loaded
const OFTEN = 5000, SHARE = 20;  // minimum pause between requests: milliseconds, and a multiple of a request's duration
const SOON = 1000;  // the minimum in milliseconds while the server arranges the map
const NAMED = 3;  // how many choices the text about an area names

export function labelOnMap(place) {
  const find = (id) => document.getElementById(id);
  const { project } = place.dataset, canvas = find("map-canvas"), card = find("map-card");
  const camera = makeCamera();
  let points = unpack({ ids: [], positions: "", labels: "", proposals: "", doubts: "" });
  let answer = null, colors = readColors();
  let asking = false, next = 0, timer;  // of requests for the map
  let looked = -1, loading;  // the point whose image is shown
  let area = [];  // points chosen with the keyboard

  const painted = makeCanvas(canvas, camera);
  const legend = makeLegend(find("map-by"), find("map-legend"), draw);
  const groups = labelInGroups(place, { show, noticed });
  const keyboard = makeArea(canvas, camera, { moved, changed, open: () => open(area) });

  // --- asking -------------------------------------------------------------------

  async function ask() {
    clearTimeout(timer);
    if (asking || find("map-part").hidden) return;
    asking = true;
    const began = Date.now();
    try {
      answer = await post("/api/labeling/map", { project });
      const before = points;
      points = unpack(answer);
      look(-1);
      draw();
      glide(points, before, changed);
      keyboard.again();
    } catch (error) {
      say(error.message);
    }
    const pause = SHARE * (Date.now() - began);
    [asking, next] = [false, Date.now() + Math.max(OFTEN, pause)];
    if (isUnfinished()) timer = setTimeout(ask, Math.max(SOON, pause));
  }

  // Arranging the map begins once all images are collected.
  const isUnfinished = () => answer?.state === "ready" && answer.ids.length > 0 && !answer.arranged;

  // Each time the page asks for a group, the server's answer shows whether the map has changed.
  function noticed(said) {
    const isNew = ["collected", "labeled", "model_version", "state"].some((name) => said[name] !== answer?.[name]);
    if (!isNew || asking) return;
    clearTimeout(timer);
    timer = setTimeout(ask, said.state === "collecting" && answer ? Math.max(0, next - Date.now()) : 0);
  }

  // --- choosing -----------------------------------------------------------------

  const isShown = () => legend.isShown(points);
  const unlabeled = (some) => some.filter((n) => !points.labels[n]);

  function open(some) {
    const chosen = unlabeled(some);
    if (chosen.length) groups.open(chosen.map((n) => points.ids[n]));
    else say(some.length > 1 ? `${some.length === 2 ? "Both" : `All ${number(some.length)}`} images here are already labeled.`
      : some.length ? "The image here is already labeled." : "There are no images here.");
  }

  // Describes what is in the keyboard's circle.
  function moved(ring) {
    area = ring ? inside(points, camera, circle(ring.place, ring.radius), isShown()) : [];
    painted.circle(ring);
    look(ring ? nearest(points, camera, ring.place, ring.radius, isShown()) : -1);
    const left = unlabeled(area).length;
    tell(ring ? parts(
      `${count(area.length, "image")} in the circle${area.length ? `, ${left ? `${number(left)} without a label` : area.length === 1 ? "already labeled" : "all labeled"}` : ""}.`,
      named(area), left && `Press Enter to open the unlabeled ${left === 1 ? "one" : "ones"}.`,
    ).join(" ") : "");
  }

  function tell(words) {
    if (find("map-told").textContent !== words) find("map-told").textContent = words;  // screen readers read it aloud each time
  }

  // The most frequent choices among labels and predictions.
  function named(some) {
    const counts = new Map();
    for (const n of some) {
      const name = nameOf(points.labels[n], "") || nameOf(points.proposals[n], "?");
      if (name) counts.set(name, (counts.get(name) ?? 0) + 1);
    }
    const most = [...counts].sort(([, one], [, other]) => other - one).slice(0, NAMED);
    const end = counts.size > NAMED ? " and others." : most.at(-1)?.[0].endsWith("?") ? "" : ".";
    return most.length ? `${most.map(([name, total]) => `${number(total)} ${name}`).join(", ")}${end}` : "";
  }

  const nameOf = (value, end) => (value === OTHER ? "Other" : value ? `${isolated(answer.choices[value - 1])}${end}` : "");

  // --- what the page shows --------------------------------------------------------

  function show(isMap) {
    if (find("map-part").hidden === !isMap) return;
    find("map-part").hidden = !isMap;
    if (isMap) canvas.focus({ preventScroll: true });
    if (isMap && isUnfinished()) ask();
  }

  function draw() {
    if (!answer) return;
    painted.show(legend.paint(points, colors));
    legend.draw(points, answer.choices);
    const labeled = points.labels.reduce((sum, value) => sum + (value > 0), 0);
    find("map-summary").textContent = `${count(points.count, "image")}: ${number(labeled)} labeled, ${number(points.count - labeled)} not. ${isUnfinished() ? "They are being arranged…" : "Images that look alike are near each other."}`;
    changed();
  }

  // The map moved.
  function changed() {
    painted.draw();
    find("map-out").disabled = find("map-whole").disabled = camera.zoom() === 1;
    if (looked >= 0) put();
  }

  // Shows a point's image next to it.
  function look(n) {
    painted.mark(n);
    if (n === looked) return;
    looked = n;
    clearTimeout(loading);
    card.hidden = n < 0;
    if (n < 0) return;
    const [picture, title, facts] = card.children, [label, proposal] = [points.labels[n], points.proposals[n]];
    picture.removeAttribute("src");
    loading = setTimeout(() => { picture.src = `/projects/${project}/tasks/${points.ids[n]}.jpg`; }, LOOKING);
    title.textContent = label ? nameOf(label, "") : proposal ? nameOf(proposal, "?") : "No label";
    facts.textContent = parts(
      `Task ${points.ids[n]}`, proposal && `${label ? `model: ${nameOf(proposal, "")}, ` : ""}${Math.round(100 * (1 - points.doubts[n]))}% confidence`,
    ).join(" · ");
    put();
  }

  function put() {
    const [x, y] = [camera.x(points.x[looked]), camera.y(points.y[looked])];
    const { offsetWidth: wide, offsetHeight: high } = card;
    const left = x + 18 + wide > camera.width() ? x - 18 - wide : x + 18;
    card.style.transform = `translate(${Math.max(4, Math.min(left, camera.width() - wide - 4))}px, ${Math.max(4, Math.min(y - high / 2, camera.height() - high - 4))}px)`;
  }

  followPointer(canvas, camera, {
    moves: () => find("map-move").checked,
    changed,
    lasso: painted.lasso,
    drawn: (path) => open(inside(points, camera, path, isShown())),
    point: (at) => look(at ? nearest(points, camera, at, REACH, isShown()) : -1),
    tap: (at) => look(nearest(points, camera, at, 2 * REACH, isShown())),
  });
  for (const [id, press] of Object.entries({
    "map-in": () => keyboard.zoom(CLOSER), "map-out": () => keyboard.zoom(1 / CLOSER), "map-whole": () => { camera.whole(); changed(); },
  })) find(id).addEventListener("click", press);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    colors = readColors();
    draw();
  });
}

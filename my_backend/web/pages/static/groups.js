// Labels groups of look-alikes: shows a group, sends its labels, and immediately shows the next group.

import { OUT, makeGrid } from "./groups/grid.js";
import { heading, makeView } from "./groups/view.js";
import { makeZoom } from "./groups/zoom.js";
import { makeChoices } from "./labeling/choices.js";
import { makeHistory } from "./labeling/history.js";
import { assignKeys, listen } from "./labeling/keys.js";
import { makeRuns } from "./labeling/runs.js";
import { makeSupply } from "./labeling/supply.js";
import { makeToken } from "./labeling/token.js";
import { count, showReading, showRuns } from "./labeling/view.js";
import { post } from "./press.js";
import { say } from "./say.js";

const SETTLING = 300;  // milliseconds in which keys are ignored after a new group appears: they were meant for the last one
const MOST = 60;  // images in a group
const NEAREST = 3;  // this many labeled look-alikes suggest a label if they agree

// On the map, a person chooses the images: `map.show(isShown)` shows the map, or hides it while a group is shown, and
// `map.noticed(answer)` gets what the server says about the project. Returns {open}, which shows chosen tasks in groups.
export function labelInGroups(place, map = null) {
  const find = (id) => document.getElementById(id);
  const { project, tasks: tasksUrl } = place.dataset;
  const address = ({ digest }) => `/projects/${project}/images/${digest}.jpg`;
  const list = find("grid");
  const steps = [];  // what the person did; see history.js. The tasks `aside` come later
  const aside = new Set();  // tasks that come later
  let group = null;  // the group on the screen; see grid.js
  let keys = new Map(), choices = [], actions = 0, failures = 0, settling;

  let chosen = map ? [] : undefined, asked;  // tasks to choose groups from, and those that the server was asked for last
  const view = makeView(map && "the map");
  const token = makeToken(place, () => {
    runs.retryAll();
    draw();
    if (group) list.focus();
  });
  const runs = makeRuns(project, "group", token.value, draw);
  const history = makeHistory(find("history"), described, undoStep);
  const grid = makeGrid(list, address, { edited, aimed: drawTarget });
  const buttons = makeChoices([find("choice-keys"), find("zoom-choices")], find("find-choice"), choose);
  const zoom = makeZoom(find("zoom"), {
    look, like, apart, move: grid.move, toggle: () => grid.toggle(grid.current()), closed: () => { grid.aim(null); list.focus(); },
  });
  const supply = makeSupply("/api/labeling/groups", { body, take, isShowing: () => group !== null, changed: supplied });

  // --- from group to group --------------------------------------------------

  function body(waiting) {
    const there = [...(group ? [group] : []), ...waiting].flatMap(tasksOf);
    asked = chosen;
    return { project, tasks: chosen, without: [...new Set([...there, ...runs.tasks(), ...aside])], most: MOST };
  }

  // Keeps one group ready, or two if no group is on the screen.
  function take({ groups }, waiting) {
    const ready = [...waiting, ...groups.map((one) => ({ ...one, marks: new Map() }))];
    const kept = ready.slice(0, Math.max(waiting.length, group ? 1 : 2));
    for (const image of kept.at(-1)?.images ?? []) new Image().src = address(image);
    return kept;
  }

  function supplied() {
    if (!group && supply.size()) {
      showNext();
      if (group && (map || steps.length)) rest("");  // the person is waiting for it
    }
    const said = supply.answer();
    if (said && String(said.choices) !== String(choices)) {
      choices = said.choices;
      keys = assignKeys(choices);
      buttons.show(keys, choices);
    }
    if (map && said) noticed(said);
    draw();
  }

  function open(tasks) {
    if (token.isMissing()) {
      token.ask();
      return say("First enter your Label Studio token at the top of this page.");
    }
    chosen = tasks;
    aside.clear();
    supply.ask();
  }

  // After the last of the chosen images, the map is shown again.
  function noticed(said) {
    const isOver = asked === chosen && !supply.isAsking() && !group && !supply.size();
    if (isOver && chosen.length) {
      chosen = [];
      if (!supply.problem() && !steps.length) say("All of these images are already labeled.");
    }
    map.noticed(said);
  }

  function showNext() {
    group = null;
    while (!group && supply.size()) show(supply.next());
  }

  // Shows the group's images that weren't labeled in the meantime, if there are any.
  function show(next) {
    const labeled = new Set(runs.tasks());
    const images = next.images.filter(({ task }) => !labeled.has(task));
    if (!images.length) return;
    for (const image of images) image.copies = image.copies?.filter(({ task }) => !labeled.has(task)) ?? [];
    group = { ...next, images };
    list.setAttribute("aria-busy", "true");
    clearTimeout(settling);
    settling = setTimeout(() => list.removeAttribute("aria-busy"), SETTLING);
    grid.show(group);
  }

  // Labels images that have their own choice with it, and the rest with `choice`. Images without a choice come up later.
  function finish(choice) {
    if (!group || list.hasAttribute("aria-busy")) return;
    if (failures) return say("Labels from an earlier step haven’t been saved. Press Try again at the top of this page first.");
    const labels = labelsOf(group, choice);
    const labeled = new Set(labels.flatMap((one) => one.tasks));
    const leaves = map && !group.like && choice === null;
    const later = group.like || leaves ? [] : tasksOf(group).filter((task) => !labeled.has(task));
    const step = { group, tasks: [...labeled], run: labels.length ? runs.start(labels) : null, aside: later, undone: false };
    later.forEach((task) => aside.add(task));
    actions += 1;
    if (step.run || later.length) {
      steps.push(step);
      history.add(step);
    }
    if (leaves) {
      chosen = [];
      supply.clear();
    }
    showNext();
    if (!supply.size()) Promise.resolve(step.run?.sent).then(supply.ask);  // so that the server's answer counts these labels
    rest(labels.length ? `${count(labeled.size, "image")} labeled.` : "Skipped.");
  }

  function undoStep(step) {
    if (step.undone) return;
    step.undone = true;
    actions += 1;
    if (step.run) runs.undo(step.run);
    for (const task of step.aside) aside.delete(task);
    if (group) supply.putFirst(group);
    show(step.group);
    rest("Undone.");
  }

  // Says what happened, and moves the focus to what comes next.
  function rest(words) {
    find("told").textContent = group ? `${words} ${heading(group)} ${count(group.images.length, "image")}.` : words;
    draw();
    if (!group) return map ? undefined : find("pause").focus();
    list.focus({ preventScroll: true });
    if (find("group").getBoundingClientRect().top < 0) find("group").scrollIntoView();
  }

  async function like() {
    const [from, image] = [group, group.images[grid.current()]];
    const similar = async (more) => (await post("/api/labeling/similar", { project, task: image.task, most: MOST, ...more })).images;
    try {
      const [all, unlabeled] = await Promise.all([similar(), similar({ unlabeled: true })]);
      if (group !== from) return;
      const near = all.filter(({ label }) => label).slice(0, NEAREST).map(({ label }) => label);
      const sent = new Set(runs.tasks());
      const alike = unlabeled.filter(({ task }) => !sent.has(task) && !labeledWith(image).includes(task));
      if (!alike.length) return say("No other unlabeled image looks like this one.");
      zoom.close();
      supply.putFirst(group);
      show({ proposal: new Set(near).size === 1 ? near[0] : null, images: [image, ...alike], marks: new Map(), like: true });
      rest("More like this.");
    } catch (error) {
      say(error.message);
    }
  }

  // Switches whether an image's copies are labeled together with it.
  function apart() {
    const image = group.images[grid.current()];
    image.isApart = !image.isApart;
    grid.draw();
    draw();
  }

  // --- what keys and buttons do ---------------------------------------------

  function edited(isAction) {
    if (isAction) actions += 1;
    draw();
  }

  function choose(choice) {
    if (!group) return;
    if (zoom.isOpen()) grid.give(choice, [grid.current()]);
    else if (grid.target() !== null) grid.give(choice);
    else finish(choice);
  }

  function labelRest() {
    const { rest, own } = counted();
    if (rest && !group.proposal) say("Press the key for the correct choice.");
    else if (rest || own) finish(group.proposal);
  }

  function undo() {
    if ((group && grid.undo()) || zoom.isOpen()) return;
    const last = steps.findLast((step) => !step.undone);
    if (last) undoStep(last);
  }

  function openZoom() {
    grid.aim(grid.current());
    zoom.open();
  }

  const acts = {
    label: labelRest, skip: () => finish(null), all: grid.toggleAll, zoom: openZoom, like, undo, search: buttons.search,
    larger: () => grid.resize(1), smaller: () => grid.resize(-1), leave: () => grid.aim(null),
    take: () => grid.target() !== null && grid.toggle(grid.target()),
  };
  const inZoom = { like, undo, take: acts.take, zoom: zoom.close, leave: zoom.close };
  const moves = {
    left: () => -1, right: () => 1, up: () => -grid.columns(), down: grid.columns, first: () => -Infinity, last: () => Infinity,
  };

  // Returns false if the browser should handle the key.
  function act(action, event) {
    if (!group) return action === "undo" && undo() !== false;
    if (action in moves) {
      if (!zoom.isOpen() && document.activeElement !== list) return false;
      return grid.move(moves[action](), event.shiftKey) !== false;
    }
    const does = (zoom.isOpen() ? inZoom : acts)[action];
    return does !== undefined && does() !== false;
  }

  function chooseByKey(key) {
    if (keys.has(key)) choose(keys.get(key));
    return keys.has(key);
  }

  listen(() => place.isConnected && !token.isMissing() && find("use-keys").checked, act, chooseByKey);
  for (const [id, press] of Object.entries({
    "label-rest": labelRest, skip: acts.skip, all: acts.all, "zoom-in": openZoom, like, undo,
    larger: acts.larger, smaller: acts.smaller, "supply-again": supply.ask, "unsaved-again": runs.retryAll,
    "show-aside": () => { aside.clear(); supply.ask(); },
  })) find(id).addEventListener("click", () => press());
  list.addEventListener("dblclick", openZoom);
  window.addEventListener("beforeunload", (event) => runs.isUnsent() && event.preventDefault());

  // --- what the page shows ----------------------------------------------------

  function draw() {
    const labels = runs.tasks().length;
    if (runs.failed().length > failures) token.ask();
    failures = runs.failed().length;
    view.tally(supply.answer(), labels, actions);
    showReading(supply.answer(), supply.problem());
    showRuns(runs, !steps.length);
    history.draw();
    find("undo").hidden = steps.every((step) => step.undone);
    find("group").hidden = !group || token.isMissing();
    map?.show(!group);
    find("pause").hidden = map !== null || group !== null || token.isMissing() || !supply.answer();
    if (group) view.group(group, counted());
    else if (supply.answer()) view.pause(supply.answer(), supply.isAsking(), aside.size);
    drawTarget();
  }

  function drawTarget() {
    if (group) view.target(grid.applied(), grid.current(), counted().rest, !group.marks.size);
    if (zoom.isOpen()) zoom.draw();
  }

  function counted() {
    const labels = (some) => group.images.reduce((sum, image) => sum + (some(group.marks.get(image.task)) ? labeledWith(image).length : 0), 0);
    return { out: labels((own) => own === OUT), own: labels(Boolean), rest: labels((own) => own === undefined) };
  }

  function look() {
    const index = grid.current(), { task, confidence, copies, isApart } = group.images[index];
    const own = group.marks.get(task);
    const sure = confidence == null ? "" : ` ${Math.round(100 * confidence)}% confidence.`;
    return {
      title: `Image ${index + 1} of ${group.images.length}`,
      source: address(group.images[index]),
      facts: `Task ${task}.${sure}${own === OUT ? " Taken out." : own ? ` Labeled ${own}.` : ""}`,
      link: tasksUrl && `${tasksUrl}?task=${task}`,
      out: own === OUT,
      copies: copies.map((copy) => ({ task: copy.task, source: address(copy), link: tasksUrl && `${tasksUrl}?task=${copy.task}` })),
      isApart: Boolean(isApart),
    };
  }

  supply.ask();
  return { open };
}

const tasksOf = (group) => group.images.flatMap(({ task, copies = [] }) => [task, ...copies.map((copy) => copy.task)]);

// The tasks that get an image's label.
const labeledWith = ({ task, copies = [], isApart }) => [task, ...(isApart ? [] : copies.map((copy) => copy.task))];

// The labels of a group's tasks if the rest gets `choice`. If it is null, the rest gets no label.
function labelsOf(group, choice) {
  const tasks = new Map();
  for (const image of group.images) {
    const own = group.marks.get(image.task) ?? choice;
    if (own) tasks.set(own, [...(tasks.get(own) ?? []), ...labeledWith(image)]);
  }
  return [...tasks].map(([label, tasks]) => ({ label, tasks }));
}

// Describes a step: its choices, each with the number of images.
function described({ run, aside }) {
  if (!run) return [`${aside.length} skipped`];
  return run.labels.flatMap(({ label, tasks }, index) => {
    const name = Object.assign(document.createElement("bdi"), { textContent: label });
    return [`${index ? ", " : ""}${tasks.length} `, name];
  });
}

// Labels images one by one: shows an image, takes its label, and immediately shows the next image.

import { makeBatches } from "./labeling/batches.js";
import { makeChoices } from "./labeling/choices.js";
import { makeHistory } from "./labeling/history.js";
import { assignKeys, listen } from "./labeling/keys.js";
import { makeRuns } from "./labeling/runs.js";
import { makeSupply } from "./labeling/supply.js";
import { makeToken } from "./labeling/token.js";
import { showReading, showRuns } from "./labeling/view.js";
import { labeledWith, makeItem, tasksOf } from "./queue/item.js";
import { makeView, named, question } from "./queue/view.js";
import { say } from "./say.js";

const AHEAD = 6, FEWEST = 3;  // images loaded in advance: at most AHEAD; with fewer than FEWEST left, the page asks for more
const FRESH = 5000, LEARNING = 90000;  // milliseconds: how often to look for a new model, and for how long after a label
const SETTLING = 200;  // milliseconds in which keys are ignored after a new image appears: they were meant for the last one

export function labelOneByOne(place) {
  const find = (id) => document.getElementById(id);
  const { project } = place.dataset;
  const only = tasksIn(location.search);
  const steps = [];  // what the person did; see history.js and batches.js. In a step with null as its label, the image was skipped
  const aside = new Set();  // tasks of skipped images
  let item = null;  // the image on the screen; see item.js
  let chosen = [];  // the label that Enter gives it: a choice, or any number of them if several are allowed
  let isSeveral = false, keys = new Map(), choices = [], failures = 0, arrived = 0, labeled = -Infinity;

  const view = makeView(place, only);
  const token = makeToken(place, () => {
    runs.retryAll();
    rest("");
  });
  const runs = makeRuns(project, "single", token.value, draw);
  const batches = makeBatches(runs);
  const history = makeHistory(find("history"), view.described, undoStep);
  const buttons = makeChoices([find("choice-keys")], find("find-choice"), choose);
  const supply = makeSupply("/api/labeling/queue", { body, take, isShowing: () => item !== null, changed: supplied });

  // --- from image to image ----------------------------------------------------

  const given = () => [...runs.tasks(), ...batches.tasks()];

  function body(waiting) {
    arrived = runs.arrived().length;
    const there = [...(item ? [item] : []), ...waiting].flatMap(tasksOf);
    return { project, tasks: only, without: [...new Set([...there, ...given(), ...aside])], most: AHEAD };
  }

  // Drops predictions of a former model, and those of before a plan, except for images that the person has already seen.
  function take(said, waiting, before) {
    said.given = arrived;
    const isSame = !before || (before.model_version === said.model_version && before.plan === said.plan);
    const kept = isSame ? waiting : waiting.filter(({ isSeen }) => isSeen);
    return [...kept, ...said.images.slice(0, Math.max(AHEAD - kept.length, 0)).map((image) => makeItem(project, image))];
  }

  function supplied() {
    const said = supply.answer();
    if (said && String([said.multiple, ...said.choices]) !== String([isSeveral, ...choices])) {
      [choices, isSeveral] = [said.choices, said.multiple];
      keys = assignKeys(choices);
      buttons.show(keys, choices);
      view.choices(isSeveral);
      if (item) show(item);
    }
    if (!item && supply.size()) {
      showNext();
      if (steps.length) rest("");  // the person is waiting for it
    }
    draw();
  }

  function showNext() {
    const labeled = new Set(given());
    item = null;
    while (supply.size() && (!item || labeled.has(item.task))) item = supply.next();
    if (item && labeled.has(item.task)) item = null;
    if (item) show(item);
    if (supply.size() < FEWEST) supply.ask();
  }

  function show(next) {
    item = next;
    const labeled = new Set(given());
    item.copies = item.copies.filter(({ task }) => !labeled.has(task));
    // The labeling config may have changed since the item came.
    chosen = item.suggested.filter((choice) => choices.includes(choice)).slice(0, isSeveral ? choices.length : 1);
    item.isSeen = true;
    view.show(item);
    find("one").setAttribute("aria-busy", "true");
    Promise.all([item.loaded, new Promise((done) => setTimeout(done, SETTLING))]).then(() => {
      if (item !== next) return;
      find("one").removeAttribute("aria-busy");
      draw();
    });
  }

  function label(names) {
    if (!item || find("one").hasAttribute("aria-busy")) return;
    // An image that nobody can see must not get a label.
    if (item.isBroken) return say("This image can’t be shown. Skip it, and label it in Label Studio.");
    if (failures) return say("Labels from an earlier step haven’t been saved. Press Try again at the top of this page first.");
    const step = { image: item.image, tasks: labeledWith(item), label: names, run: null, undone: false };
    batches.add(step);
    labeled = Date.now();
    done(step, `Labeled ${named(names)}.`);
  }

  function skip() {
    if (!item) return;
    const tasks = labeledWith(item);  // copies that the person wants to label separately come up on their own
    tasks.forEach((task) => aside.add(task));
    done({ image: item.image, tasks, label: null, run: null, undone: false }, "Skipped.");
  }

  function done(step, words) {
    steps.push(step);
    history.add(step);
    showNext();
    if (!item) batches.send();
    rest(words);
  }

  function undoStep(step) {
    if (step.undone) return;
    step.undone = true;
    if (step.label === null) step.tasks.forEach((task) => aside.delete(task));
    else batches.undo(step);
    if (item) supply.putFirst(item);
    show(makeItem(project, step.image));
    rest("Undone.");
  }

  // Says what happened, and moves the focus to what comes next.
  function rest(words) {
    find("told").textContent = item ? `${words} ${asks()}` : words;
    draw();
    const next = item ? find("one") : find("pause");
    next.focus({ preventScroll: true });
    const { top, bottom } = next.getBoundingClientRect();
    if (steps.length && (top < 0 || bottom > innerHeight)) next.scrollIntoView();
  }

  // --- what keys and buttons do -----------------------------------------------

  const asks = () => question(chosen, item.isSuggested);
  const last = () => steps.findLast((step) => !step.undone);

  function confirm() {
    if (chosen.length || isSeveral) label(chosen);
    else say("Press the key for the correct choice.");
  }

  // A choice's key or button labels the image; if several choices are allowed, it selects the choice or deselects it.
  function choose(choice) {
    if (!isSeveral) return label([choice]);
    if (!item) return;
    chosen = choices.filter((one) => (one === choice) !== chosen.includes(one));
    find("told").textContent = asks();
    draw();
  }

  function undo() {
    if (last()) undoStep(last());
  }

  function back() {
    if (last()?.label === null) undo();
    else if (last()) say("⌫ undoes the last label.");
  }

  function move(by) {
    if (isSeveral) return false;
    const index = choices.indexOf(chosen[0]);
    chosen = [choices[index < 0 ? (by < 0 ? choices.length - 1 : 0) : Math.min(Math.max(index + by, 0), choices.length - 1)]];
    find("told").textContent = asks();
    draw();
  }

  const acts = { label: confirm, skip, undo, search: buttons.search, right: skip, left: back, up: () => move(-1), down: () => move(1) };

  // Returns false if the browser should handle the key.
  function act(action) {
    return action in acts && (item !== null || action === "undo") && acts[action]() !== false;
  }

  function chooseByKey(key) {
    if (keys.has(key)) choose(keys.get(key));
    return keys.has(key);
  }

  listen(() => place.isConnected && !token.isMissing() && find("use-keys").checked, act, chooseByKey);
  for (const [id, press] of Object.entries({
    confirm, skip, undo, apart: () => { item.isApart = !item.isApart; draw(); }, "supply-again": supply.ask, "unsaved-again": runs.retryAll,
    "show-aside": () => { aside.clear(); supply.ask(); },
  })) find(id).addEventListener("click", () => press());
  find("choice-keys").addEventListener("mousedown", (event) => event.preventDefault());  // a clicked choice must not take Enter
  window.addEventListener("beforeunload", (event) => (failures || runs.isUnsent()) && event.preventDefault());

  // --- what the page shows ------------------------------------------------------

  function draw() {
    const [before, said] = [failures, supply.answer()];
    failures = runs.failed().length;
    view.progress(said, given().length);
    showReading(said, supply.problem());
    showRuns(runs, !steps.length, batches.tasks().length);
    if (failures > before) {
      token.ask();
      find("unsaved").scrollIntoView({ block: "nearest" });
    }
    history.draw();
    find("undo").disabled = !last();
    find("one").hidden = !item || token.isMissing();
    find("pause").hidden = item !== null || token.isMissing() || !said;
    if (item) {
      view.choose(item, chosen, isSeveral);
      view.copies(item);
    } else if (said) view.pause(said, supply.isAsking(), aside.size);
  }

  setInterval(() => {
    if (!document.hidden && !supply.isAsking() && Date.now() < labeled + LEARNING) supply.ask();
  }, FRESH);
  supply.ask();
}

// The tasks in the page's address, `?tasks=1,2,3`; null if it has none.
function tasksIn(search) {
  const said = new URLSearchParams(search).get("tasks");
  return said === null ? null : said.split(",").map(Number).filter((task) => Number.isSafeInteger(task) && task > 0);
}

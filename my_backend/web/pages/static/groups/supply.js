// Asks the server for groups of look-alikes, and keeps the next one ready.

import { post } from "../press.js";

export const MOST = 60;  // images in a group
const COLLECTING = 1500, LATER = 5000;  // milliseconds between two questions

// `without()` lists the tasks that must not come, `isShowing()` says whether a group is on the screen, `address(image)` is
// a thumbnail's. `changed()` is called when anything here has changed.
export function makeSupply(project, { without, isShowing, address, changed }) {
  const waiting = [];  // groups to show next
  let answer = null, problem = "", asking = false, again = false, timer;

  async function ask() {
    clearTimeout(timer);
    if (asking) return void (again = true);
    [asking, again] = [true, false];
    changed();
    try {
      take(await post("/api/labeling/groups", { project, without: [...new Set([...without(), ...waiting.flatMap(tasksOf)])], most: MOST }));
    } catch (error) {
      problem = error.message;
    }
    asking = false;
    changed();
    if (again) ask();
    else if (!problem && answer.state === "collecting") timer = setTimeout(ask, isShowing() ? LATER : COLLECTING);
    else if (!problem && !isShowing()) timer = setTimeout(ask, LATER);
  }

  function take(said) {
    answer = said;
    problem = said.state === "failed" ? said.error : "";
    const wanted = (isShowing() ? 1 : 2) - waiting.length;  // the one to show, and the one after it
    waiting.push(...said.groups.slice(0, Math.max(wanted, 0)).map((group) => ({ ...group, marks: new Map() })));
    for (const image of waiting.at(-1)?.images ?? []) new Image().src = address(image);
  }

  return {
    ask,
    next: () => waiting.shift(),
    putFirst: (group) => waiting.unshift(group),
    isEmpty: () => !waiting.length,
    answer: () => answer,
    problem: () => problem,
    isAsking: () => asking,
  };
}

export const tasksOf = (group) => group.images.map(({ task }) => task);

// Asks the server what to label next, and keeps a few answers ready.

import { post } from "../press.js";
import { page } from "./page_key.js";

const COLLECTING = 1500, LATER = 5000;  // milliseconds between two requests

// `body(waiting)` is the body of the request to `url`, and `take(answer, waiting)` returns the new waiting items. `isShowing()`
// says whether something is on the screen. `changed()` is called when anything here has changed.
export function makeSupply(url, { body, take, isShowing, changed }) {
  let waiting = [];  // what to show next
  let answer = null, problem = "", asking = false, again = false, timer;

  async function ask() {
    clearTimeout(timer);
    if (asking) return void (again = true);
    [asking, again] = [true, false];
    changed();
    try {
      const said = await post(url, { ...body(waiting), page });
      problem = said.state === "failed" ? said.error : "";
      [waiting, answer] = [take(said, waiting, answer), said];
    } catch (error) {
      problem = error.message;
    }
    asking = false;
    changed();
    if (again) ask();
    else if (!problem && answer.state === "collecting") timer = setTimeout(ask, isShowing() ? LATER : COLLECTING);
    else if (problem || !isShowing()) timer = setTimeout(ask, LATER);  // the backend may be restarting
  }

  return {
    ask,
    next: () => waiting.shift(),
    clear: () => { waiting = []; },
    putFirst: (one) => waiting.unshift(one),
    size: () => waiting.length,
    answer: () => answer,
    problem: () => problem,
    isAsking: () => asking,
  };
}

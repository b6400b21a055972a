// Polls the server, and applies changes to the page without losing focus or input.

import { Idiomorph } from "./idiomorph.js";
import { tellAges } from "./ages.js";
import { isSaying, say } from "./say.js";

const BUSY = 1000, REST = 4000, HIDDEN = 60000;  // milliseconds
const UNREACHED = "The backend isn’t responding. Retrying…";

export function follow(changed) {
  let tag = "", timer, unreached = false, asking = false, again = false;
  const place = () => document.getElementById("content");

  async function look() {
    if (asking) return void (again = true);  // the answer may be from before what the caller wants to see
    [asking, again] = [true, false];
    clearTimeout(timer);
    try {
      const answer = await fetch(location.origin + location.pathname + location.search, {
        headers: { Accept: "text/html", "If-None-Match": tag }, cache: "no-store",
      });
      if (answer.status === 200) {
        tag = answer.headers.get("ETag") ?? "";
        change(new DOMParser().parseFromString(await answer.text(), "text/html"));
      } else if (answer.status === 404) {
        say("The project or version on this page no longer exists.", true);
        return;  // stops polling
      } else if (answer.status !== 304) throw new Error(`${answer.status}`);
      if (unreached) say("Reconnected.");
      unreached = false;
    } catch {
      if (!unreached || !isSaying()) say(UNREACHED, true);
      unreached = true;
    }
    asking = false;
    if (again) look();
    else wait();
  }

  function wait() {
    clearTimeout(timer);
    timer = setTimeout(look, document.hidden ? HIDDEN : place().dataset.busy === "no" ? REST : BUSY);
  }

  function change(fresh) {
    tellAges(fresh);
    const projects = [...document.querySelectorAll("[data-outcome=training]")].map(({ id }) => id);
    for (const id of ["content", "nav-problem"]) morph(document.getElementById(id), fresh.getElementById(id));
    changed();
    const outcomes = projects.map((id) => document.getElementById(id)?.dataset.outcome);
    const outcome = ["failed", "stopped", "finished", "canceled"].find((one) => outcomes.includes(one));
    if (outcome) say(`Training ${outcome}.`);
  }

  document.addEventListener("visibilitychange", () => document.hidden ? wait() : look());
  setInterval(() => document.hidden || tellAges(document), 30000);
  wait();
  return look;
}

function morph(old, fresh) {
  if (!old || !fresh) return;
  Idiomorph.morph(old, fresh, {
    callbacks: {
      beforeNodeMorphed: (node) => !(node.dataset && "keep" in node.dataset),
      // A person opened or closed the details, press.js disables a button until its request is answered, and settle.js marks
      // a place as busy.
      beforeAttributeUpdated: (name, node) => !["aria-disabled", "aria-busy"].includes(name) && !(name === "open" && node.tagName === "DETAILS"),
    },
  });
}

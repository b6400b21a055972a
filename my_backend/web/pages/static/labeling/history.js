// The list of recent steps, each with its outcome and an Undo button.

import { outcome } from "./runs.js";

const SHOWN = 50;

// A step is {tasks, run, undone} and more. `run` writes the tasks' labels; it is null if there are none, or if the step
// still waits for a run (`isWaiting`).
// `describe(step)` returns nodes that describe the step.
export function makeHistory(list, describe, undo) {
  const lines = new Map();  // step → its line; lines are kept, so that their buttons don't lose the focus

  function add(step) {
    const line = document.createElement("li");
    const [what, state, id, button] = ["span", "span", "small", "button"].map((tag) => document.createElement(tag));
    what.append(...describe(step));
    [state.className, id.className, button.className, button.type] = ["chip", "muted", "quiet", "button"];
    button.textContent = "Undo";
    button.ariaLabel = `Undo: ${what.textContent}`;
    button.addEventListener("click", () => undo(step));
    line.append(what, state, id, button);
    list.prepend(line);
    lines.set(step, line);
    if (lines.size > SHOWN) forget([...lines.keys()][0]);
  }

  function forget(step) {
    lines.get(step).remove();
    lines.delete(step);
  }

  function draw() {
    for (const [step, line] of lines) {
      const [, state, id, button] = line.children;
      const { words, color } = step.run ? outcome(step.run, step.tasks, step.undone) : withoutRun(step);
      [state.textContent, state.className, state.hidden] = [words, `chip ${color}`, !words];
      id.textContent = step.run?.id ? `run ${step.run.id}` : "";
      button.hidden = step.undone;
    }
  }

  return { add, draw };
}

function withoutRun({ undone, isWaiting }) {
  if (undone) return { words: "undone", color: "" };
  return isWaiting ? { words: "saving", color: "busy" } : { words: "", color: "" };
}

// The list of the last steps, each with what became of it and a button that undoes it.

const SHOWN = 50;

// A step's labels are written by its `run` (null if it has none). `describe(step)` returns the nodes that say what it was.
export function makeHistory(list, describe, undo) {
  const lines = new Map();  // step → its line, which is kept so that its button doesn't lose the focus

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
      const { words, color } = outcome(step);
      [state.textContent, state.className, state.hidden] = [words, `chip ${color}`, !words];
      id.textContent = step.run?.id ? `run ${step.run.id}` : "";
      button.hidden = step.undone;
    }
  }

  return { add, draw };
}

function outcome({ run, undone }) {
  if (!run) return { words: undone ? "undone" : "", color: "" };
  if (run.status === "failed") return { words: run.action === "undo" ? "not undone" : "not saved", color: "bad" };
  if (run.status !== "finished") return { words: run.action === "undo" ? "undoing" : "saving", color: "busy" };
  if (run.action === "write") return { words: "saved", color: "good" };
  return { words: run.kept ? `undone, but ${run.kept} were changed since and stay` : "undone", color: "" };
}

// The texts that all labeling pages share.

import { showText } from "../say.js";

const find = (id) => document.getElementById(id);

export const number = (value) => value.toLocaleString("en");
export const count = (value, one, several = `${one}s`) => `${number(value)} ${value === 1 ? one : several}`;
export const allImages = (value) => (value === 1 ? "this image" : value === 2 ? "both images" : `all ${count(value, "image")}`);
export const parts = (...some) => some.filter(Boolean);

// Thumbnails of an image's copies, each {task, source, link}, for a list. There may be thousands of them.
export function copyItems(copies) {
  return copies.map(({ task, source, link }) => {
    const [one, frame] = [document.createElement("li"), document.createElement(link ? "a" : "span")];
    frame.className = "picture";
    if (link) Object.assign(frame, { href: link, target: "_blank", rel: "noopener noreferrer" });
    frame.append(Object.assign(new Image(64, 64), { loading: "lazy", alt: `Task ${task}`, draggable: false, src: source }));
    one.append(frame);
    return one;
  });
}

// Sets a button's text, which is its first element.
export function label(id, words) {
  find(id).firstElementChild.textContent = words;
}

// Shows how far the server has read the project's images, according to its last answer, and why it can't answer.
export function showReading(answer, problem) {
  const { state, tasks, collected, unreadable, first_guess: isGuess } = answer ?? {};
  find("first-guess").hidden = !isGuess;
  find("supply-failed").hidden = !problem;
  showText(find("supply-error"), problem);
  find("reading").hidden = state !== "collecting";
  find("reading-words").textContent = tasks ? `Reading images: ${number(collected)} of ${number(tasks)}` : "Listing the tasks…";
  if (tasks) find("reading-bar").value = collected / tasks;
  find("unreadable").hidden = !unreadable;
  find("unreadable").textContent = `${count(unreadable ?? 0, "image")} can’t be read and won’t be shown. See Problems for the reason.`;
}

// Shows the state of the labels; `waiting` of them aren't in a run yet.
export function showRuns(runs, isUnused, waiting = 0) {
  const failed = runs.failed();
  find("unsaved").hidden = !failed.length;
  if (failed.length) {
    const [first] = failed;
    const labels = failed.reduce((total, { action, tasks, withdrawn }) => total + (action === "undo" ? withdrawn.size : tasks.length - withdrawn.size), 0);
    find("unsaved-words").textContent = `${count(labels, "label")} couldn’t be ${first.action === "undo" ? "undone" : "saved"}:`;
    showText(find("unsaved-why"), first.error);
  }
  const [saving, undoing, saved, others, deleted] = [runs.saving() + waiting, runs.undoing(), runs.saved(), runs.others(), runs.deleted()];
  const left = parts(
    others && `${count(others, "task")} already had a label`,
    deleted && `${count(deleted, "task was", "tasks were")} deleted in Label Studio`,
  );
  find("saving").textContent = parts(
    saving && `Saving ${count(saving, "label")}…`,
    undoing && `Undoing ${count(undoing, "label")}…`,
    (saving || undoing) && runs.whyDelayed() && `Retrying, because this failed: ${runs.whyDelayed()}`,
    (saved || left.length) && `${[`${count(saved, "label")} saved`, ...left].join("; ")}.`,
  ).join(" ") || (isUnused ? "Nothing labeled yet." : "No labels.");
}

// What the page Queue shows.

import { drawn } from "../bars.js";
import { copyItems, count, label, number, parts } from "../labeling/view.js";

const list = new Intl.ListFormat("en");
export const named = (choices) => list.format(choices) || "with no choice";
export const question = (chosen, isSuggested) =>
  chosen.length ? `${named(chosen)}?` : isSuggested ? "None of the choices?" : "What does this image show?";
const percent = (share) => `${Math.round(100 * share)}%`;

export function makeView(place, only) {
  const find = (id) => document.getElementById(id);
  const { project, tasks: tasksUrl } = place.dataset;
  const rows = () => [...find("choice-keys").children];
  const nameOf = (row) => row.querySelector("bdi").textContent;
  let shownCopies = null;  // the copies whose thumbnails are in the list
  find("only").hidden = only === null;

  // Gives each choice's button a bar, which `show` fills.
  function choices(isSeveral) {
    for (const part of document.querySelectorAll("#queue [data-several]")) part.hidden = (part.dataset.several === "yes") !== isSeveral;
    for (const row of rows()) {
      const [bar, share] = [drawn(0), Object.assign(document.createElement("span"), { className: "number" })];
      bar.ariaHidden = "true";
      row.append(bar, share);
    }
  }

  function show({ task, picture, probabilities, reasons, withheld }) {
    find("picture").replaceChildren(picture);
    const known = Object.keys(probabilities).length > 0;
    find("choice-keys").classList.toggle("unknown", !known);
    for (const row of rows()) {
      const share = probabilities[nameOf(row)] ?? 0;
      row.querySelector("rect").setAttribute("width", `${100 * share}%`);
      row.lastChild.textContent = known ? percent(share) : "";
    }
    find("reasons-part").hidden = !reasons.length;
    find("reasons").replaceChildren(...reasons.map(makeReason));
    find("withheld").hidden = !withheld;
    find("one-task").textContent = `Task ${task}`;
    find("one-link").hidden = !tasksUrl;
    find("one-link").href = `${tasksUrl}?task=${task}`;
  }

  function makeReason({ task, label: name, picture }) {
    const [one, frame, words] = ["li", "span", "bdi"].map((tag) => document.createElement(tag));
    frame.className = "picture";
    frame.append(picture);
    words.textContent = name;
    one.title = `Task ${task}`;
    one.append(frame, words);
    return one;
  }

  // The copies that get the same label, unless the person wants to label them separately.
  function copies({ copies, isApart }) {
    find("copies").hidden = !copies.length;
    find("copies-words").textContent = `${count(copies.length, "copy looks", "copies look")} the same and ${isApart ? "will come up later" : copies.length === 1 ? "gets the same label" : "get the same label"}:`;
    find("apart").setAttribute("aria-pressed", String(isApart));
    if (copies === shownCopies) return;
    shownCopies = copies;
    find("copies-list").replaceChildren(...copyItems(copies.map((copy) => ({ ...copy, link: tasksUrl && `${tasksUrl}?task=${copy.task}` }))));
  }

  // Marks the choices that Enter assigns.
  function choose({ isBroken, isSuggested, probabilities }, chosen, isSeveral) {
    const [choice] = chosen;
    find("one-title").textContent = isBroken ? "This image can’t be shown" : question(chosen, isSuggested);
    find("one-facts").textContent = !isSeveral && choice in probabilities && !isBroken ? `${percent(probabilities[choice])} confidence` : "";
    find("confirm").disabled = isBroken || !(chosen.length || isSeveral);
    label("confirm", chosen.length || isSeveral ? `Label ${chosen.length ? "as " : ""}${named(chosen)}` : "No prediction");
    for (const row of rows()) {
      const isChosen = chosen.includes(nameOf(row));
      if (isChosen && !isSeveral && row.ariaCurrent !== "true") scrollTo(row);
      row.ariaCurrent = isChosen && !isSeveral ? "true" : null;
      row.ariaPressed = isSeveral ? String(isChosen) : null;
    }
  }

  // Only the list of choices scrolls, never the page.
  function scrollTo(row) {
    const list = find("choice-keys");
    const [top, bottom] = [row.offsetTop - list.offsetTop, row.offsetTop - list.offsetTop + row.offsetHeight];
    if (top < list.scrollTop) list.scrollTop = top;
    else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
  }

  // `given` is the number of labels given on this page; the server's answer already counts those given before the request.
  function progress(said, given) {
    const labeled = said ? Math.min(said.labeled + given - said.given, said.tasks) : 0;
    find("tally").textContent = parts(
      given && `${number(given)} labeled here`, said?.tasks && `${number(labeled)} of ${number(said.tasks)} labeled`,
    ).join(" · ");
    find("labeled-bar").value = said?.tasks ? labeled / said.tasks : 0;
  }

  // Why there is no image, and what to do about it.
  function pause({ state, unlabeled, unreadable }, isAsking, aside) {
    const [title, why] = isAsking ? ["Looking for the next image…", ""]
      : state === "collecting" ? ["No image yet", "Images appear as they are read."]
      : aside ? ["No other images are left", `You skipped ${count(aside, "image")}.`]
      : unlabeled > unreadable ? ["No image to label right now", "This page keeps checking for new ones."]
      : unreadable ? ["Everything else is labeled", "Some images can’t be read here. Label them in Label Studio."]
      : ["Everything is labeled", ""];
    [find("pause-title").textContent, find("pause-why").textContent] = [title, why];
    find("show-aside").hidden = isAsking || !aside;
    find("show-aside").textContent = `Show the ${aside === 1 ? "image" : count(aside, "image")} again`;
  }

  // Describes a step for the list of recent steps.
  function described({ image, tasks, label: names }) {
    const picture = Object.assign(new Image(32, 32), { src: `/projects/${project}/images/${image.digest}.jpg`, alt: "" });
    const name = Object.assign(document.createElement("bdi"), { textContent: names === null ? "Skipped" : list.format(names) || "No choice" });
    return [picture, name, ...(tasks.length > 1 ? [` + ${count(tasks.length - 1, "copy", "copies")}`] : [])];
  }

  return { choices, show, copies, choose, progress, pause, described };
}

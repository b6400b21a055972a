// Lets a person try images: shows the prediction for each, and how a prediction changes after a correction.

import { drawn } from "./bars.js";
import { post } from "./press.js";
import { isolated, say, showText } from "./say.js";

const POLL = 150;  // milliseconds
const PATIENCE = 120000;
const MOST = 100;  // images at once

export function tryImages(place) {
  const find = (id) => document.getElementById(id);
  const project = place.dataset.project;
  const corrected = find("correction");  // null if the model can't be trained
  const learning = new Set();  // images whose corrections are being learned
  let given, before;
  let several = [];  // the images that were chosen together, each with its button

  const form = (image, more = {}) => {
    const data = new FormData();
    data.set("project", project);
    for (const [name, value] of [...Object.entries(image), ...Object.entries(more)].flatMap(spread)) data.append(name, value);
    return data;
  };
  const spread = ([name, value]) => (Array.isArray(value) ? value.map((one) => [name, one]) : [[name, value]]);
  const teach = (image, label) => post("/api/models/retrain", image.url ? { project, url: image.url, label } : form(image, { label }));

  async function ask(image) {
    const tile = several.find((one) => one.image === image);
    try {
      const said = await post("/api/models/predict", image.url ? { project, url: image.url } : form(image));
      if (tile) tell(tile, said);
      return said;
    } catch (error) {
      if (tile) showText(tile.words, error.message);
      throw error;
    }
  }

  async function predict(image) {
    given = image;
    for (const id of ["learned", "answer"]) show(id, false);  // they are about the previous image
    find("try-empty").textContent = "Predicting…";
    show("try-empty", true);
    corrected?.reset();  // removes the label chosen for the previous image
    drawSave();
    await attempt(image, async () => {
      const said = await ask(image);
      if (given !== image) return;  // another image was chosen in the meantime
      before = said;
      answer(said);
    });
    if (given === image) show("try-empty", false);
  }

  async function attempt(image, work) {
    show("try-error", false);
    place.setAttribute("aria-busy", "true");
    try {
      await work();
    } catch (error) {
      if (given !== image) return say(error.message);
      showText(find("try-error"), error.message);
      show("try-error", true);
    }
    if (given === image) place.removeAttribute("aria-busy");
  }

  // Without sorting, keys that look like numbers would come first.
  const sorted = (scores) => Object.entries(scores).sort(([, one], [, other]) => other - one);

  function show(id, shown) {
    find(id).hidden = !shown;
  }

  function answer(said) {
    show("answer", true);
    find("prediction").textContent = named(said);
    find("by-version").textContent = `${said.confidence == null ? "" : percent(said.confidence) + " confidence, "}${said.model_version.split("-")[0]}`;
    showScores(sorted(said.scores));
  }

  // Each choice keeps its row, so its bar moves from the old share to the new one.
  function showScores(scores) {
    const body = find("scores").tBodies[0];
    const known = new Map([...body.rows].map((row) => [row.cells[0].textContent, row]));
    const rows = scores.map(([name]) => known.get(name) ?? bar(name));
    body.replaceChildren(...rows);
    body.getBoundingClientRect();  // makes the browser lay out the bars before they change, so that they move
    scores.forEach(([, share], place) => {
      const row = rows[place];
      row.classList.toggle("first", place === 0);
      row.querySelector("rect").setAttribute("width", `${100 * (share ?? 0)}%`);
      row.cells[2].textContent = share == null ? "–" : percent(share);
    });
  }

  function bar(name) {
    const row = cells(name, drawn(0), "");
    row.cells[1].ariaHidden = "true";
    return row;
  }

  function cells(name, ...values) {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    const isolated = document.createElement("bdi");
    isolated.textContent = name;
    head.scope = "row";
    head.append(isolated);
    row.append(head);
    for (const value of values) {
      const cell = document.createElement("td");
      cell.append(value);
      if (typeof value === "string") cell.className = "number";
      row.append(cell);
    }
    return row;
  }

  async function correct(label) {
    const image = given;
    const started = performance.now();
    learning.add(image);
    drawSave();
    await attempt(image, async () => {
      const { job } = await teach(image, label);
      const ended = await end(job);
      if (ended.job_status !== "finished") throw new Error(ended.error ?? `The training run ended with the status “${ended.job_status}”.`);
      const after = await live(image, ended.result?.versions ?? []);
      if (given !== image) return;
      corrected.reset();
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      answer(after);
      find("before-after").tBodies[0].replaceChildren(
        ...sorted(after.scores).map(([name, share]) => cells(name, percent(before.scores[name]), percent(share))),
      );
      const name = after.model_version.split("-")[0];
      const told = ended.result?.held_back
        ? `Version ${name} stays live because the new version was held back: ${ended.result.held_back}`
        : `Version ${name} is live.${await accuracies(before.model_version, after.model_version)}`;
      find("took").textContent = `Trained in ${seconds} s. ${told}`;
      show("learned", true);
      before = after;
    });
    learning.delete(image);
    drawSave();
  }

  function drawSave() {
    corrected?.querySelector("button").setAttribute("aria-disabled", learning.has(given));
  }

  // A correction may make other predictions worse.
  async function accuracies(...versions) {
    const { details } = await post("/versions", { project });
    const [one, other] = versions.map((version) => details.find((known) => known.version === version)?.figures);
    // An update keeps the metrics of the previous version.
    if (other?.labels_since) return " Its accuracy isn’t known yet: a training run on all labels will measure it.";
    const measured = [one, other].every((figures) => figures?.accuracy != null && !figures.labels_since);
    // Older versions counted near-duplicates separately, which makes the accuracy look higher.
    const alike = measured && one.judged_by === other.judged_by && (one.groups == null) === (other.groups == null);
    return alike ? ` Its accuracy is ${percent(other.accuracy)}; the previous version’s was ${percent(one.accuracy)}.` : "";
  }

  async function end(job) {
    const until = Date.now() + PATIENCE;
    for (;;) {
      const state = await post("/job_status", { job });
      if (!["queued", "started"].includes(state.job_status)) return state;
      if (Date.now() > until) throw new Error("Training is still running; see Overview.");
      await sleep(POLL);
    }
  }

  async function live(image, versions) {
    for (let tries = 0; ; tries++) {
      const said = await ask(image);
      if (!versions.length || versions.includes(said.model_version) || tries > 20) return said;
      await sleep(POLL);
    }
  }

  const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  const percent = (share) => (share == null ? "–" : `${(100 * share).toFixed(1)}%`);

  const named = (said) => [said.prediction].flat().join(" + ") || "nothing";

  // The first image is shown; the others are predicted one after the other.
  async function take(files) {
    if (!files.length) return;
    for (const one of several) URL.revokeObjectURL(one.source);
    const chosen = (several = [...files].slice(0, MOST).map((file) => entry({ image: file })));
    show("several", chosen.length > 1);
    find("several").replaceChildren(...chosen.map((one) => one.item));
    pick(chosen[0]);
    for (const one of chosen.slice(1)) {
      await ask(one.image).catch(() => {});  // its tile shows the error
      if (several !== chosen) return;
    }
  }

  function entry(image) {
    const [item, button, picture, words] = ["li", "button", "img", "span"].map((tag) => document.createElement(tag));
    const one = { image, item, button, words, source: URL.createObjectURL(image.image) };
    item.className = "tile";
    Object.assign(button, { type: "button", className: "quiet", ariaPressed: "false" });
    Object.assign(picture, { src: one.source, alt: image.image.name });
    words.textContent = "…";
    button.append(picture, words);
    button.addEventListener("click", () => pick(one));
    item.append(button);
    return one;
  }

  function tell(one, said) {
    one.words.textContent = `${isolated(named(said))}${said.confidence == null ? "" : ` ${percent(said.confidence)}`}`;
  }

  function pick(one) {
    for (const other of several) other.button.ariaPressed = String(other === one);
    preview(one.source);
    predict(one.image);
  }

  function preview(source) {
    show("shown", source !== "");
    if (source) find("preview").src = source;
  }

  const drop = find("drop");
  for (const kind of ["dragover", "dragenter"]) place.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  place.addEventListener("dragleave", () => drop.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const url = event.dataTransfer.getData("text/uri-list").split("\n")[0];
    if (event.dataTransfer.files.length) take(event.dataTransfer.files);
    else if (url) address(url);
  });
  document.addEventListener("paste", (event) => {
    const text = event.clipboardData.getData("text").trim();
    if (event.clipboardData.files.length) take(event.clipboardData.files);
    else if (/^https?:\/\/\S+$/i.test(text) && !event.target.closest("input")) address(text);
  });
  find("file").addEventListener("click", (event) => { event.target.value = ""; });  // otherwise, the same file couldn't be chosen again
  find("file").addEventListener("change", (event) => take(event.target.files));
  take(find("file").files);  // chosen before this script was there
  find("by-url").addEventListener("submit", (event) => {
    event.preventDefault();
    address(find("url").value.trim());
  });
  find("by-url").querySelector("button").disabled = false;

  function address(url) {
    find("url").value = url;
    preview("");  // the page's policy forbids images from other sites
    predict({ url });
  }

  corrected?.addEventListener("submit", (event) => {
    event.preventDefault();
    if (learning.has(given)) return;  // a double-click
    const labels = [...new FormData(event.target).getAll("label")];
    if (labels.length) correct(labels);
    else say("Choose the correct label first.");
  });
}

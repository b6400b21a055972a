// Tries one image: shows the prediction, and how it changes after a correction.

import { drawn } from "./bars.js";
import { post } from "./press.js";

const POLL = 150;  // milliseconds
const PATIENCE = 120000;

export function tryImages(place) {
  const find = (id) => document.getElementById(id);
  const project = place.dataset.project;
  let given, before;

  const form = (more = {}) => {
    const data = new FormData();
    data.set("project", project);
    for (const [name, value] of [...Object.entries(given), ...Object.entries(more)].flatMap(spread)) data.append(name, value);
    return data;
  };
  const spread = ([name, value]) => (Array.isArray(value) ? value.map((one) => [name, one]) : [[name, value]]);
  const ask = () => post("/api/models/predict", given.url ? { project, url: given.url } : form());
  const teach = (label) => post("/api/models/retrain", given.url ? { project, url: given.url, label } : form({ label }));

  async function predict(image) {
    given = image;
    show("learned", false);
    await attempt(async () => {
      before = await ask();
      answer(before);
    });
  }

  async function attempt(work) {
    show("try-error", false);
    place.setAttribute("aria-busy", "true");
    try {
      await work();
    } catch (error) {
      find("try-error").textContent = error.message;
      show("try-error", true);
    }
    place.removeAttribute("aria-busy");
  }

  // Without sorting, keys that look like numbers would come first.
  const sorted = (scores) => Object.entries(scores).sort(([, one], [, other]) => other - one);

  function show(id, shown) {
    find(id).hidden = !shown;
  }

  function answer(said) {
    show("try-empty", false);
    show("answer", true);
    find("prediction").textContent = [said.prediction].flat().join(" + ") || "nothing";
    find("by-version").textContent = `${said.confidence == null ? "" : percent(said.confidence) + " sure, "}${said.model_version.split("-")[0]}`;
    find("scores").tBodies[0].replaceChildren(...sorted(said.scores).map(([name, share], row) => bar(name, share, row === 0)));
    for (const input of find("correction").elements) {
      if (input.name === "label") input.checked = [said.prediction].flat().includes(input.value);
    }
  }

  function bar(name, share, first) {
    const row = cells(name, drawn(share ?? 0), share == null ? "–" : percent(share));
    row.cells[1].ariaHidden = "true";
    row.classList.toggle("first", first);
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
    const started = performance.now();
    await attempt(async () => {
      const { job } = await teach(label);
      const ended = await end(job);
      if (ended.job_status !== "finished") throw new Error(ended.error ?? `The training was ${ended.job_status}.`);
      const after = await live(ended.result?.versions ?? []);
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      answer(after);
      find("before-after").tBodies[0].replaceChildren(
        ...sorted(after.scores).map(([name, share]) => cells(name, percent(before.scores[name]), percent(share))),
      );
      const held = ended.result?.held_back ? ` The new version was held back: ${ended.result.held_back}` : "";
      const effect = await accuracies(before.model_version, after.model_version);
      find("took").textContent = `Learned in ${seconds} s. Version ${after.model_version.split("-")[0]} is answering now.${effect}${held}`;
      show("learned", true);
      before = after;
    });
  }

  // One correction may make the other answers worse.
  async function accuracies(...versions) {
    const { details } = await post("/versions", { project });
    const [one, other] = versions.map((version) => details.find((known) => known.version === version)?.figures);
    const comparable = one?.accuracy != null && other?.accuracy != null && one.judged_by === other.judged_by;
    return comparable ? ` Its accuracy is ${percent(other.accuracy)}; it was ${percent(one.accuracy)}.` : "";
  }

  async function end(job) {
    const until = Date.now() + PATIENCE;
    for (;;) {
      const state = await post("/job_status", { job });
      if (!["queued", "started"].includes(state.job_status)) return state;
      if (Date.now() > until) throw new Error("The training is still running; see Overview.");
      await sleep(POLL);
    }
  }

  async function live(versions) {
    for (let tries = 0; ; tries++) {
      const said = await ask();
      if (!versions.length || versions.includes(said.model_version) || tries > 20) return said;
      await sleep(POLL);
    }
  }

  const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  const percent = (share) => (share == null ? "–" : `${(100 * share).toFixed(1)}%`);

  function take(file) {
    if (!file) return;
    preview(URL.createObjectURL(file));
    predict({ image: file });
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
    const file = event.dataTransfer.files[0];
    const url = event.dataTransfer.getData("text/uri-list").split("\n")[0];
    if (file) take(file);
    else if (url) address(url);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  find("file").addEventListener("change", (event) => take(event.target.files[0]));
  find("by-url").addEventListener("submit", (event) => {
    event.preventDefault();
    address(find("url").value.trim());
  });

  function address(url) {
    find("url").value = url;
    preview("");  // the page's policy forbids images from other sites
    predict({ url });
  }

  find("correction").addEventListener("submit", (event) => {
    event.preventDefault();
    const labels = [...new FormData(event.target).getAll("label")];
    if (labels.length) correct(labels);
  });
}

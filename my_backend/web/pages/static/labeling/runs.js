// The labeling runs that write labels to Label Studio: starts them, follows them, retries them, and undoes them.

import { get, post } from "../press.js";
import { randomKey } from "./page_key.js";

const POLL = 1000, PATIENCE = 30000, SILENCE = 90000;  // milliseconds
const PATH = "/api/labeling/runs";
const UNCONFIRMED = "Label Studio hasn’t confirmed your token. See Problems for the reason.";

// `kind` is "group" or "single": how the person sees the images. `token()` is their own token, or "". `changed()` is called
// when the state of a run has changed.
export function makeRuns(project, kind, token, changed) {
  const runs = [];  // from the oldest to the newest
  let following = false;

  function start(labels) {
    const tasks = labels.flatMap((one) => one.tasks);
    const run = {
      key: randomKey(), labels, tasks, withdrawn: new Set(), untold: new Set(), id: "", mayExist: false,
      action: "write", status: "queued", error: "", saved: 0, isWritten: false, others: [], deleted: [], kept: [],
    };
    runs.push(run);
    writeInTurn();
    changed();
    return run;
  }

  // Labels are sent after the server has answered the undoing of the same tasks' former labels: otherwise, it could find these
  // and leave the tasks alone.
  function writeInTurn() {
    const isHeld = ({ tasks }) => runs.some(({ untold }) => tasks.some((task) => untold.has(task)));
    for (const run of runs) if (!run.sent && run.tasks.length && !isHeld(run)) write(run);
  }

  // Because of the key, the server starts no second run if it has the labels already.
  function write(run) {
    return request(run, left(run).length ? "write" : "undo", PATH, startOf(run));
  }

  const startOf = (run) => ({ project, kind, labels: run.labels, idempotency_key: run.key });

  async function sendUndo(run) {
    const tasks = [...run.withdrawn];
    const isAnswered = await request(run, "undo", `${PATH}/${run.id}/undo`, left(run).length ? { tasks } : {});
    if (!isAnswered) return;
    for (const task of tasks) run.untold.delete(task);
    writeInTurn();
  }

  // Once the server answers, it has the labels; `run.sent` resolves then, with false if it didn't answer or refused.
  function request(run, action, url, body = {}) {
    Object.assign(run, { action, status: "queued", error: "", isSending: true, until: Date.now() + PATIENCE });
    run.sent = post(url, token() ? { ...body, token: token() } : body, { keepalive: true }).then((answer) => {
      if (!answer.run) throw new Error("The backend’s answer was incomplete.");
      // With a token, the server first checks whether it may undo or resume; until then, it reports how the run ended before.
      run.old = !run.id || isOpen(answer) ? null : answer.changed_at;
      Object.assign(run, { id: answer.run, mayExist: false });
      return true;
    }).catch(async (error) => {
      Object.assign(run, { status: "failed", error: error.message });
      // Perhaps the server already had the request to resume, only its answer was lost, and the run has ended since.
      if (run.id && error.status === 409) await look(run);
      if (run.status === "failed") run.error = error.message;
      // Only a refusal says that the server doesn't have the labels. Otherwise, the answer may have been lost on its way.
      if (!run.id && !(error.status < 500)) run.mayExist = true;
      return false;
    }).then((isAnswered) => {
      run.isSending = false;
      changed();
      follow();  // this may take long, so `sent` doesn't wait for it
      return isAnswered;
    });
    changed();
    return run.sent;
  }

  // Undoes some of a run's tasks, by default all.
  async function undo(run, tasks = run.tasks) {
    for (const task of tasks) {
      run.withdrawn.add(task);
      run.untold.add(task);
    }
    if (run.id) Object.assign(run, { action: "undo", status: "queued" });
    changed();
    while (run.isSending) await run.sent;
    if (run.id || run.mayExist) await sendUndone(run);
    else forget(run);
    changed();
  }

  // Only the answer to the labels tells which run is to be undone.
  async function sendUndone(run) {
    if (!run.id) await write(run);
    if (run.id) await sendUndo(run);
  }

  // Leaves out what was undone before the server got it.
  function forget(run) {
    const labels = run.labels.map(({ label, tasks }) => ({ label, tasks: tasks.filter((task) => !run.withdrawn.has(task)) }));
    run.labels = labels.filter(({ tasks }) => tasks.length);
    run.tasks = left(run);
    run.withdrawn.clear();
    run.untold.clear();
    if (!run.tasks.length) Object.assign(run, { action: "undo", status: "finished", error: "" });
    writeInTurn();
  }

  function retry(run) {
    if (run.action === "undo" || (!run.id && run.withdrawn.size)) sendUndone(run);
    else if (!run.id) write(run);
    else request(run, run.action, `${PATH}/${run.id}/resume`);
  }

  async function follow() {
    if (following) return;
    following = true;
    for (let open; (open = runs.filter((run) => run.id && isOpen(run) && !run.isSending)).length; ) {
      for (const run of open) await look(run);
      changed();
      await new Promise((done) => setTimeout(done, POLL));
    }
    following = false;
  }

  async function look(run) {
    let answer;
    try {
      answer = await get(`${PATH}/${run.id}`);
    } catch {
      return;  // the page says that the backend isn't responding, and the run goes on in the meantime
    }
    if (!hasBegun(run, answer)) {
      if (Date.now() > run.until) Object.assign(run, { status: "failed", error: UNCONFIRMED });
      return;
    }
    sendTokenAgain(run, answer);
    const { action, status, error, written, undone, left_alone: alone } = answer;
    Object.assign(run, { status, error: error ?? "", saved: written - undone, kept: alone.changed });
    if (action === "write") Object.assign(run, { others: alone.labeled, deleted: alone.deleted });
    if (action === "undo" || status === "finished") run.isWritten = true;
  }

  // A server that was restarted has lost the person's token, and the run waits for it. One that still has the token ignores
  // this, unlike a request to resume, which would interrupt the run.
  function sendTokenAgain(run, { changed_at: changed }) {
    if (changed !== run.changed) Object.assign(run, { changed, since: Date.now() });
    if (!token() || Date.now() < run.since + SILENCE) return;
    run.since = Date.now();
    post(PATH, { ...startOf(run), token: token() }).catch(() => {});  // the next one may succeed
  }

  const sum = (some, count) => some.reduce((total, run) => total + count(run), 0);
  const isOpen = ({ status }) => status === "queued" || status === "started";

  return {
    start, undo,
    retryAll: () => runs.filter((run) => run.status === "failed").forEach(retry),
    failed: () => runs.filter((run) => run.status === "failed"),
    isUnsent: () => runs.some((run) => !run.id && (run.mayExist || left(run).length)),
    // Tasks that have a label, or will have one.
    tasks: () => runs.flatMap(left),
    // The tasks among them that the server knows about.
    arrived: () => runs.filter((run) => run.id).flatMap(left),
    saving: () => sum(runs.filter((run) => isOpen(run) && !run.isWritten), (run) => Math.max(0, left(run).length - run.saved)),
    undoing: () => sum(runs.filter((run) => isOpen(run) && run.action === "undo"), (run) => Math.max(0, run.saved - left(run).length)),
    whyDelayed: () => runs.find((run) => isOpen(run) && run.error)?.error,
    saved: () => sum(runs, (run) => run.saved),
    others: () => sum(runs, (run) => run.others.length),
    deleted: () => sum(runs, (run) => run.deleted.length),
  };
}

// The tasks of a run whose labels aren't undone.
const left = (run) => run.tasks.filter((task) => !run.withdrawn.has(task));

// Whether the server has begun the last request: with a token, it first checks the token with Label Studio.
function hasBegun(run, { action, withdrawn, changed_at: changed }) {
  if (changed === run.old) return false;
  if (!run.withdrawn.size) return action === "write";
  if (action === "undo" && !withdrawn.length) return true;
  return left(run).length > 0 && [...run.withdrawn].every((task) => withdrawn.includes(task));
}

// The outcome for some tasks of a run.
export function outcome({ status, action, mayExist, isWritten, others, deleted, kept }, tasks, isUndone) {
  const some = (list) => tasks.filter((task) => list.includes(task)).length;
  if (status === "failed" && (isUndone || !isWritten)) {
    return { words: isUndone && (action === "undo" || mayExist) ? "not undone" : "not saved", color: "bad" };
  }
  if (!isUndone && !isWritten) return { words: "saving", color: "busy" };
  if (!isUndone) {
    const reasons = [some(others) && "already labeled", some(deleted) && "deleted in Label Studio"].filter(Boolean);
    const isSaved = some(others) + some(deleted) < tasks.length;
    return isSaved ? { words: "saved", color: "good" } : { words: reasons.join(" or "), color: "warn" };
  }
  if (status !== "finished") return { words: "undoing", color: "busy" };
  const changed = some(kept);
  return { words: changed ? `undone, except for ${changed} that ${changed === 1 ? "has" : "have"} changed since` : "undone", color: "" };
}

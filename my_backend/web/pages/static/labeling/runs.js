// The labeling runs that write labels to Label Studio: starts them, follows them, retries them, and undoes them.

import { get, post } from "../press.js";

const POLL = 1000, PATIENCE = 30000;  // milliseconds
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
      labels, tasks, withdrawn: new Set(), id: "", action: "write", status: "queued", error: "",
      saved: 0, isWritten: false, others: [], deleted: [], kept: [],
    };
    runs.push(run);
    write(run);
    return run;
  }

  function write(run) {
    const labels = run.labels.map(({ label, tasks }) => ({ label, tasks: tasks.filter((task) => !run.withdrawn.has(task)) }));
    return request(run, "write", PATH, { project, kind, labels: labels.filter(({ tasks }) => tasks.length) });
  }

  const sendUndo = (run) => request(run, "undo", `${PATH}/${run.id}/undo`, left(run).length ? { tasks: [...run.withdrawn] } : {});

  // Once the server answers, it has the labels; `run.sent` resolves then.
  function request(run, action, url, body = {}) {
    Object.assign(run, { action, status: "queued", error: "", isSending: true, until: Date.now() + PATIENCE });
    run.sent = post(url, token() ? { ...body, token: token() } : body, { keepalive: true }).then(
      (answer) => {
        run.id = answer.run;
        // With a token, the server first checks it with Label Studio; until then, it reports how the run ended before.
        run.old = isOpen(answer) ? null : answer.changed_at;
      },
      (error) => Object.assign(run, { status: "failed", error: error.message }),
    ).then(() => {
      run.isSending = false;
      changed();
      follow();  // this may take long, so `sent` doesn't wait for it
    });
    changed();
  }

  // Undoes some of a run's tasks, by default all.
  async function undo(run, tasks = run.tasks) {
    for (const task of tasks) run.withdrawn.add(task);
    if (run.id) Object.assign(run, { action: "undo", status: "queued" });
    changed();
    await run.sent;
    if (run.id) sendUndo(run);
    else if (!left(run).length) Object.assign(run, { action: "undo", status: "finished", error: "" });  // it was never sent
    changed();
  }

  function retry(run) {
    if (!run.id) write(run);
    else if (run.action === "undo") sendUndo(run);
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
    const { action, status, error, written, undone, left_alone: alone } = answer;
    Object.assign(run, { status, error: error ?? "", saved: written - undone, kept: alone.changed });
    if (action === "write") Object.assign(run, { others: alone.labeled, deleted: alone.deleted });
    if (action === "undo" || status === "finished") run.isWritten = true;
  }

  const sum = (some, count) => some.reduce((total, run) => total + count(run), 0);
  const isOpen = ({ status }) => status === "queued" || status === "started";

  return {
    start, undo,
    retryAll: () => runs.filter((run) => run.status === "failed").forEach(retry),
    failed: () => runs.filter((run) => run.status === "failed"),
    isUnsent: () => runs.some((run) => !run.id && left(run).length),
    // Tasks that have a label, or will have one.
    tasks: () => runs.flatMap(left),
    // The tasks among them that the server knows about.
    arrived: () => runs.filter((run) => run.id).flatMap(left),
    saving: () => sum(runs.filter((run) => isOpen(run) && !run.isWritten), (run) => Math.max(0, left(run).length - run.saved)),
    undoing: () => sum(runs.filter((run) => isOpen(run) && run.action === "undo"), (run) => Math.max(0, run.saved - left(run).length)),
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
export function outcome({ status, action, isWritten, others, deleted, kept }, tasks, isUndone) {
  const some = (list) => tasks.filter((task) => list.includes(task)).length;
  if (status === "failed" && (isUndone || !isWritten)) return { words: action === "undo" && isUndone ? "not undone" : "not saved", color: "bad" };
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

// Labels on their way to Label Studio: starts runs, follows them, tries them again, and undoes them.

import { get, post } from "../press.js";

const POLL = 1000, PATIENCE = 30000;  // milliseconds
const PATH = "/api/labeling/runs";
const UNCONFIRMED = "Label Studio hasn’t confirmed your token. Problems says why.";

// `token()` is the person's own token, or "". `changed()` is called when the state of a run has changed.
export function makeRuns(project, token, changed) {
  const runs = [];  // from the oldest to the newest
  let following = false;

  function start(labels) {
    const tasks = labels.flatMap((one) => one.tasks);
    const run = { labels, tasks, id: "", action: "write", status: "queued", saved: 0, others: 0, kept: 0, error: "" };
    runs.push(run);
    write(run);
    return run;
  }

  const write = (run) => request(run, "write", PATH, { project, labels: run.labels });

  // The server has the labels as soon as it answers; `run.sent` ends then.
  function request(run, action, url, body = {}) {
    Object.assign(run, { action, status: "queued", error: "", old: null, until: Date.now() + PATIENCE });
    run.sent = post(url, token() ? { ...body, token: token() } : body).then(
      (answer) => {
        run.id = answer.run;
        // With a token, the server first asks Label Studio about it, and until then says how the run ended before.
        run.old = isOpen(answer) ? null : answer.changed_at;
      },
      (error) => Object.assign(run, { status: "failed", error: error.message }),
    ).then(() => {
      changed();
      follow();  // for as long as it takes, which `sent` doesn't wait for
    });
    changed();
  }

  async function undo(run) {
    Object.assign(run, { action: "undo", status: "queued" });
    changed();
    await run.sent;
    if (run.id) request(run, "undo", `${PATH}/${run.id}/undo`);
    else Object.assign(run, { action: "undo", status: "finished", error: "" });  // it never reached the server
    changed();
  }

  function retry(run) {
    if (run.id) request(run, run.action, `${PATH}/${run.id}/resume`);
    else write(run);
  }

  async function follow() {
    if (following) return;
    following = true;
    for (let open; (open = runs.filter((run) => run.id && isOpen(run))).length; ) {
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
    if (answer.action !== run.action || answer.changed_at === run.old) {  // it hasn't begun
      if (Date.now() > run.until) Object.assign(run, { status: "failed", error: UNCONFIRMED });
      return;
    }
    const { status, error, written, undone, left_alone: left } = answer;
    Object.assign(run, { status, error: error ?? "", saved: written - undone, kept: left.changed.length });
    if (run.action === "write") run.others = left.labeled.length;
  }

  const sum = (some, count) => some.reduce((total, run) => total + count(run), 0);
  const isOpen = ({ status }) => status === "queued" || status === "started";

  return {
    start, undo,
    retryAll: () => runs.filter((run) => run.status === "failed").forEach(retry),
    failed: () => runs.filter((run) => run.status === "failed"),
    isUnsent: () => runs.some((run) => !run.id && run.action === "write"),
    // Tasks that have a label, or will have one.
    tasks: () => runs.filter((run) => run.action === "write").flatMap((run) => run.tasks),
    saving: () => sum(runs.filter((run) => isOpen(run) && run.action === "write"), (run) => run.tasks.length - run.saved),
    undoing: () => sum(runs.filter((run) => isOpen(run) && run.action === "undo"), (run) => run.saved),
    saved: () => sum(runs, (run) => run.saved),
    others: () => sum(runs, (run) => run.others),
  };
}

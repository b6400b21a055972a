// Labels given one by one: they are sent a few at a time, and can be undone individually.

const MOST = 10, PAUSE = 5000;  // labels are sent when this many are waiting, or after this many milliseconds

// A step is {tasks: [task], label: [choice], run, undone}; see history.js. `run` is the labeling run that writes its label.
export function makeBatches(runs) {
  let waiting = [], timer;

  function add(step) {
    waiting.push(Object.assign(step, { isWaiting: true }));
    if (waiting.length >= MOST) send();
    else timer ??= setTimeout(send, PAUSE);
  }

  function send() {
    clearTimeout(timer);
    timer = undefined;
    const labels = new Map();
    for (const { label, tasks } of waiting) {
      const same = labels.get(JSON.stringify(label)) ?? { label, tasks: [] };
      labels.set(JSON.stringify(label), { label, tasks: [...same.tasks, ...tasks] });
    }
    const run = waiting.length ? runs.start([...labels.values()]) : null;
    for (const step of waiting) Object.assign(step, { run, isWaiting: false });
    waiting = [];
  }

  function undo(step) {
    if (step.run) runs.undo(step.run, step.tasks);
    else waiting = waiting.filter((one) => one !== step);
  }

  // Nothing is lost if the page is closed, or goes to the background on a phone.
  document.addEventListener("visibilitychange", () => document.hidden && send());
  window.addEventListener("pagehide", send);

  return { add, send, undo, tasks: () => waiting.flatMap(({ tasks }) => tasks) };
}

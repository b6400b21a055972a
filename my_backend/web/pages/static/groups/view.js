// What the page of groups says: texts, and which parts are shown.

export const number = (value) => value.toLocaleString("en");
export const count = (value, one) => `${number(value)} ${one}${value === 1 ? "" : "s"}`;
export const heading = (group) => (group.proposal ? `${group.proposal}?` : "Which choice are these?");

export function makeView() {
  const find = (id) => document.getElementById(id);
  const said = (...parts) => parts.filter(Boolean);

  function tally(answer, labels, actions) {
    find("tally").textContent = said(
      actions && `${count(labels, "label")} with ${count(actions, "action")}`,
      answer?.tasks && `${number(answer.labeled)} of ${number(answer.tasks)} labeled`,
    ).join(" · ");
  }

  function reading(answer, problem) {
    const { state, tasks, collected, unreadable } = answer ?? {};
    find("groups-failed").hidden = !problem;
    find("groups-error").textContent = problem;
    find("reading").hidden = state !== "collecting";
    find("reading-words").textContent = tasks ? `Reading images: ${number(collected)} of ${number(tasks)}` : "Listing the tasks …";
    if (tasks) find("reading-bar").value = collected / tasks;
    find("unreadable").hidden = !unreadable;
    find("unreadable").textContent = `${count(unreadable ?? 0, "image")} can’t be read and won’t be shown. Problems says why.`;
  }

  function runs(runs, isUnused) {
    const failed = runs.failed();
    find("unsaved").hidden = !failed.length;
    if (failed.length) {
      const [first] = failed;
      const labels = failed.reduce((total, { tasks }) => total + tasks.length, 0);
      find("unsaved-words").textContent = `${count(labels, "label")} couldn’t be ${first.action === "undo" ? "undone" : "saved"}:`;
      find("unsaved-why").textContent = first.error;
    }
    const [saving, undoing, saved, others] = [runs.saving(), runs.undoing(), runs.saved(), runs.others()];
    find("saving").textContent = said(
      saving && `Saving ${count(saving, "label")} …`,
      undoing && `Undoing ${count(undoing, "label")} …`,
      (saved || others) && `${count(saved, "label")} saved${others ? `; ${count(others, "task")} already had a label` : ""}.`,
    ).join(" ") || (isUnused ? "Nothing labeled yet." : "No labels.");
  }

  // `rest`, `out` and `own` are the numbers of a group's images without a mark, taken out, and with their own choice.
  function group(group, { rest, out, own }) {
    find("group-title").textContent = heading(group);
    find("group-facts").textContent = said(
      count(group.images.length, "image"), out && `${number(out)} taken out`, own && `${number(own)} other`,
    ).join(", ");
    find("label-rest").hidden = rest ? !group.proposal : !own;
    label("label-rest", rest ? `Label ${number(rest)} as ${group.proposal}${own ? `, ${number(own)} other` : ""}` : `Label ${count(own, "image")}`);
    label("skip", own ? `Label ${number(own)}, skip the rest` : group.like ? "Back" : "Skip");
    label("all", rest + own ? "Take out all" : "Put back all");
  }

  // What a choice would label: the images with these indexes, or all that are left.
  function target(indexes, current, rest, isAll) {
    const strong = document.createElement("strong");
    strong.textContent = indexes.length > 1 ? `these ${number(indexes.length)} images`
      : indexes.length ? `image ${indexes[0] + 1}`
      : isAll ? `all ${count(rest, "image")}`
      : `the ${count(rest, "image")} left`;
    find("applies").replaceChildren("A choice labels ", strong);
    label("zoom-in", `Zoom image ${current + 1}`);
  }

  // Why there is no group, and what to do about it.
  function pause({ state, unlabeled, unreadable }, isAsking, aside) {
    const [title, why] = isAsking ? ["Looking for the next group …", ""]
      : state === "collecting" ? ["No group yet", "Groups appear while the images are being read."]
      : aside ? ["No other images are left", `You put ${count(aside, "image")} aside.`]
      : unlabeled > unreadable ? ["No group at the moment", "This page keeps looking."]
      : ["Everything is labeled", unreadable ? "Label the images that can’t be read in Label Studio." : ""];
    [find("pause-title").textContent, find("pause-why").textContent] = [title, why];
    find("show-aside").hidden = isAsking || !aside;
    find("show-aside").textContent = `Show the ${count(aside, "image")} again`;
  }

  function label(id, words) {
    find(id).firstElementChild.textContent = words;
  }

  return { tally, reading, runs, group, target, pause };
}

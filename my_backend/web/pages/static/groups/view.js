// The texts of the page Groups, and which of its parts are shown.

import { allImages, count, label, number, parts } from "../labeling/view.js";

export const heading = ({ proposal, images }) =>
  proposal ? `${proposal}?` : images.length === 1 ? "What does this image show?" : "What do these images show?";

// `elsewhere` names the place where the images were chosen, if a person chose them.
export function makeView(elsewhere) {
  const find = (id) => document.getElementById(id);

  function tally(answer, labels, actions) {
    find("tally").textContent = parts(
      actions && `${count(labels, "label")} with ${count(actions, "action")}`,
      answer?.tasks && `${number(answer.labeled)} of ${number(answer.tasks)} labeled`,
    ).join(" · ");
  }

  // `rest`, `out` and `own` are the numbers of a group's images that have no mark, are taken out, or have their own choice.
  // Copies that get an image's label are counted with it.
  function group(group, { rest, out, own }) {
    const copies = rest + out + own - group.images.length;
    find("group-title").textContent = heading(group);
    find("group-facts").textContent = parts(
      count(group.images.length, "image"), copies && count(copies, "copy", "copies"), out && `${number(out)} taken out`, own && `${number(own)} with another choice`,
    ).join(", ");
    find("label-rest").hidden = rest ? !group.proposal : !own;
    label("label-rest", rest ? `Label ${number(rest)} as ${group.proposal}${own ? ` and ${number(own)} as marked` : ""}` : `Label ${count(own, "image")}`);
    label("skip", own ? `Label ${number(own)}, skip the rest` : group.like ? "Back" : elsewhere ? `Back to ${elsewhere}` : "Skip");
    label("all", rest + own ? "Take all out" : "Put all back");
  }

  // Shows what a choice would label: the images with these indexes, or all remaining images.
  function target(indexes, current, rest, isAll) {
    const strong = document.createElement("strong");
    strong.textContent = indexes.length > 1 ? `these ${number(indexes.length)} images`
      : indexes.length ? `image ${indexes[0] + 1}`
      : isAll ? allImages(rest)
      : `the remaining ${rest === 1 ? "image" : count(rest, "image")}`;
    find("applies").replaceChildren("Choices apply to ", strong);
    label("zoom-in", `Enlarge image ${current + 1}`);
  }

  // Why there is no group, and what to do about it.
  function pause({ state, unlabeled, unreadable }, isAsking, aside) {
    const [title, why] = isAsking ? ["Looking for the next group…", ""]
      : state === "collecting" ? ["No group yet", "Groups appear as the images are read."]
      : aside ? ["No other images are left", `You skipped or took out ${count(aside, "image")}.`]
      : unlabeled > unreadable ? ["No group right now", "This page keeps checking for new ones."]
      : unreadable ? ["Everything else is labeled", "Some images can’t be read here. Label them in Label Studio."]
      : ["Everything is labeled", ""];
    [find("pause-title").textContent, find("pause-why").textContent] = [title, why];
    find("show-aside").hidden = isAsking || !aside;
    find("show-aside").textContent = `Show the ${aside === 1 ? "image" : count(aside, "image")} again`;
  }

  return { tally, group, target, pause };
}

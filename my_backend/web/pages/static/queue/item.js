// An image to label. Its picture and the thumbnails of similar labeled images load as soon as the item is created.

// `image` is as the server describes it.
export function makeItem(project, image) {
  const { task, digest, proposal, probabilities, nearest, copies, withheld } = image;
  const picture = new Image();
  Object.assign(picture, { alt: "The image to label", draggable: false, src: `/projects/${project}/pictures/${digest}.jpg` });
  const reasons = nearest.map((one) => makeReason(project, one));
  const same = copies.map((copy) => ({ task: copy.task, source: `/projects/${project}/images/${copy.digest}.jpg` }));
  const suggested = [proposal ?? []].flat();  // the server sends a list if several choices are allowed
  const isSuggested = proposal !== null;
  const item = { image, task, copies: same, isApart: false, isSuggested, suggested, probabilities, withheld, picture, reasons, isBroken: false, isSeen: false };
  item.loaded = picture.decode().catch(() => { item.isBroken = true; });
  return item;
}

// All tasks of an item; and the tasks that get its label.
export const tasksOf = ({ task, copies }) => [task, ...copies.map((copy) => copy.task)];
export const labeledWith = (item) => (item.isApart ? [item.task] : tasksOf(item));

function makeReason(project, { task, digest, label }) {
  const picture = new Image(96, 96);
  Object.assign(picture, { alt: "", draggable: false, src: `/projects/${project}/images/${digest}.jpg` });
  return { task, label, picture };
}

// A dialog with a larger picture of one image, in which the image can be taken out or get its own choice.

import { copyItems, count } from "../labeling/view.js";

export function makeZoom(dialog, { look, move, toggle, like, apart, closed }) {
  const find = (part) => dialog.querySelector(`[data-part=${part}]`);
  const picture = new Image();
  let shown = false;
  find("picture").append(picture);

  function draw() {
    const { title, source, facts, link, out, copies, isApart } = look();
    find("title").textContent = title;
    [picture.src, picture.alt] = [source, title];
    find("facts").textContent = facts;
    find("link").hidden = !link;
    if (link) find("link").href = link;
    find("out").setAttribute("aria-pressed", String(out));
    find("copies").hidden = !copies.length;
    find("copies-words").textContent = `${count(copies.length, "copy looks", "copies look")} the same:`;
    find("copies-list").replaceChildren(...copyItems(copies));
    find("apart").setAttribute("aria-pressed", String(isApart));
  }

  function open() {
    draw();
    dialog.showModal();
    shown = true;
  }

  function close() {
    dialog.close();
    ended();
  }

  // Browsers report a closed dialog only with their next frame. Keys pressed in the meantime belong to what follows.
  function ended() {
    if (!shown || dialog.open) return;
    shown = false;
    closed();
  }

  find("close").addEventListener("click", close);
  find("previous").addEventListener("click", () => move(-1));
  find("next").addEventListener("click", () => move(1));
  find("out").addEventListener("click", toggle);
  find("like").addEventListener("click", like);
  find("apart").addEventListener("click", apart);
  dialog.addEventListener("click", (event) => event.target === dialog && close());  // next to the picture
  dialog.addEventListener("close", ended);  // closed by the browser

  return { open, draw, close, isOpen: () => dialog.open };
}

// A larger picture of one image in a dialog, in which it can be taken out or get a choice of its own.

export function makeZoom(dialog, { look, move, toggle, like, closed }) {
  const find = (part) => dialog.querySelector(`[data-part=${part}]`);
  const picture = new Image();
  find("picture").append(picture);

  function draw() {
    const { title, source, facts, link, out } = look();
    find("title").textContent = title;
    [picture.src, picture.alt] = [source, title];
    find("facts").textContent = facts;
    find("link").hidden = !link;
    if (link) find("link").href = link;
    find("out").setAttribute("aria-pressed", String(out));
  }

  function open() {
    draw();
    dialog.showModal();
  }

  find("close").addEventListener("click", () => dialog.close());
  find("previous").addEventListener("click", () => move(-1));
  find("next").addEventListener("click", () => move(1));
  find("out").addEventListener("click", toggle);
  find("like").addEventListener("click", like);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());  // beside the picture
  dialog.addEventListener("close", closed);

  return { open, draw, close: () => dialog.close(), isOpen: () => dialog.open };
}

// The buttons of the choices, each with its key; and a field to find a choice by name if there are more choices than keys.

export function makeChoices(boxes, search, press) {
  const [field] = search.getElementsByTagName("input");

  function show(keys, choices) {
    const keyOf = new Map([...keys].map(([key, choice]) => [choice, key]));
    for (const box of boxes) box.replaceChildren(...choices.map((choice) => makeButton(choice, keyOf.get(choice))));
    search.hidden = keys.size >= choices.length;
  }

  function makeButton(choice, key) {
    const [button, name] = ["button", "bdi"].map((tag) => document.createElement(tag));
    [button.type, button.className, name.textContent] = ["button", "quiet", choice];
    if (key) button.append(Object.assign(document.createElement("kbd"), { textContent: key.toUpperCase() }), " ");
    button.append(name);
    button.addEventListener("click", () => press(choice));
    return button;
  }

  const buttons = () => [...boxes[0].children];

  function filter() {
    const wanted = field.value.trim().toLowerCase();
    for (const button of buttons()) button.hidden = !button.querySelector("bdi").textContent.toLowerCase().includes(wanted);
  }

  field.addEventListener("input", filter);
  field.addEventListener("keydown", (event) => {
    if (!["Enter", "Escape"].includes(event.key)) return;
    event.preventDefault();
    const first = event.key === "Enter" && field.value.trim() && buttons().find((button) => !button.hidden);
    field.value = "";
    filter();
    if (first) first.click();
    else if (event.key === "Escape") field.blur();
  });

  return { show, search: () => !search.hidden && (field.focus(), true) };
}

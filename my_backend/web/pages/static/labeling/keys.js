// Which key stands for which choice, and what the other keys do.

const RESERVED = { a: "all", m: "like", s: "skip", z: "zoom" };
const OTHERS = {
  Enter: "label", Backspace: "undo", Escape: "leave", "/": "search", "+": "larger", "=": "larger", "-": "smaller", " ": "take",
};
const MOVES = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", Home: "first", End: "last" };
const LETTERS = "bcdefghijklnopqrtuvwxy";  // without the reserved ones

// A choice whose name is a digit or a letter has that key; the others get 1 to 9 and then letters. Returns key → choice.
export function assignKeys(choices) {
  const keys = new Map();
  for (const choice of choices) {
    const key = choice.toLowerCase();
    if (`0123456789${LETTERS}`.includes(key) && key.length === 1 && !keys.has(key)) keys.set(key, choice);
  }
  const named = new Set(keys.values());
  const free = [...`123456789${LETTERS}`].filter((key) => !keys.has(key));
  for (const choice of choices) if (!named.has(choice) && free.length) keys.set(free.shift(), choice);
  return keys;
}

// Calls `act(action, event)`, or `choose(key)`; returns whether the key was used.
export function listen(isActive, act, choose) {
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    const undo = (event.ctrlKey || event.metaKey) && !event.shiftKey && key.toLowerCase() === "z";
    if (!isActive() || target.closest("input, textarea, select") || event.altKey) return;
    if ((event.ctrlKey || event.metaKey) && !undo) return;
    if ((key === "Enter" || key === " ") && target.closest("button, a, summary")) return;  // the key presses that element
    const action = undo ? "undo" : RESERVED[key.toLowerCase()] ?? OTHERS[key] ?? MOVES[key];
    if (event.repeat && !(key in MOVES)) return event.preventDefault();  // a key held down must not label the next group
    if (action ? act(action, event) : choose(key.toLowerCase())) event.preventDefault();
  });
}

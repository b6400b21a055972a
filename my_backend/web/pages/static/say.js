// Shows messages: one appears for as long as people need to read it, and screen readers read it aloud.

const SHORTEST = 6000, FOR_EACH_CHARACTER = 70;  // milliseconds

let hiding;

// If `lasts`, the message stays until the next one.
export function say(words, lasts = false) {
  const place = document.getElementById("said");
  showText(place, words);
  place.classList.add("shown");
  clearTimeout(hiding);
  if (lasts) return;
  hiding = setTimeout(() => place.classList.remove("shown"), Math.max(SHORTEST, FOR_EACH_CHARACTER * words.length));
}

export const isSaying = () => document.getElementById("said").classList.contains("shown");

// Shows a text in `place`, with its parts between backticks formatted as code.
export function showText(place, words) {
  const parts = words.split("`");
  if (parts.length % 2 === 0) return place.replaceChildren(words);  // a backtick has no partner
  place.replaceChildren(...parts.map((part, index) =>
    index % 2 ? Object.assign(document.createElement("code"), { textContent: part }) : part));
}

// A name in a text: otherwise, a number after a right-to-left name would be shown as part of it.
export const isolated = (name) => `\u2068${name}\u2069`;

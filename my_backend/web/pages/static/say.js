// Shows messages: a short one appears for a few seconds, and screen readers read it aloud.

let hiding;

export function say(words) {
  const place = document.getElementById("said");
  showText(place, words);
  place.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => place.classList.remove("shown"), 6000);
}

// Shows a text in `place`, with its parts between backticks formatted as code.
export function showText(place, words) {
  const parts = words.split("`");
  if (parts.length % 2 === 0) return place.replaceChildren(words);  // a backtick has no partner
  place.replaceChildren(...parts.map((part, index) =>
    index % 2 ? Object.assign(document.createElement("code"), { textContent: part }) : part));
}

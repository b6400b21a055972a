// A short sentence for everyone: shown for some seconds, and read aloud by screen readers.

let hiding;

export function say(words) {
  const place = document.getElementById("said");
  place.textContent = words;
  place.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => place.classList.remove("shown"), 6000);
}

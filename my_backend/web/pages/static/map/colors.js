// The colors of the map, from the page's stylesheet: for choices, and for the model's uncertainty.

const CHOICES = 9;  // that have their own color; people, especially if they are color-blind, couldn't tell more colors apart
const STEPS = 32;  // of doubt

export function readColors() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => packed(style.getPropertyValue(name).trim());
  const [sure, unsure] = [read("--sure"), read("--unsure")];
  return {
    ground: read("--ground"), none: read("--none"), faint: read("--line"),
    choices: Array.from({ length: CHOICES }, (_, n) => read(`--choice-${n + 1}`)),
    doubts: Array.from({ length: STEPS }, (_, n) => mixed(sure, unsure, n / (STEPS - 1))),
  };
}

export const ofDoubt = ({ doubts }, doubt) => doubts[Math.min(STEPS - 1, Math.floor(doubt * STEPS))];

// The stylesheet's class for the color of a choice, by its number from 1.
export const classOf = (number) => (number >= 1 && number <= CHOICES ? `color-${number}` : "color-none");

// A color such as #2454c4 as a pixel: red is the lowest byte.
function packed(text) {
  const full = text.length === 4 ? text.replace(/[^#]/g, "$&$&") : text;
  const number = Number.parseInt(full.slice(1), 16);
  return (0xff000000 | ((number & 0xff) << 16) | (number & 0xff00) | (number >>> 16)) >>> 0;
}

function mixed(one, other, share) {
  const part = (shift) => Math.round(((one >>> shift) & 0xff) * (1 - share) + ((other >>> shift) & 0xff) * share) << shift;
  return (0xff000000 | part(0) | part(8) | part(16)) >>> 0;
}

// The legend of the map's colors: each button has the number of a choice's images, and shows only these.

import { number } from "../labeling/view.js";
import { classOf, ofDoubt } from "./colors.js";
import { OTHER } from "./points.js";

const WORDS = { label: ["No label", "Other labels"], proposal: ["No prediction", ""] };

// `changed()` is called when the images to show, or their colors, have changed.
export function makeLegend(place, list, changed) {
  let only = null;  // the number of the only choice that is shown
  // What the colors stand for. Browsers restore it with the page, without a `change` event.
  const by = () => place.querySelector(":checked").value;

  place.addEventListener("change", () => {
    only = null;
    changed();
  });

  const columnOf = (points) => (by() === "proposal" ? points.proposals : points.labels);
  const isShown = (points) => {
    const column = columnOf(points);
    return (n) => only === null || column[n] === only;
  };

  // What the canvas shows: a color for each point, and the order in which they are drawn. Labeled ones are on top.
  function paint(points, colors) {
    const column = columnOf(points), shows = isShown(points), isDoubt = by() === "doubt", styles = new Uint32Array(points.count);
    const ranks = [[], [], []];
    for (let n = 0; n < points.count; n += 1) {
      const isThere = shows(n);
      styles[n] = !isThere ? colors.faint
        : isDoubt ? (points.proposals[n] ? ofDoubt(colors, points.doubts[n]) : colors.none)
        : colors.choices[column[n] - 1] ?? (only ? colors.choices[0] : colors.none);
      ranks[isThere ? 1 + (points.labels[n] > 0) : 0].push(n);
    }
    return { points, styles, order: Uint32Array.from(ranks.flat()), isFull: (n) => points.labels[n] > 0, colors };
  }

  function draw(points, choices) {
    const counts = new Map();
    for (const value of columnOf(points)) counts.set(value, (counts.get(value) ?? 0) + 1);
    const isDoubt = by() === "doubt", [none, others] = WORDS[by()] ?? [];
    const rows = isDoubt ? [] : [...choices.map((name, n) => [n + 1, name]), [0, none], [OTHER, others]];
    const focused = document.activeElement?.dataset.number;
    list.replaceChildren(...rows.filter(([n]) => counts.get(n)).map(([n, name]) => makeRow(n, name, counts.get(n))));
    list.querySelector(`[data-number="${focused}"]`)?.focus();
    document.getElementById("map-doubt").hidden = !isDoubt;
  }

  function makeRow(value, name, count) {
    const [row, button, swatch, words, total] = ["li", "button", "span", "bdi", "span"].map((tag) => document.createElement(tag));
    const isSpecial = only === value && value > 0 && classOf(value) === "color-none";  // it gets a color while it is the only one shown
    swatch.className = `swatch ${value ? `full ${isSpecial ? "color-1" : classOf(value)}` : ""}`;
    [words.textContent, total.textContent, total.className] = [name, number(count), "number muted"];
    Object.assign(button, { type: "button", className: "quiet", ariaPressed: String(only === value) });
    button.dataset.number = value;
    button.addEventListener("click", () => {
      only = only === value ? null : value;
      changed();
    });
    button.append(swatch, words, total);
    row.append(button);
    return row;
  }

  return { paint, draw, isShown };
}

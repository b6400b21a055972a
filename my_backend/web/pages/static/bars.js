// Draws a share from 0 to 1 as a bar.

export function drawn(share) {
  const [svg, rect] = ["svg", "rect"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  svg.classList.add("share");
  for (const [attribute, value] of [["width", `${100 * share}%`], ["height", "100%"], ["rx", "4"]]) rect.setAttribute(attribute, value);
  svg.append(rect);
  return svg;
}

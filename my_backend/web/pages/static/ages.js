// Shows times as "3 min. ago", with the full time as a tooltip.

const words = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
const units = [["day", 86400], ["hour", 3600], ["minute", 60]];

function age(seconds) {
  const [unit, size] = units.find(([, size]) => seconds >= size) ?? ["second", 1];
  return unit === "second" ? "just now" : words.format(-Math.floor(seconds / size), unit);
}

export function tellAges(root) {
  for (const time of root.querySelectorAll("time[data-ago]")) {
    const then = new Date(time.dateTime);
    time.textContent = age((Date.now() - then) / 1000);
    time.title = then.toLocaleString();
  }
}

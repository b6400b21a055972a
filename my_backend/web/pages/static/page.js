// Keeps the page up to date and makes its buttons work. Without JavaScript, the page is still readable.

import { follow } from "./live.js";
import { press } from "./press.js";
import { tellAges } from "./ages.js";
import { tryImages } from "./try.js";

document.documentElement.classList.add("scripted");
tellAges(document);
press(follow(awaken));
awaken();

// The form for trying an image appears with the first version, possibly while the page is open.
function awaken() {
  const place = document.getElementById("try");
  if (!place || place.dataset.awake) return;
  place.dataset.awake = "yes";
  tryImages(place);
}

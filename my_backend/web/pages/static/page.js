// Keeps the page as it is on the server, and gives its buttons something to do. Without it the page can still be read.

import { follow } from "./live.js";
import { press } from "./press.js";
import { tellAges } from "./ages.js";
import { tryImages } from "./try.js";

document.documentElement.classList.add("scripted");
tellAges(document);
press(follow(awaken));
awaken();

// The form to try an image comes with the first version, perhaps while the page is open.
function awaken() {
  const place = document.getElementById("try");
  if (!place || place.dataset.awake) return;
  place.dataset.awake = "yes";
  tryImages(place);
}

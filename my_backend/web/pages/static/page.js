// Keeps the page up to date and makes its buttons work. Without JavaScript, the page is still readable.

import { labelInGroups } from "./groups.js";
import { labelOnMap } from "./map.js";
import { labelOneByOne } from "./queue.js";
import { follow } from "./live.js";
import { press } from "./press.js";
import { settle } from "./settle.js";
import { tellAges } from "./ages.js";
import { tryImages } from "./try.js";

document.documentElement.classList.add("scripted");
tellAges(document);
press(follow(awaken));
awaken();

// The form for trying an image appears with the first version, and the next image to check after each answer.
function awaken() {
  settle();
  for (const [id, start] of [["try", tryImages], ["groups", labelInGroups], ["map", labelOnMap], ["queue", labelOneByOne]]) {
    const place = document.getElementById(id);
    if (!place || place.dataset.awake) continue;
    place.dataset.awake = "yes";
    start(place);
  }
}

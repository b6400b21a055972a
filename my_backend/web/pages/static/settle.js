// Ignores presses until the image that they are about is shown: until then, they were meant for the last image.

const SETTLING = 300;  // milliseconds after an image appears

let last;

// An element with the attribute `data-settles` has one image, and buttons that are about it.
export function settle() {
  const place = document.querySelector("[data-settles]"), picture = place?.querySelector("img");
  if (!picture || picture === last) return;
  last = picture;
  place.setAttribute("aria-busy", "true");
  Promise.all([picture.decode().catch(() => {}), new Promise((done) => setTimeout(done, SETTLING))]).then(() => {
    if (picture === last) place.removeAttribute("aria-busy");
  });
}

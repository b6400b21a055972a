// The key of this tab, by which the server shows each person other images. It stays if the page is loaded again.

const NAME = "page";

// Browsers offer crypto.randomUUID only over HTTPS.
export const randomKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export const page = stored();

function stored() {
  try {
    if (!sessionStorage.getItem(NAME)) sessionStorage.setItem(NAME, randomKey());
    return sessionStorage.getItem(NAME);
  } catch {
    return randomKey();  // the browser stores nothing
  }
}

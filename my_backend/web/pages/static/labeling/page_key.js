// This tab’s random key: tabs with different keys get different images. It stays the same after a reload.

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

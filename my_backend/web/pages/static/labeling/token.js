// The person's own Label Studio token. Only this module has it, and only until the page is left.

// `place` is the element of the page that says whether a token is needed. `changed()` is called when there is a token.
export function makeToken(place, changed) {
  const find = (id) => document.getElementById(id);
  let token = "";

  find("own-token").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    token = find("own-token-value").value.trim();
    find("own-token-value").value = "";
    find("own-token-state").textContent = "Your token is in use until you leave this page.";
    find("own-token").open = false;
    changed();
  });

  return {
    value: () => token,
    isMissing: () => place.dataset.token === "needed" && !token,
    ask: () => (find("own-token").open = true),
  };
}

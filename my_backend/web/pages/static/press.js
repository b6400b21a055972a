// Sends requests to the API, and makes buttons work that change something: they post, show the result, and refresh the page.

import { say } from "./say.js";

const UNREACHED = "Can’t reach the backend. Check that it is running and that you are online, then try again.";

const KEPT_ALIVE = 20000;  // characters; browsers refuse requests that outlive the page if they have more than 65,536 bytes

// With the option `keepalive`, the request goes on if the page is closed, unless it is too large. It may reach the server twice.
export function post(path, body, { keepalive = false } = {}) {
  const form = body instanceof FormData;
  const content = form ? body : JSON.stringify(body ?? {});
  const send = () => request(path, {
    method: "POST",
    headers: form ? { Accept: "application/json" } : { "Content-Type": "application/json", Accept: "application/json" },
    body: content,
    keepalive: keepalive && content.length < KEPT_ALIVE,
  });
  return keepalive ? untilAnswered(send) : send();
}

// If a person leaves the page and comes back to it, Firefox and Safari drop the answers to such requests.
function untilAnswered(send) {
  const answered = new AbortController();
  return new Promise((done, failed) => {
    const attempt = () => send().then(done, failed);
    window.addEventListener("pageshow", ({ persisted }) => persisted && attempt(), { signal: answered.signal });
    attempt();
  }).finally(() => answered.abort());
}

export function get(path) {
  return request(path, { headers: { Accept: "application/json" } });
}

// If the page was opened as http://user:password@host, browsers refuse requests for relative URLs.
async function request(path, options) {
  const answer = await fetch(location.origin + path, options).catch(() => { throw new Error(UNREACHED); });
  return read(answer);
}

async function read(answer) {
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(said.error ?? `The backend answered with status ${answer.status}.`), { status: answer.status });
  return said;
}

export function press(look) {
  document.addEventListener("click", async (event) => {
    if (event.detail > 1) return;  // the second click of a double-click may be on what the first one has put there
    const button = event.target.closest("button[data-post]");
    if (!button || button.getAttribute("aria-disabled") === "true" || button.closest("[aria-busy=true]")) return;
    button.setAttribute("aria-disabled", "true");
    try {
      const token = document.getElementById(button.dataset.token)?.value.trim();  // the person's own, kept nowhere else
      await post(button.dataset.post, { ...JSON.parse(button.dataset.body ?? "{}"), ...(token && { token }) });
      say(button.dataset.said);
      if (button.dataset.then) return location.assign(button.dataset.then);  // what this page shows no longer exists
    } catch (error) {
      say(error.message);
    }
    button.removeAttribute("aria-disabled");
    look();
  });
}

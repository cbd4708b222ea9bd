// Requests to the server: the token, a busy server, a server that has gone away.

const status = document.getElementById("status");
const tokenForm = document.getElementById("token");
const tokenField = document.getElementById("token-field");
let token = sessionStorage.getItem("token") ?? "";
let waiting = [];

export class RequestError extends Error {}

export function say(message) {
  if (status.textContent !== message) status.textContent = message;
}

tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  token = tokenField.value;
  sessionStorage.setItem("token", token);
  tokenForm.hidden = true;
  for (const go of waiting.splice(0)) go();
});

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

// Send a request, again and again while the server is busy or away; return the JSON of the response.
export async function ask(path, content, signal) {
  for (let attempt = 0; ; attempt++) {
    signal?.throwIfAborted();
    let response;
    try {
      const headers = token ? { authorization: `Bearer ${token}` } : {};
      const body = content === undefined ? undefined : JSON.stringify(content);
      if (body !== undefined) headers["content-type"] = "application/json";
      response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body, signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      say("The server does not respond. Trying again …");
      await pause(Math.min(500 * 2 ** attempt, 5000), signal);
      continue;
    }
    if (response.status === 401) {
      say("This server needs its token.");
      tokenForm.hidden = false;
      tokenField.focus();
      await new Promise((resolve) => waiting.push(resolve));
      continue;
    }
    if (response.status === 503) {
      say("The server is busy. Trying again …");
      await pause(1000 * Number(response.headers.get("retry-after") ?? 1), signal);
      continue;
    }
    const found = await response.json();
    if (!response.ok) {
      say(found.error);
      throw new RequestError(found.error);
    }
    say("");
    return found;
  }
}

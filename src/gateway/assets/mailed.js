"use strict";
// The pages behind mailed links. Opening one changes nothing: only the button uses the token up.

const WORDS = {
  en: {},
  de: {
    verify_title: "Adresse bestätigen",
    verify_text: "Eine Mail zu einem neuen Konto hat Sie hierher geführt. Bestätigen Sie, dass die Adresse Ihnen gehört.",
    verify_button: "Adresse bestätigen",
    verify_done: "Ihre Adresse ist bestätigt. Sie können sich jetzt anmelden.",
    verify_dead: "Dieser Link wurde schon benutzt oder ist abgelaufen. Wenn Sie sich noch nicht anmelden können, registrieren Sie sich noch einmal, um einen neuen zu bekommen.",
    reset_title: "Neues Passwort setzen",
    reset_label: "Neues Passwort",
    reset_hint: "Mindestens 8 Zeichen und nicht leicht zu erraten.",
    reset_weak: "Dieses Passwort ist zu leicht zu erraten oder zu kurz.",
    reset_show: "Passwort anzeigen",
    reset_button: "Passwort setzen",
    reset_done: "Ihr Passwort ist geändert, und Sie sind überall abgemeldet. Melden Sie sich mit dem neuen an.",
    reset_dead: "Dieser Link wurde schon benutzt oder ist abgelaufen. Fordern Sie einen neuen an.",
    broken: "Dieser Link ist nicht vollständig. Öffnen Sie ihn noch einmal aus der Mail.",
    busy: "Zu viele Versuche. Bitte in {seconds} Sekunden noch einmal.",
    failed: "Das ging gerade nicht. Bitte noch einmal versuchen.",
  },
};
const ENGLISH = {
  verify_done: "Your address is confirmed. You can sign in now.",
  verify_dead: "This link was used already or has expired. If you cannot sign in yet, sign up again to get a new one.",
  reset_done: "Your password is changed, and you are signed out everywhere. Sign in with the new one.",
  reset_dead: "This link was used already or has expired. Ask for a new one.",
  broken: "This link is not whole. Open it once more from the mail.",
  busy: "Too many tries. Please try again in {seconds} seconds.",
  failed: "That did not work just now. Please try again.",
};

const language = navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => tag in WORDS) ?? "en";
const word = (name) => WORDS[language][name] ?? ENGLISH[name];
const does = document.querySelector("main").dataset.does;
const form = document.querySelector("form");
const outcome = document.getElementById("outcome");
const password = document.getElementById("password");
const hint = document.getElementById("hint");

// Out of the address bar and the history at once.
const token = new URLSearchParams(location.search).get("token") ?? "";
history.replaceState(null, "", location.pathname);

function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-word]")) {
    element.textContent = word(element.dataset.word) ?? element.textContent;
  }
  document.title = document.querySelector("h1").textContent;
}

function say(text, kind, formStays) {
  form.hidden = !formStays;
  outcome.hidden = false;
  outcome.className = kind;
  outcome.textContent = text;
  if (!formStays) outcome.focus();
}

// A body sent again after a lost answer is the same request.
const keys = new Map();
function keyOf(body) {
  if (!keys.has(body)) {
    const random = crypto.getRandomValues(new Uint8Array(16));
    keys.set(body, Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join(""));
  }
  return keys.get(body);
}

function post(path, members) {
  const body = JSON.stringify(members);
  const headers = { "Content-Type": "application/json", "Idempotency-Key": keyOf(body) };
  return fetch(path, { method: "POST", headers, body, credentials: "omit", cache: "no-store" });
}

// Confirming signs in; this page has no use for that session and leaves none behind.
async function signOut(answer) {
  const { access_token } = await answer.json();
  const headers = { Authorization: `Bearer ${access_token}` };
  await fetch("/v1/sessions/current", { method: "DELETE", headers, credentials: "omit" });
}

async function refused(answer) {
  if (answer.status === 429) return say(word("busy").replace("{seconds}", answer.headers.get("Retry-After") ?? "60"), "bad", true);
  const problem = await answer.json().catch(() => ({}));
  const at = (problem.errors ?? []).map((error) => error.pointer);
  if (at.includes("/token")) return say(word(`${does}_dead`), "bad", false);
  const weak = (problem.errors ?? []).find((error) => error.pointer === "/new_password");
  if (!weak) return say(word("failed"), "bad", true);
  password.setAttribute("aria-invalid", "true");
  hint.className = "hint bad";
  hint.textContent = language === "en" ? `This password ${weak.detail}.` : word("reset_weak");
  password.focus();
}

async function submit() {
  outcome.hidden = true;
  const answer = does === "verify"
    ? await post("/v1/signup/verify", { token })
    : await post("/v1/password/reset", { token, new_password: password.value });
  if (!answer.ok) return refused(answer);
  say(word(`${does}_done`), "good", false);
  if (does === "verify") await signOut(answer);
}

translate();
form.hidden = false;
if (!token) say(word("broken"), "bad", false);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  submit().catch(() => say(word("failed"), "bad", true)).finally(() => { button.disabled = false; });
});
document.getElementById("shown")?.addEventListener("change", (event) => {
  password.type = event.target.checked ? "text" : "password";
});

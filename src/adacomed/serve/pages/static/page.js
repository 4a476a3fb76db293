"use strict";
// Makes pages quicker to use; each works without it, as every action is a link or a form.
//   data-swap="ID" on a form or a link: fetch its address and put the answer into #ID.
//   data-row on links: arrow keys go from one to the next.
//   class "drop": files may be dropped on the file input inside.
const said = document.getElementById("said");
let asked = null;

// The server answers a request with X-Partial with the part of the page that changes.
async function swap(id, address, { push = true } = {}) {
  const place = document.getElementById(id);
  if (asked) asked.abort();
  const mine = asked = new AbortController();
  place.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(address, { headers: { "X-Partial": id }, signal: mine.signal });
    if (!answer.ok || answer.redirected) { location.assign(address); return; }
    const text = await answer.text();  // before asking who has the focus, or it is taken back
    const focused = place.contains(document.activeElement) ? document.activeElement.id : "";
    place.innerHTML = text;
    if (push) history.pushState({ swap: id }, "", address);
    if (focused) (document.getElementById(focused) || place.querySelector("a")).focus();
    const told = place.querySelector("[data-said]");
    said.textContent = told ? told.dataset.said : "";
  } catch (error) {
    if (error.name !== "AbortError") said.textContent = "The server does not answer; try again.";
  } finally {
    if (asked === mine) place.removeAttribute("aria-busy");
  }
}

// What is usual is left out, as the server does: a choice's first option, except ids from the last.
function addressOf(form) {
  const usual = (name) => form.elements[name].selectedIndex === 0;
  const turned = (name) => name === "order" && form.elements.sort.value === "id";
  const told = [...new FormData(form)].filter(([name, value]) => value !== "" && (!usual(name) || turned(name)));
  const query = new URLSearchParams(told).toString();
  return form.getAttribute("action") + (query ? `?${query}` : "");
}

for (const form of document.querySelectorAll("form[data-swap]")) {
  let wait = 0;
  const go = () => swap(form.dataset.swap, addressOf(form));
  form.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(wait); go(); });
  form.addEventListener("input", (event) => {
    clearTimeout(wait);
    if (event.target.name === "sort") form.elements.order.value = event.target.value === "id" ? "asc" : "desc";
    wait = setTimeout(go, event.target.type === "search" ? 250 : 0);
  });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-swap]");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  event.preventDefault();
  swap(link.dataset.swap, link.getAttribute("href")).then(remember);
});

// The form says what the address says, after a sort by a column's head, or a step back.
function remember() {
  const told = new URLSearchParams(location.search);
  for (const form of document.querySelectorAll("form[data-swap]")) {
    for (const field of form.elements) {
      if (!field.name) continue;
      const usual = field.tagName === "SELECT" ? field.options[0].value : "";
      field.value = told.has(field.name) ? told.get(field.name) : usual;
    }
    if (!told.has("order") && told.get("sort") === "id" && form.elements.order) form.elements.order.value = "asc";
  }
}

addEventListener("popstate", (event) => {
  const form = document.querySelector("form[data-swap]");
  if (!form) return;
  remember();
  swap(form.dataset.swap, location.pathname + location.search, { push: false });
});

document.addEventListener("keydown", (event) => {
  const here = document.activeElement;
  if (event.key === "Escape" && here.type === "search" && here.value) {
    event.preventDefault();
    here.value = "";
    here.dispatchEvent(new Event("input", { bubbles: true }));
    return;
  }
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const rows = [...document.querySelectorAll("a[data-row]")];
  const from = rows.indexOf(here);
  if (!rows.length || (from < 0 && !(here.type === "search" && event.key === "ArrowDown"))) return;
  event.preventDefault();
  const next = from + (event.key === "ArrowDown" ? 1 : -1);
  if (next < 0) document.querySelector("input[type=search]").focus();
  else if (next < rows.length) rows[next].focus();
});

for (const place of document.querySelectorAll(".drop")) {
  const input = place.querySelector("input[type=file]");
  const over = (on) => (event) => { event.preventDefault(); place.classList.toggle("over", on); };
  place.addEventListener("dragover", over(true));
  place.addEventListener("dragleave", over(false));
  place.addEventListener("drop", (event) => {
    over(false)(event);
    if (!event.dataTransfer.files.length) return;
    input.files = event.dataTransfer.files;
    said.textContent = `${input.files.length} file${input.files.length > 1 ? "s" : ""} chosen`;
  });
}

// Encoders may take seconds: say so, and do not send twice.
for (const form of document.querySelectorAll("form[data-wait]")) {
  form.addEventListener("submit", () => {
    const button = form.querySelector("button[type=submit]");
    said.textContent = form.dataset.wait;
    button.textContent = form.dataset.wait;
    setTimeout(() => { button.disabled = true; }, 0);
  });
}
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

const wrong = document.querySelector(".errors");
if (wrong) wrong.focus();

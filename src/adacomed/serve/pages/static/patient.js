"use strict";
// The patient page: switches that take modalities away, and windows, slices and zoom of images.
// Without it every switch is a form with a button, and each image stands as the file has it.

// ---- switches -----------------------------------------------------------------------------------
function switches(form) {
  const target = document.getElementById("without-result");
  const said = document.getElementById("said");
  let asked = 0;
  async function ask() {
    const mine = ++asked;
    const query = new URLSearchParams(new FormData(form)).toString();
    target.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(`${form.getAttribute("action")}?${query}`,
        { headers: { "X-Partial": "1", Accept: "text/html" }, credentials: "same-origin" });
      const text = await answer.text();
      if (mine !== asked) return;  // a later switch has been turned since
      const part = new DOMParser().parseFromString(text, "text/html");
      const found = part.querySelector("[data-without]");
      if (!answer.ok || !found) throw new Error(`status ${answer.status}`);
      target.replaceChildren(document.adoptNode(found));
      if (said) said.textContent = found.dataset.said || "";
    } catch {
      if (mine !== asked) return;
      const sentence = document.createElement("p");
      sentence.className = "warning";
      sentence.textContent = "The server did not answer; the numbers above are unchanged. Try the switch again.";
      target.replaceChildren(sentence);
      if (said) said.textContent = sentence.textContent;
    } finally {
      if (mine === asked) target.removeAttribute("aria-busy");
    }
  }
  form.addEventListener("change", ask);
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  form.addEventListener("reset", () => setTimeout(ask));
  form.querySelector("button[type=submit]").hidden = true;
  if (form.querySelector("input:checked")) ask();  // the browser has kept a switch over a reload
}

// ---- pictures -----------------------------------------------------------------------------------
function viewer(root) {
  const image = root.querySelector("img");
  const address = image.getAttribute("src");
  const part = (name) => root.querySelector(`[data-set="${name}"]`);
  const centre = part("centre"), width = part("width"), slice = part("slice");
  const plane = part("plane"), invert = part("invert"), zoom = part("zoom");
  const start = { centre: centre.value, width: width.value };
  const slices = JSON.parse(root.dataset.planes || "{}");
  let loading = false, waiting = null;

  function tell() {
    for (const input of root.querySelectorAll("input[type=range]")) {
      const out = root.querySelector(`output[for="${input.id}"]`);
      if (out) out.value = `${Number(input.value).toLocaleString("en-GB", { maximumFractionDigits: 2 })}${out.dataset.unit || ""}`;
    }
  }

  // one request at a time, and always the last one that was asked for: a slider sends hundreds
  function load(url) {
    if (loading) { waiting = url; return; }
    if (image.getAttribute("src") === url) return;
    loading = true;
    root.setAttribute("aria-busy", "true");
    image.src = url;
  }
  function done(failed) {
    loading = false;
    root.removeAttribute("aria-busy");
    root.querySelector(".failed").hidden = !failed;
    if (waiting) { const url = waiting; waiting = null; load(url); }
  }
  image.addEventListener("load", () => done(false));
  image.addEventListener("error", () => done(true));

  function show() {
    tell();
    const query = new URLSearchParams({ centre: centre.value, width: width.value });
    if (slice) { query.set("slice", slice.value); query.set("plane", plane.value); }
    if (invert.checked) query.set("invert", "1");
    if (Number(zoom.value) > 1) query.set("side", "2048");
    load(`${address}?${query}`);
  }

  function scale() {
    image.style.width = zoom.value > 1 ? `${100 * zoom.value}%` : "";
    image.style.maxWidth = zoom.value > 1 ? "none" : "";
    image.style.maxHeight = zoom.value > 1 ? "none" : "";
    show();
  }

  function turn() {
    const count = slices[plane.value];
    slice.max = count - 1;
    slice.value = Math.floor(count / 2);
    show();
  }

  function set(c, w) {
    centre.value = c;
    width.value = w;
    show();
  }

  centre.addEventListener("input", show);
  width.addEventListener("input", show);
  invert.addEventListener("change", show);
  zoom.addEventListener("input", scale);
  if (slice) { slice.addEventListener("input", show); plane.addEventListener("change", turn); }
  for (const button of root.querySelectorAll("[data-centre]"))
    button.addEventListener("click", () => set(button.dataset.centre, button.dataset.width));
  part("reset").addEventListener("click", () => {
    invert.checked = false;
    zoom.value = 1;
    if (slice) { plane.value = "axial"; slice.max = slices.axial - 1; slice.value = Math.floor(slices.axial / 2); }
    centre.value = start.centre;
    width.value = start.width;
    scale();
  });
  drag(image, centre, width, set);
  root.classList.add("live");
  tell();
}

// Across: width; up and down: centre, as on a reading station. A finger scrolls the page instead.
function drag(image, centre, width, set) {
  let from = null;
  image.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" || event.button !== 0) return;
    event.preventDefault();
    image.setPointerCapture(event.pointerId);
    from = { x: event.clientX, y: event.clientY, c: Number(centre.value), w: Number(width.value) };
  });
  image.addEventListener("pointermove", (event) => {
    if (!from) return;
    const span = (Number(width.max) - Number(width.min)) / 400;
    const w = from.w + (event.clientX - from.x) * span;
    set(from.c + (event.clientY - from.y) * span, Math.max(Number(width.min), w));
  });
  for (const end of ["pointerup", "pointercancel"])
    image.addEventListener(end, () => { from = null; });
}

document.querySelectorAll("form.switches").forEach(switches);
document.querySelectorAll(".viewer").forEach(viewer);

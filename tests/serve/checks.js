// What a reader with a screen reader, or with weak eyes, stumbles over; [] where there is nothing.
() => {
  const wrong = [], say = (what, el) => wrong.push(what + ": " + el.outerHTML.slice(0, 120));
  const seen = (el) => el.getClientRects().length > 0 && getComputedStyle(el).visibility !== "hidden";
  const all = (what) => [...document.querySelectorAll(what)].filter((el) => !el.closest(".js-plotly-plot"));
  if (!document.documentElement.lang || !document.title) wrong.push("no language or title");
  if (all("main").length !== 1 || all("h1").length !== 1) wrong.push("not one main and one h1");
  for (const el of all("nav, [role=region]")) if (!el.getAttribute("aria-label")) say("no name", el);
  let level = 0;
  for (const el of all("h1, h2, h3, h4")) {
    const now = Number(el.tagName[1]);
    if (now > level + 1) say("heading skips", el);
    level = now;
  }
  const ids = all("[id]").map((el) => el.id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => wrong.push("twice: #" + id));
  for (const el of all("input, select, textarea")) if (!el.labels.length) say("no label", el);
  for (const el of all("a, button, summary")) if (!el.textContent.trim()) say("no name", el);
  for (const el of all("[aria-describedby]"))
    for (const id of el.getAttribute("aria-describedby").split(" "))
      if (!document.getElementById(id)) say("describes nothing", el);
  for (const el of all("table")) if (!el.caption || !el.caption.textContent.trim()) say("no caption", el);
  for (const el of all("th")) if (!el.scope) say("no scope", el);
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (el) => {
    for (let at = el; at; at = at.parentElement) {
      const found = rgba(getComputedStyle(at).backgroundColor);
      if (found[3] > 250) return found;
    }
    return rgba(getComputedStyle(document.documentElement).getPropertyValue("--page"));
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const el = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !seen(el) || el.closest("svg, script, .unseen, .skip, option")) continue;
    const [a, b] = [light(rgba(getComputedStyle(el).color)), light(behind(el))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) say("contrast " + ratio.toFixed(2), el);
  }
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) wrong.push("scrolls sideways: " + root.scrollWidth);
  return wrong;
}

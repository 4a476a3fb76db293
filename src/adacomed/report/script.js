"use strict";
// Draws every chart from the JSON in #specs; colours come from style.css, so that light, dark and
// print each have their own.
const specs = JSON.parse(document.getElementById("specs").textContent);
const config = { responsive: true, displaylogo: false, displayModeBar: "hover",
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };

function coloured(value) {
  if (typeof value === "string") {
    const name = /^var\((--[a-z0-9-]+)\)$/.exec(value);
    return name ? getComputedStyle(document.documentElement).getPropertyValue(name[1]).trim() : value;
  }
  if (Array.isArray(value)) return value.map(coloured);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, coloured(inner)]));
}

let printing = false;

function draw(id) {
  const chart = document.querySelector(`#${id} .chart`);
  const layout = coloured(specs[id].layout);
  if (printing) {
    const alone = chart.closest(".figures").classList.contains("one");
    layout.width = alone ? 680 : 335;
    layout.height = alone ? layout.height : 300;
  }
  return Plotly.react(chart, coloured(specs[id].data), layout, config);
}

const DASH = { dash: "6 4", dot: "2 3", dashdot: "6 3 2 3", longdash: "9 4" };

function swatch(trace) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const cloud = trace.mode === "markers" || trace.type === "bar";
  const mark = document.createElementNS(svg.namespaceURI, cloud ? "path" : "line");
  const outline = { circle: "M7 6a5 5 0 1 0 10 0a5 5 0 1 0-10 0", diamond: "M12 0l6 6l-6 6l-6-6z" };
  const shape = cloud
    ? { d: outline[trace.marker.symbol] || "M7 1h10v10h-10z", fill: trace.marker.color }
    : { x1: 0, x2: 24, y1: 6, y2: 6, stroke: trace.line.color, "stroke-width": trace.line.width + 0.5,
      "stroke-dasharray": DASH[trace.line.dash] || "none" };
  Object.entries({ width: 24, height: 12, "aria-hidden": true }).forEach((a) => svg.setAttribute(...a));
  // as a style, so that var(--…) follows light and dark by itself
  Object.entries(shape).forEach(([k, v]) => { k === "stroke" || k === "fill" ? mark.style[k] = v : mark.setAttribute(k, v); });
  svg.append(mark);
  return svg;
}

// Buttons, not plotly's own legend: they wrap on a phone and work from the keyboard.
function legend(id) {
  const named = specs[id].data.filter((trace) => trace.meta && trace.meta.legend);
  if (named.length < 2) return;
  const list = document.createElement("ul");
  list.className = "legend";
  for (const trace of named) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", trace.visible !== "legendonly");
    button.append(swatch(trace), trace.meta.legend);
    button.addEventListener("click", () => {
      trace.visible = trace.visible === "legendonly" ? true : "legendonly";
      for (const other of specs[id].data)  // its band comes and goes with the line
        if (other.meta && other.meta.band === trace.meta.legend) other.visible = trace.visible;
      button.setAttribute("aria-pressed", trace.visible !== "legendonly");
      draw(id);
    });
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  }
  document.querySelector(`#${id} .scroll`).after(list);
}

const drawAll = () => Promise.all(Object.keys(specs).map(draw));
drawAll();
Object.keys(specs).forEach(legend);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
addEventListener("beforeprint", () => { printing = true; drawAll(); });
addEventListener("afterprint", () => { printing = false; drawAll(); });

"use strict";
(() => {
  const root = document.documentElement;
  const toggle = document.getElementById("theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => {
    toggle.textContent = dark() ? "Light" : "Dark";
    toggle.setAttribute("aria-label", dark() ? "Switch to light colours" : "Switch to dark colours");
  };
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    name();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();

  // paper shows all that is folded up
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((part) => part.setAttribute("open", ""));
  });
  addEventListener("afterprint", () => folded.forEach((part) => part.removeAttribute("open")));

  const slider = document.getElementById("ratio");
  if (!slider) return;
  const steps = JSON.parse(document.getElementById("steps").textContent);
  const cells = [...document.querySelectorAll("[data-cell]")];
  const plot = document.querySelector("#costs svg.plot");
  const add = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    plot.append(element);
    return element;
  };
  const line = add("line", { class: "marker", y1: steps.top, y2: steps.bottom });
  const dots = Object.keys(steps.y).map((model) => [model, add("circle", { class: `dot ${model}`, r: 5 })]);
  const show = () => {
    const at = Number(slider.value);
    for (const cell of cells) cell.textContent = steps.texts[at][cell.dataset.cell];
    slider.setAttribute("aria-valuetext", steps.texts[at].size);
    line.setAttribute("x1", steps.x[at]);
    line.setAttribute("x2", steps.x[at]);
    for (const [model, dot] of dots) {
      dot.setAttribute("cx", steps.x[at]);
      dot.setAttribute("cy", steps.y[model][at]);
    }
  };
  const back = document.getElementById("now");
  slider.disabled = back.disabled = false;
  slider.value = steps.now;
  slider.addEventListener("input", show);
  back.addEventListener("click", () => {
    slider.value = steps.now;
    show();
  });
  show();
})();
